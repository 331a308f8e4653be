"""tokenizer.json as a stranger wrote it: refused before the tokenizers library builds anything.

The library compiles any pattern and runs it on every prompt, and a step that puts text into another
can make gigabytes of a sentence. So the steps have to be CLIP's own, and those that spell out the
tokens of an embedding of several vectors.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from runtimes.bundle.ranges import Entries, Range, Text, shown
from runtimes.bundle.typed_json import decode
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.errors import RunError

# CLIP's words: contractions, runs of letters, single digits, runs of other signs.
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
SPACES = r"\s+"
# CLIP's largest file has 3.6 MB and 200,000 values, for 49,408 tokens.
MOST_BYTES, MOST_VALUES, MOST_TOKENS = 6_000_000, 400_000, 100_000
TokenId = Annotated[int, Range(0, MOST_TOKENS)]
Words = Annotated[dict[Annotated[str, Text(0, 500)], TokenId], Entries(0, MOST_TOKENS)]
# What each part may be made of.
_STEPS = {
    "normalizer": ("Sequence", "NFC", "Replace", "Lowercase"),
    "pre_tokenizer": ("Sequence", "Split", "ByteLevel"),
    "post_processor": ("Sequence", "RobertaProcessing", "TemplateProcessing", "ByteLevel"),
    "decoder": ("Sequence", "Replace", "ByteLevel"),
}
# A word as it is, unless one of its own tokens begins there: exporter/formats/clip_bpe.py.
_EXPANDED = re.compile(
    r"(?:[^\\^$.|?*+()\[\]{}]|\\[^A-Za-z0-9])+\(\?!_\(\?:[0-9|]+\)\(\?!\[0-9\]\)\)", re.DOTALL
)
_MOST_EXPANDED, _MOST_CONTENT = 100, 20_000  # such words, and characters of all tokens of one


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json that may be built: its text, and the same parsed."""

    text: str
    value: dict[str, Any]


def read_tokenizer(path: Path) -> TokenizerFile:
    """A tokenizer.json with no step but CLIP's; RunError with what is wrong for any other."""
    try:
        data = read_regular(path, MOST_BYTES)
        value = parse_json(data, MOST_VALUES)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds no JSON object")
    for fault in _faults(value):
        raise RunError(f"{path} is no tokenizer of CLIP's kind: {fault}")
    decode(Words, value["model"].get("vocab"), f"{path}: 'vocab'")
    return TokenizerFile(data.decode("utf-8"), value)


def _faults(value: dict[str, Any]) -> Iterator[str]:
    model, added = value.get("model"), value.get("added_tokens", [])
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind != "BPE":
        yield f"its model has type {shown(kind)}, CLIP's 'BPE'"
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        yield "its added_tokens are no list of objects"
    for part, steps in _STEPS.items():
        for step in _steps(value.get(part)):
            if step.get("type") not in steps:
                yield f"its {part} differs from CLIP's ({shown(step.get('type'))})"
            elif not _is_known(part, _regex(step)):
                yield f"its {part} differs from CLIP's (pattern {shown(_regex(step))})"
    yield from _replacing(list(_steps(value.get("normalizer"))))


def _is_known(part: str, pattern: Any) -> bool:
    """Whether a regular expression is one that CLIP's has there; None for no expression."""
    if part != "normalizer":
        return pattern in (None, WORDS)
    return pattern in (None, SPACES) or _EXPANDED.fullmatch(str(pattern)) is not None


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Every step of a part, those inside of sequences too."""
    inside = part if isinstance(part, list) else ()
    if isinstance(part, dict):
        yield part
        inside = [value for value in part.values() if isinstance(value, list)]
        inside = [v for values in inside for v in values if isinstance(v, dict) and "type" in v]
    for step in inside:
        yield from _steps(step)


def _regex(step: dict[str, Any]) -> Any:
    pattern = step.get("pattern")
    return pattern.get("Regex") if isinstance(pattern, dict) else None


def _replacing(steps: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the texts that are put in for others."""
    contents = [step.get("content", "") for step in steps if step.get("type") == "Replace"]
    if len(contents) > _MOST_EXPANDED:
        yield f"its normalizer replaces {len(contents)} words"
    for content in contents:
        if not isinstance(content, str) or len(content) > _MOST_CONTENT:
            yield "its normalizer puts in more than 20,000 characters for a word"
