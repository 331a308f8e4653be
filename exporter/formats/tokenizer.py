"""A bundle's tokenizer folder from a checkpoint's: one tokenizer.json, and its plain sources."""

import json
from pathlib import Path

from exporter.checkpoint.reading import read_json
from exporter.checkpoint.vocabulary import check_rows, read_vocabulary
from exporter.formats.clip_bpe import Vocabulary, build
from runtimes.bundle.manifest import Tokenizer as TokenizerSpec
from runtimes.errors import UsageError

# transformers writes 1e30 as a whole number where no length is known.
_NO_LENGTH = 10**29


def write_tokenizer(
    vocabulary: Vocabulary, folder: Path, name: str, max_length: int
) -> TokenizerSpec:
    """Write `folder`, named `name` in the bundle: tokenizer.json holds everything.

    For hosts without the tokenizers library: vocab.json with every token, the added ones too,
    and merges.txt. Where tokens were added, added_tokens.json lists those to look for first.
    """
    folder.mkdir(parents=True)
    text = build(vocabulary).to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    for file, text in plain_files(vocabulary).items():
        (folder / file).write_text(text, encoding="utf-8")
    ids = vocabulary.tokens
    bos, eos, pad = (ids[token] for token in (vocabulary.bos, vocabulary.eos, vocabulary.pad))
    return TokenizerSpec(name, max_length, bos, eos, pad)


def plain_files(vocabulary: Vocabulary) -> dict[str, str]:
    """The texts of vocab.json and merges.txt, and of added_tokens.json where one is needed."""
    tokens = vocabulary.tokens
    files = {"vocab.json": tokens}
    if added := {token: n for token, n in tokens.items() if token not in vocabulary.vocab}:
        files["added_tokens.json"] = added
    lines = ["#version: 0.2", *map(" ".join, vocabulary.merges)]
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in files.items()}
    return texts | {"merges.txt": "\n".join(lines) + "\n"}


def check_tokenizer(source: Path, max_length: int, rows: int) -> Vocabulary:
    """What a checkpoint's tokenizer folder holds, for a text encoder of `rows` embeddings.

    Raises UsageError when it cannot be exported or is not that text encoder's.
    """
    vocabulary = read_vocabulary(source)
    check_rows(vocabulary, rows)
    length = read_json(source / "tokenizer_config.json").get("model_max_length")
    if length not in (None, max_length) and not (
        isinstance(length, int | float) and length > _NO_LENGTH
    ):
        raise UsageError(
            f"{source}/tokenizer_config.json: model_max_length {length} is not the text encoder's "
            f"max_position_embeddings {max_length}"
        )
    return vocabulary
