"""The tokens that a checkpoint's tokenizer has besides its words, whichever files name them.

Their order, flags and ids are those that transformers' CLIPTokenizerFast gives them.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.checkpoint.tokenizer_files import added_tokens_file, content_of, listed_tokens
from exporter.formats.clip_bpe import Added
from runtimes.bundle.ranges import shown
from runtimes.errors import UsageError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def added_tokens(
    folder: Path, config: dict[str, Any], serialized: dict[str, Any] | None
) -> dict[str, Added]:
    """Every added token by its content; two files may have one."""
    added: dict[str, Added] = {}
    named = {content_of(token): token for token in _special_tokens(folder, config)}
    for file, value, number in _declared(folder, config, serialized, set(named)):
        token = _added(value, number, f"{folder}/{file}")
        if token.content in added:
            token = _merged(added[token.content], token, f"{folder}/{file}")
        added[token.content] = replace(token, special=token.special or token.content in named)
    _check_left_out(folder, added)
    framing = {content_of(config[key]) for key in ("bos_token", "eos_token", "unk_token")}
    for content, value in named.items():
        if content not in added:
            # Those of CLIPTokenizer's own constructor are normalized, others are not.
            normalized = serialized is None and content in framing
            plain = {"content": content, "normalized": normalized}
            token = _added(value if isinstance(value, dict) else plain, None, str(folder))
            added[content] = replace(token, special=True)
    return added


def _merged(first: Added, second: Added, where: str) -> Added:
    """One token of two files. transformers then looks for both: in the text, and in lower case."""
    if first.id != second.id:
        raise UsageError(
            f"{where}: added token {shown(first.content)} has ids {first.id} and {second.id}"
        )
    merged = replace(second, normalized=first.normalized or second.normalized)
    if replace(first, normalized=merged.normalized, special=merged.special) != merged:
        raise UsageError(
            f"{where}: added token {shown(first.content)} has other flags than in tokenizer.json"
        )
    return merged


def _special_tokens(folder: Path, config: dict[str, Any]) -> Iterator[Any]:
    """Special tokens, as strings or objects, in transformers' order."""
    order = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
    named = [config[key] for key in (*order, "mask_token") if config.get(key)]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        named += listed_tokens(config, key)
    for token in named:
        if not isinstance(content_of(token), str):
            raise UsageError(f"{folder}: {shown(token)} is no special token")
        yield token


def _declared(
    folder: Path, config: dict[str, Any], serialized: dict[str, Any] | None, special: set[str]
) -> Iterator[tuple[str, Any, Any]]:
    """(file, token, id) of each added token that has an id, in transformers' order."""
    for token in (serialized or {}).get("added_tokens", []):
        yield "tokenizer.json", token, token.get("id")
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"] or {}
        for key in sorted(decoder, key=lambda key: (len(key), key)):
            yield "tokenizer_config.json", decoder[key], _number(key)
    else:
        for content, number in added_tokens_file(folder):
            normalized = content not in special
            yield "added_tokens.json", {"content": content, "normalized": normalized}, number


def _number(key: str) -> Any:
    """The id that a key of added_tokens_decoder is; the key itself, which is none, otherwise."""
    return int(key) if key.isdecimal() and len(key) < 10 else key


def _added(value: Any, number: Any, where: str) -> Added:
    flags = {key: value[key] for key in _FLAGS if key in value} if isinstance(value, dict) else {}
    content = content_of(value)
    right = isinstance(content, str) and content and all(type(f) is bool for f in flags.values())
    if not right or not (number is None or (type(number) is int and number >= 0)):
        raise UsageError(f"{where}: {shown(value)} with id {shown(number)} is no added token")
    flags.setdefault("normalized", not flags.get("special", False))
    return Added(content, number, **flags)


def _check_left_out(folder: Path, added: dict[str, Added]) -> None:
    """UsageError for a token of added_tokens.json that transformers would not read."""
    for content, number in added_tokens_file(folder):
        if content not in added or added[content].id != number:
            instead = f"id {added[content].id}" if content in added else "no such token"
            raise UsageError(
                f"{folder}: added_tokens.json gives {shown(content)} id {shown(number)}, the files "
                f"that transformers reads instead have {instead}: list it in "
                "tokenizer_config.json's added_tokens_decoder, or remove it"
            )
