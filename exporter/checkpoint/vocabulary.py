"""A checkpoint tokenizer's whole vocabulary, whichever of its files hold it.

Ids are those of transformers' CLIPTokenizerFast. It takes words, merges and added tokens from
tokenizer.json where there is one (transformers 5 writes no other), else from vocab.json and
merges.txt; then the added tokens of tokenizer_config.json, or, where that lists none, those of
special_tokens_map.json and added_tokens.json. Files that contradict each other are refused: the
slow tokenizer would read the other one.
"""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from exporter.checkpoint.added_tokens import added_tokens
from exporter.checkpoint.tokenizer_files import (
    SPECIAL_TOKENS,
    check_older_files,
    content_of,
    read_clip_model,
    read_merges,
    read_serialized,
    read_words,
    tokenizer_config,
)
from exporter.formats.clip_bpe import END_OF_WORD, Vocabulary, build
from runtimes.bundle.ranges import shown
from runtimes.errors import UsageError


def read_vocabulary(folder: Path) -> Vocabulary:
    """Words, merges, added tokens and special ones of a tokenizer's folder.

    Raises UsageError naming the file, and the token, for what is missing, contradicts itself, is
    no tokenizer of CLIP's kind, or would get another id from transformers than its file says.
    """
    config = tokenizer_config(folder)
    path = folder / "tokenizer.json"
    serialized = read_serialized(path) if path.exists() else None
    if serialized is None:
        vocab, merges = read_words(folder), read_merges(folder)
        unk = content_of(config["unk_token"])
    else:
        model = read_clip_model(path)
        vocab, merges, unk = model["vocab"], tuple(map(tuple, model["merges"])), model["unk_token"]
        check_older_files(folder, vocab, merges)
    special = {key: content_of(config[key]) for key in SPECIAL_TOKENS}
    added = added_tokens(folder, config, serialized)
    if serialized is None:
        _check_merges(folder, vocab, merges, {*added, *special.values()})
    for key, token in special.items():
        if token not in vocab and added[token].id is None:
            where = "vocab.json" if serialized is None else "tokenizer.json"
            raise UsageError(f"{folder}: {key} {shown(token)} is not in {where}")
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


def _check_merges(
    folder: Path, vocab: dict[str, int], merges: tuple[tuple[str, str], ...], whole: set[str]
) -> None:
    """UsageError where merges make what is no word, or a word of several letters is never made.

    Without the end of merges.txt, prompts would have other ids and nobody would notice. The tokens
    `whole` are looked for as they are.
    """
    made = set()
    for first, second in merges:
        for symbol in (first, second, first + second):
            if symbol not in vocab:
                raise UsageError(f"{folder}/merges.txt: {shown(symbol)} is not in vocab.json")
        made.add(first + second)
    for word in vocab.keys() - made - whole:
        if len(word.removesuffix(END_OF_WORD)) > 1:
            raise UsageError(
                f"{folder}/merges.txt: no pair makes {shown(word)} of vocab.json; a file is cut, "
                "or they are not of one tokenizer"
            )


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
                f"{vocabulary.folder}: added token {shown(token.content)} has id {token.id}, but "
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
            f"{vocabulary.folder}: token {shown(token)} has id {number}, but the text encoder's "
            f"embedding has {rows} rows: they are not of one checkpoint"
        )


def _check_ids(vocabulary: Vocabulary) -> None:
    """UsageError for two tokens with one id."""
    holders: dict[int, str] = {}
    pairs = [*vocabulary.vocab.items(), *((t.content, t.id) for t in vocabulary.added)]
    for token, number in pairs:
        if number is not None and vocabulary.vocab.get(token, number) != number:
            raise UsageError(
                f"{vocabulary.folder}: added token {shown(token)} has id {number}, but it is "
                f"{vocabulary.vocab[token]} in the vocabulary"
            )
        if number is not None and holders.setdefault(number, token) != token:
            raise UsageError(
                f"{vocabulary.folder}: tokens {shown(holders[number])} and {shown(token)} have one "
                f"id, {number}"
            )


def _check_frame(path: Path, vocabulary: Vocabulary) -> None:
    """UsageError where tokenizer.json frames prompts with other tokens than its config names."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    frame = tokenizer.encode("").ids
    expected = [vocabulary.tokens[token] for token in (vocabulary.bos, vocabulary.eos)]
    if frame != expected:
        raise UsageError(
            f"{path} frames prompts with ids {frame}, tokenizer_config.json's bos_token and "
            f"eos_token are {expected}"
        )
