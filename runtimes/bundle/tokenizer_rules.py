"""What a tokenizer.json means, for hosts without the tokenizers library."""

from pathlib import Path
from typing import Any

from runtimes.bundle.host import AddedToken, Normalization, TokenizerRules
from runtimes.bundle.manifest import Tokenizer
from runtimes.bundle.tokenizer_file import read_tokenizer
from runtimes.errors import RunError

_KINDS = {"NFC": "nfc", "Lowercase": "lowercase", "Replace": "replace"}


def read_rules(file: Path, spec: Tokenizer) -> TokenizerRules:
    """The rules in a tokenizer.json; RunError where it is of another kind than CLIP's."""
    try:
        return _rules(read_tokenizer(file).value, spec)
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{file} is no tokenizer of CLIP's kind ({error!r})") from None


def _rules(value: dict[str, Any], spec: Tokenizer) -> TokenizerRules:
    model, added = value["model"], value["added_tokens"]
    ids = model["vocab"] | {token["content"]: token["id"] for token in added}
    texts = {number: text for text, number in ids.items()}
    split, byte_level = value["pre_tokenizer"]["pretokenizers"]
    if (model["type"], byte_level["type"], split["invert"]) != ("BPE", "ByteLevel", True):
        raise ValueError("no byte-level BPE")
    return TokenizerRules(
        algorithm="byte_level_bpe",
        bos=texts[spec.bos_id],
        eos=texts[spec.eos_id],
        padding=texts[spec.pad_id],
        unknown=model["unk_token"],
        unknown_id=ids[model["unk_token"]],
        normalization=tuple(_step(step) for step in value["normalizer"]["normalizers"]),
        words=split["pattern"]["Regex"],
        end_of_word=model["end_of_word_suffix"],
        added=tuple(AddedToken(**token) for token in added),
        frame=("bos", "tokens", "eos"),
        mask=("bos", "tokens", "eos"),
    )


def _step(step: dict[str, Any]) -> Normalization:
    pattern = step.get("pattern", {}).get("Regex", "")
    return Normalization(_KINDS[step["type"]], pattern, step.get("content", ""))
