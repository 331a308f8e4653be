"""A checkpoint tokenizer's whole vocabulary, whichever of its files hold it.

Ids are those of transformers' CLIPTokenizerFast. It takes words, merges and added tokens from
tokenizer.json where there is one (transformers 5 writes no other), else from vocab.json and
merges.txt; then the added tokens of tokenizer_config.json, or, where that lists none, those of
special_tokens_map.json and added_tokens.json. Files that contradict each other are refused: the
slow tokenizer would read the other one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exporter.checkpoint.files import read_json
from exporter.formats.clip_bpe import END_OF_WORD, Added, Vocabulary, build, state
from runtimes.errors import UsageError

# All files that decide which ids a prompt has.
FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_DEFAULTS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Settings of tokenizer.json's model that change ids, as CLIP has them.
_MODEL = {
    "type": ("BPE",),
    "end_of_word_suffix": (END_OF_WORD,),
    "continuing_subword_prefix": ("", None),
    "dropout": (None, 0.0),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}


def read_vocabulary(folder: Path) -> Vocabulary:
    """Words, merges, added tokens and special ones of a tokenizer's folder.

    Raises UsageError naming the file, and the token, for what is missing, contradicts itself, is
    no tokenizer of CLIP's kind, or would get another id from transformers than its file says.
    """
    config = _config(folder)
    path = folder / "tokenizer.json"
    serialized = read_json(path) if path.is_file() else None
    if serialized is None:
        vocab, merges = _vocab(folder), _merges(folder)
        for symbol in (symbol for a, b in merges for symbol in (a, b, a + b)):
            if symbol not in vocab:
                raise UsageError(f"{folder}/merges.txt: {symbol!r} is not in vocab.json")
        unk = _content(config["unk_token"])
    else:
        model = _clip_model(path)
        vocab, merges, unk = model["vocab"], tuple(map(tuple, model["merges"])), model["unk_token"]
        _check_older_files(folder, vocab, merges)
    special = {key: _content(config[key]) for key in _DEFAULTS}
    added = _added_tokens(folder, config, serialized)
    for key, token in special.items():
        if token not in vocab and added[token].id is None:
            where = "vocab.json" if serialized is None else "tokenizer.json"
            raise UsageError(f"{folder}: {key} {token!r} is not in {where}")
    vocabulary = Vocabulary(
        folder,
        vocab,
        merges,
        tuple(added.values()),
        unk if unk is not None else special["unk_token"],
        *(special[key] for key in ("bos_token", "eos_token", "pad_token")),
    )
    vocabulary = with_ids(vocabulary)
    if serialized is not None:
        _check_frame(path, vocabulary)
    return vocabulary


def with_ids(vocabulary: Vocabulary) -> Vocabulary:
    """The added tokens with the ids that the tokenizers library gives them, in their order.

    Raises UsageError naming a token whose file says another id.
    """
    _check_ids(vocabulary)
    added = sorted(vocabulary.added, key=lambda t: (t.id is None, t.id))
    built = build(replace(vocabulary, added=tuple(added)))
    ids = [built.token_to_id(token.content) for token in added]
    for token, number in zip(added, ids, strict=True):
        if token.id not in (None, number):
            raise UsageError(
                f"{vocabulary.folder}: added token {token.content!r} has id {token.id}, but "
                f"transformers' fast tokenizer numbers it {number}: ids of added tokens must go "
                f"on from the {len(vocabulary.vocab)} of the vocabulary without a gap"
            )
    numbers = zip(added, ids, strict=True)
    return replace(vocabulary, added=tuple(replace(token, id=n) for token, n in numbers))


def check_rows(vocabulary: Vocabulary, rows: int) -> None:
    """UsageError for a token that a text encoder's embedding of `rows` rows has no vector for."""
    token, number = max(vocabulary.tokens.items(), key=lambda item: item[1])
    if number >= rows:
        raise UsageError(
            f"{vocabulary.folder}: token {token!r} has id {number}, but the text encoder's "
            f"embedding has {rows} rows: they are not of one checkpoint"
        )


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed as transformers does."""
    config = _DEFAULTS | read_json(folder / "tokenizer_config.json")
    path = folder / "special_tokens_map.json"
    # As in transformers: the map counts only beside configs of before it wrote added tokens.
    if "added_tokens_decoder" not in config and path.is_file():
        also = read_json(path)
        listed = [*_list(config, "additional_special_tokens")]
        config |= also | {
            "additional_special_tokens": [*listed, *_list(also, "additional_special_tokens")]
        }
    if config.get("split_special_tokens"):
        raise UsageError(f"{folder}/tokenizer_config.json: split_special_tokens is not supported")
    for key in _DEFAULTS:
        if not isinstance(_content(config[key]), str):
            raise UsageError(f"{folder}/tokenizer_config.json: {key} is {config[key]!r}, no token")
    return config


def _list(config: dict[str, Any], key: str) -> list[Any]:
    """Tokens that a config lists; transformers 4 writes `extra_special_tokens` by name."""
    value = config.get(key) or []
    return list(value.values()) if isinstance(value, dict) else list(value)


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _vocab(folder: Path) -> dict[str, int]:
    vocab = read_json(folder / "vocab.json")
    for token, number in vocab.items():
        if type(number) is not int or number < 0:
            raise UsageError(f"{folder}/vocab.json: {token!r} has id {number!r}, no whole number")
    return vocab


def _merges(folder: Path) -> tuple[tuple[str, str], ...]:
    try:
        text = (folder / "merges.txt").read_text(encoding="utf-8")
    except OSError:
        raise UsageError(f"{folder}/merges.txt is missing") from None
    lines = [line for line in text.split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.split()) for line in lines]
    bad = [line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2]
    if bad:
        raise UsageError(f"{folder}/merges.txt: {bad[0]!r} is no pair of symbols")
    return tuple((first, second) for first, second in pairs)


def _clip_model(path: Path) -> dict[str, Any]:
    """The model of a tokenizer.json; UsageError where it would not tokenize as CLIP's does."""
    try:
        serialized = state(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises nothing more specific
        raise UsageError(f"{path}: the tokenizers library cannot read it ({error})") from None
    model: dict[str, Any] = serialized["model"]
    for key, allowed in _MODEL.items():
        if model.get(key) not in allowed:
            raise UsageError(
                f"{path} is no tokenizer of CLIP's kind: its model has {key} {model.get(key)!r}, "
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


def _check_older_files(
    folder: Path, vocab: dict[str, int], merges: tuple[tuple[str, ...], ...]
) -> None:
    """UsageError where vocab.json or merges.txt is not what tokenizer.json says."""
    advice = (
        "transformers' fast tokenizer reads the one, its slow tokenizer the other: remove the "
        "file that is not the text encoder's"
    )
    if (folder / "vocab.json").is_file():
        older = _vocab(folder)
        for token in sorted(vocab.keys() | older.keys()):
            if vocab.get(token) != older.get(token):
                raise UsageError(
                    f"{folder}: {token!r} is {vocab.get(token)} in tokenizer.json and "
                    f"{older.get(token)} in vocab.json; {advice}"
                )
    if (folder / "merges.txt").is_file() and _merges(folder) != merges:
        raise UsageError(f"{folder}: tokenizer.json and merges.txt have other merges; {advice}")


def _added_tokens(
    folder: Path, config: dict[str, Any], serialized: dict[str, Any] | None
) -> dict[str, Added]:
    """Every added token by its content; two files may have one."""
    added: dict[str, Added] = {}
    named = {_content(token): token for token in _special_tokens(config)}
    for file, value, number in _declared(folder, config, serialized, set(named)):
        token = _added(value, number, f"{folder}/{file}")
        if token.content in added:
            token = _merged(added[token.content], token, f"{folder}/{file}")
        added[token.content] = replace(token, special=token.special or token.content in named)
    _check_left_out(folder, added)
    framing = {_content(config[key]) for key in ("bos_token", "eos_token", "unk_token")}
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
            f"{where}: added token {first.content!r} has ids {first.id} and {second.id}"
        )
    merged = replace(second, normalized=first.normalized or second.normalized)
    if replace(first, normalized=merged.normalized, special=merged.special) != merged:
        raise UsageError(
            f"{where}: added token {first.content!r} has other flags than in tokenizer.json"
        )
    return merged


def _special_tokens(config: dict[str, Any]) -> Iterator[Any]:
    """Special tokens, as strings or objects, in transformers' order."""
    order = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
    yield from (config[key] for key in (*order, "mask_token") if config.get(key))
    yield from _list(config, "additional_special_tokens")
    yield from _list(config, "extra_special_tokens")


def _declared(
    folder: Path, config: dict[str, Any], serialized: dict[str, Any] | None, special: set[str]
) -> Iterator[tuple[str, Any, Any]]:
    """(file, token, id) of each added token that has an id, in transformers' order."""
    for token in (serialized or {}).get("added_tokens", []):
        yield "tokenizer.json", token, token.get("id")
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"]
        for key in sorted(decoder, key=lambda key: (len(key), key)):
            yield "tokenizer_config.json", decoder[key], int(key) if key.isdecimal() else key
    else:
        for content, number in _added_tokens_file(folder):
            normalized = content not in special
            yield "added_tokens.json", {"content": content, "normalized": normalized}, number


def _added_tokens_file(folder: Path) -> Iterable[tuple[str, Any]]:
    path = folder / "added_tokens.json"
    return read_json(path).items() if path.is_file() else ()


def _added(value: Any, number: Any, where: str) -> Added:
    flags = {key: value[key] for key in _FLAGS if key in value} if isinstance(value, dict) else {}
    content = _content(value)
    right = isinstance(content, str) and content and all(type(f) is bool for f in flags.values())
    if not right or not (number is None or (type(number) is int and number >= 0)):
        raise UsageError(f"{where}: {value!r} with id {number!r} is no added token")
    flags.setdefault("normalized", not flags.get("special", False))
    return Added(content, number, **flags)


def _check_left_out(folder: Path, added: dict[str, Added]) -> None:
    """UsageError for a token of added_tokens.json that transformers would not read."""
    for content, number in _added_tokens_file(folder):
        if content not in added or added[content].id != number:
            instead = f"id {added[content].id}" if content in added else "no such token"
            raise UsageError(
                f"{folder}: added_tokens.json gives {content!r} id {number}, the files that "
                f"transformers reads instead have {instead}: list it in tokenizer_config.json's "
                "added_tokens_decoder, or remove it"
            )


def _check_ids(vocabulary: Vocabulary) -> None:
    """UsageError for two tokens with one id."""
    holders: dict[int, str] = {}
    pairs = [*vocabulary.vocab.items(), *((t.content, t.id) for t in vocabulary.added)]
    for token, number in pairs:
        if number is not None and vocabulary.vocab.get(token, number) != number:
            raise UsageError(
                f"{vocabulary.folder}: added token {token!r} has id {number}, but it is "
                f"{vocabulary.vocab[token]} in the vocabulary"
            )
        if number is not None and holders.setdefault(number, token) != token:
            raise UsageError(
                f"{vocabulary.folder}: tokens {holders[number]!r} and {token!r} have one id, "
                f"{number}"
            )


def _check_frame(path: Path, vocabulary: Vocabulary) -> None:
    """UsageError where tokenizer.json frames prompts with other tokens than its config names."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    frame = tokenizer.encode("").ids
    expected = [vocabulary.tokens[token] for token in (vocabulary.bos, vocabulary.eos)]
    if frame != expected:
        raise UsageError(
            f"{path} frames prompts with ids {frame}, tokenizer_config.json's bos_token and "
            f"eos_token are {expected}"
        )
