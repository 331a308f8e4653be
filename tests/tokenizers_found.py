"""Tokenizer folders and text encoders as they are found, made from the demo checkpoint's."""

import json
import shutil
from pathlib import Path
from typing import Any

import tiny
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, CLIPTokenizerFast

STYLE = "<my-style>"
CONFIG = json.loads((tiny.TOKENIZER / "tokenizer_config.json").read_text(encoding="utf-8"))
SPECIAL_MAP = json.loads((tiny.TOKENIZER / "special_tokens_map.json").read_text(encoding="utf-8"))
DECODER = CONFIG["added_tokens_decoder"]
# Configs of before transformers 4.34 list no added tokens.
OLD_CONFIG = {
    key: value
    for key, value in CONFIG.items()
    if key != "added_tokens_decoder" and not key.endswith("_token")
}
# What transformers 5 writes; a length that is not known is 1e30.
CONFIG_5 = {
    "backend": "tokenizers",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "errors": "replace",
    "extra_special_tokens": [],
    "is_local": True,
    "model_max_length": int(1e30),
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": "<|endoftext|>",
}


def token(content: str, **flags: bool) -> dict[str, Any]:
    """An added token as transformers writes it."""
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False)
    return {"content": content, "normalized": True} | plain | flags


def folder(
    path: Path,
    config: dict[str, Any],
    *,
    special: dict[str, Any] | None = None,
    added: dict[str, Any] | None = None,
) -> Path:
    """vocab.json and merges.txt with other files beside them."""
    path.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tiny.TOKENIZER / name, path / name)
    for name, value in (
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", special),
        ("added_tokens.json", added),
    ):
        if value is not None:
            (path / name).write_text(json.dumps(value), encoding="utf-8")
    return path


def listed(path: Path, *tokens: dict[str, Any], first: int = 616) -> Path:
    """Tokens in tokenizer_config.json, as transformers 4 saves them."""
    also = {str(first + i): value for i, value in enumerate(tokens)}
    return folder(path, CONFIG | {"added_tokens_decoder": DECODER | also}, special=SPECIAL_MAP)


def in_added_tokens_json(path: Path, *contents: str) -> Path:
    """Tokens in added_tokens.json alone, as transformers saved them before 4.34."""
    added = {content: 616 + i for i, content in enumerate(contents)}
    return folder(path, OLD_CONFIG, special=SPECIAL_MAP, added=added)


def saved_slow(path: Path, *tokens: Any) -> Path:
    """What diffusers' training leaves: add_tokens to the slow tokenizer, then save it."""
    tokenizer = CLIPTokenizer.from_pretrained(str(tiny.TOKENIZER))
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(path)
    return path


def saved_fast(path: Path, *tokens: Any) -> Path:
    """The same with the fast tokenizer, which writes tokenizer.json too."""
    tokenizer = CLIPTokenizerFast.from_pretrained(str(tiny.TOKENIZER))
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(path)
    return path


def saved_by_5(path: Path, *tokens: Any, strings: bool = False, **config: Any) -> Path:
    """tokenizer.json and tokenizer_config.json alone; `strings`: merges as "a b", not ["a","b"]."""
    made = saved_fast(path.with_name(f"{path.name}-4"), *tokens)
    path.mkdir()
    value = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))
    if strings:
        value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
    (path / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps(CONFIG_5 | config), encoding="utf-8")
    return path


def used_then_saved_by_5(path: Path) -> Path:
    """Padding and truncation of the last call stay in tokenizer.json."""
    saved_by_5(path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=12, pad_id=615, pad_token="<|endoftext|>")
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON object; dotted names go deeper."""
    value = json.loads(file.read_text(encoding="utf-8"))
    for name, change in changes.items():
        *outer, last = name.split(".")
        at = value
        for key in outer:
            at = at[key]
        at[last] = change
    file.write_text(json.dumps(value), encoding="utf-8")


def without_prefix(text_encoder: Path) -> None:
    """Rename a text encoder's weights as transformers 5 does: no 'text_model.'."""
    (file,) = text_encoder.glob("*.safetensors")
    weights = {name.removeprefix("text_model."): value for name, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
