"""What each file of a checkpoint's tokenizer says: config, words, merges, CLIP's settings.

Files that contradict each other are refused.
"""

from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any

from tokenizers import Tokenizer

from exporter.checkpoint.ranges import checked
from exporter.checkpoint.reading import read_json, read_text, refuse_pointer
from exporter.formats.clip_bpe import END_OF_WORD, Vocabulary, build, state
from runtimes.bundle.ranges import shown
from runtimes.bundle.tokenizer_file import MOST_BYTES, MOST_TOKENS, Words, read_tokenizer
from runtimes.errors import RunError, UsageError, one_line

# All files that decide which ids a prompt has.
FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# What CLIPTokenizerFast takes where tokenizer_config.json does not say.
SPECIAL_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# What of a config is looked into, and what it may be.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(SPECIAL_TOKENS, (str, dict)),
    **dict.fromkeys(("sep_token", "cls_token", "mask_token"), (str, dict)),
    "added_tokens_decoder": (dict,),
    "additional_special_tokens": (list,),
    "extra_special_tokens": (list, dict),
}
# Settings of tokenizer.json's model that change ids, as CLIP has them.
_MODEL = {
    "type": ("BPE",),
    "end_of_word_suffix": (END_OF_WORD,),
    "continuing_subword_prefix": ("", None),
    "dropout": (None, 0.0),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed as transformers does."""
    config = SPECIAL_TOKENS | _read(folder / "tokenizer_config.json")
    path = folder / "special_tokens_map.json"
    # As in transformers: the map counts only beside configs of before it wrote added tokens.
    if "added_tokens_decoder" not in config and path.exists():
        also = _read(path)
        key = "additional_special_tokens"
        config |= also | {key: [*listed_tokens(config, key), *listed_tokens(also, key)]}
    if config.get("split_special_tokens"):
        raise UsageError(f"{folder}/tokenizer_config.json: split_special_tokens is not supported")
    for key in SPECIAL_TOKENS:
        if not isinstance(content_of(config[key]), str):
            raise UsageError(
                f"{folder}/tokenizer_config.json: {key} is {shown(config[key])}, no token"
            )
    return config


def _read(path: Path) -> dict[str, Any]:
    """A config or special tokens, whose values are of the kinds that transformers writes.

    UsageError for others.
    """
    config = read_json(path)
    for key, kinds in _KINDS.items():
        if not isinstance(config.get(key), (*kinds, NoneType)):
            raise UsageError(f"{path}: '{key}' is {shown(config[key])}, of another kind of value")
    return config


def listed_tokens(config: dict[str, Any], key: str) -> list[Any]:
    """Tokens that a config lists; transformers 4 writes `extra_special_tokens` by name."""
    value = config.get(key) or []
    return list(value.values()) if isinstance(value, dict) else list(value)


def content_of(token: Any) -> Any:
    """The text of a token, which files spell as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def read_words(folder: Path) -> dict[str, int]:
    """vocab.json: the id of each word."""
    path = folder / "vocab.json"
    vocab: dict[str, int] = checked(Words, read_json(path, MOST_BYTES), str(path))
    return vocab


def read_merges(folder: Path) -> tuple[tuple[str, str], ...]:
    """merges.txt: the pairs of symbols to join, the most frequent first."""
    path = folder / "merges.txt"
    text = read_text(path, MOST_BYTES)
    if (count := text.count("\n")) > MOST_TOKENS:
        raise UsageError(f"{path} has {count} lines, more than {MOST_TOKENS}")
    lines = [line for line in text.split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.split()) for line in lines]
    bad = [line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2]
    if bad:
        raise UsageError(f"{path}: {shown(bad[0])} is no pair of symbols")
    return tuple((first, second) for first, second in pairs)


def read_serialized(path: Path) -> dict[str, Any]:
    """tokenizer.json as it is written; UsageError for what no tokenizer of CLIP's kind has."""
    refuse_pointer(path)
    try:
        return read_tokenizer(path).value
    except RunError as error:
        raise UsageError(str(error)) from None


def read_clip_model(path: Path) -> dict[str, Any]:
    """The model of a tokenizer.json; UsageError where it would not tokenize as CLIP's does."""
    try:
        serialized = state(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises nothing more specific
        reason = one_line(error)
        raise UsageError(f"{path}: the tokenizers library cannot read it ({reason})") from None
    model: dict[str, Any] = serialized["model"]
    for key, allowed in _MODEL.items():
        if model.get(key) not in allowed:
            raise UsageError(
                f"{path} is no tokenizer of CLIP's kind: its model has {key} "
                f"{shown(model.get(key))}, "
                f"CLIP's {allowed[0]!r}"
            )
    clip = state(build(Vocabulary(path.parent, {"": 0}, (), (), "", "", "", "")))
    for key in ("normalizer", "pre_tokenizer"):
        if _decisive(serialized[key]) != _decisive(clip[key]):
            raise UsageError(
                f"{path} is no tokenizer of CLIP's kind: its {key} differs from CLIP's (NFC, one "
                "space, lower case; words, byte level)"
            )
    return model


def _decisive(part: Any) -> Any:
    """A part of tokenizer.json without the settings that change no id."""
    if isinstance(part, dict):
        return {key: _decisive(value) for key, value in part.items() if key != "trim_offsets"}
    return [_decisive(value) for value in part] if isinstance(part, list) else part


def check_older_files(
    folder: Path, vocab: dict[str, int], merges: tuple[tuple[str, ...], ...]
) -> None:
    """UsageError where vocab.json or merges.txt is not what tokenizer.json says."""
    advice = (
        "transformers' fast tokenizer reads the one, its slow tokenizer the other: remove the "
        "file that is not the text encoder's"
    )
    if (folder / "vocab.json").exists():
        older = read_words(folder)
        for token in sorted(vocab.keys() | older.keys()):
            if vocab.get(token) != older.get(token):
                raise UsageError(
                    f"{folder}: {shown(token)} is {vocab.get(token)} in tokenizer.json and "
                    f"{older.get(token)} in vocab.json; {advice}"
                )
    if (folder / "merges.txt").exists() and read_merges(folder) != merges:
        raise UsageError(f"{folder}: tokenizer.json and merges.txt have other merges; {advice}")


def added_tokens_file(folder: Path) -> Iterable[tuple[str, Any]]:
    """added_tokens.json: each token and its id."""
    path = folder / "added_tokens.json"
    return read_json(path).items() if path.exists() else ()
