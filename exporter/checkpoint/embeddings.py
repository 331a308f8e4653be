"""Textual-inversion embeddings: read, matched to the text encoders, fused before the export.

Safetensors files of one tensor (n, width), or (width), as diffusers' training scripts save them
({token: vectors}), Automatic1111 and kohya ({"emb_params": vectors}) and OneTrainer ({"clip_g":
vectors}). Several vectors are tokens of their own, token_0, token_1 ...; the tokenizer puts all of
them where a prompt has the token, as diffusers' maybe_convert_prompt does, so that no host has to.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from exporter.checkpoint.files import PICKLES
from exporter.checkpoint.ranges import Token, Vectors, checked
from exporter.checkpoint.tensors import (
    FLOATS,
    is_finite,
    open_safetensors,
    read_finite,
    read_tensor,
)
from exporter.checkpoint.vocabulary import with_ids
from exporter.checkpoint.weights import WeightSource
from exporter.formats.clip_bpe import Added, Vocabulary, normalizer, numbered
from runtimes.bundle.manifest import Adapter
from runtimes.bundle.read import sha256
from runtimes.errors import UsageError

TABLE = "text_model.embeddings.token_embedding.weight"
_NAMELESS = ("emb_params", "clip_g")  # keys that name the format, not the token


@dataclass(frozen=True)
class EmbeddingFile:
    """An embedding as asked for; `token` is '' where the file's own name for it holds."""

    path: Path
    token: str = ""


@dataclass(frozen=True)
class Embedding:
    """`count` vectors of `width` values in the tensor `key` of `file`, for `token`."""

    file: Path
    key: str
    token: str
    count: int
    width: int
    adapter: Adapter

    @property
    def tokens(self) -> list[str]:
        """The name of each vector."""
        return [self.token] if self.count == 1 else numbered(self.token, self.count)

    def vectors(self) -> Tensor:
        """(count, width) in fp32."""
        return read_finite(self.file, self.key).float().reshape(self.count, self.width)


@dataclass(frozen=True)
class Rows:
    """Where an embedding's vectors lie in a text encoder's table: from row `first`."""

    embedding: Embedding
    first: int


class WithRows:
    """A text encoder's weights with embeddings in their rows; a table that ends before grows."""

    def __init__(self, weights: WeightSource, rows: tuple[Rows, ...]) -> None:
        self._weights, self._rows = weights, rows

    def __getitem__(self, name: str) -> Tensor:
        weight = self._weights[name]
        if name != TABLE:
            return weight
        table = torch.zeros(table_rows(len(weight), self._rows), weight.shape[1])
        table[: len(weight)] = weight
        for rows in self._rows:
            table[rows.first : rows.first + rows.embedding.count] = rows.embedding.vectors()
        return table


def table_rows(rows: int, embedded: tuple[Rows, ...]) -> int:
    """How many rows a table of `rows` has with embeddings in it."""
    return max([rows, *(rows_of.first + rows_of.embedding.count for rows_of in embedded)])


def parse_embedding(text: str) -> EmbeddingFile:
    """FILE or FILE:TOKEN; the longest beginning that is a file is FILE.

    UsageError for a file that is not there, a folder, or a pickle.
    """
    parts = text.split(":")
    for end in range(len(parts), 0, -1):
        path, token = Path(":".join(parts[:end])), ":".join(parts[end:])
        if path.is_file():
            break
    else:
        what = "is a folder; give the file" if Path(text).is_dir() else "no such file"
        raise UsageError(f"--embedding {text}: {what}")
    if end < len(parts) and not token:
        raise UsageError(f"--embedding {text}: the token after ':' is empty")
    if path.suffix in PICKLES:
        raise UsageError(
            f"--embedding {path} is a pickle, which runs code when it is read; save the vectors "
            "as safetensors, such as {token: tensor}"
        )
    return EmbeddingFile(path, token)


def open_embedding(embedding_file: EmbeddingFile, widths: Mapping[str, int]) -> Embedding:
    """Check a file's tensor, which must be as wide as a text encoder of `widths`.

    Raises UsageError naming the tensor and the widths.
    """
    file = embedding_file.path
    with open_safetensors(file, "--embedding") as handle:
        keys, metadata = list(handle.keys()), handle.metadata() or {}
        if len(keys) != 1:
            names = ", ".join(sorted(keys)[:4])
            raise UsageError(
                f"--embedding {file} holds {len(keys)} tensors ({names}), an embedding is one; "
                "save each as a file of its own"
            )
        [key] = keys
        piece = handle.get_slice(key)
        shape = tuple(piece.get_shape())
        if piece.get_dtype() not in FLOATS or len(shape) not in (1, 2) or 0 in shape:
            raise UsageError(
                f"--embedding {file}: '{key}' is {piece.get_dtype()} of shape {shape}, no vectors"
            )
    if shape[-1] not in widths.values():
        known = " and ".join(f"{name} is {width}" for name, width in widths.items())
        raise UsageError(
            f"--embedding {file}: its vectors are {shape[-1]} wide and fit no text encoder of "
            f"this export: {known} wide"
        )
    count = checked(Vectors, math.prod(shape[:-1]), f"--embedding {file}: vectors of '{key}'")
    if not is_finite(read_tensor(file, key)):
        raise UsageError(f"--embedding {file}: '{key}' holds values that are not finite")
    name_in_file = metadata.get("name") or file.stem if key in _NAMELESS else key
    token = embedding_file.token or name_in_file
    checked(Token, token, f"--embedding {file}: its token, which FILE:TOKEN names otherwise,")
    adapter = Adapter(f"{file.name}:{token}", sha256(file), 1.0)
    return Embedding(file, key, token, count, shape[-1], adapter)


def extended(
    vocabulary: Vocabulary, embeddings: tuple[Embedding, ...]
) -> tuple[Vocabulary, tuple[Rows, ...]]:
    """A vocabulary with the tokens of embeddings, and the row of each embedding's first.

    Raises UsageError for a token that is there already, or that another's spelling holds.
    """
    rows = []
    for embedding in embeddings:
        _check_token(vocabulary, embedding)
        first = 1 + max(vocabulary.tokens.values())
        added = [Added(token, first + i) for i, token in enumerate(embedding.tokens)]
        expanded = ((embedding.token, embedding.count),) if embedding.count > 1 else ()
        vocabulary = with_ids(
            replace(
                vocabulary,
                added=(*vocabulary.added, *added),
                expanded=(*vocabulary.expanded, *expanded),
            )
        )
        rows.append(Rows(embedding, first))
    _check_expanded(vocabulary)
    return vocabulary, tuple(rows)


def _check_token(vocabulary: Vocabulary, embedding: Embedding) -> None:
    """UsageError for a token that a prompt could not name, or that names another already."""
    # Most added tokens are looked for in normalized text, where two spelled alike would be one.
    spelling, advice = normalizer().normalize_str, "name another with FILE:TOKEN"
    spelled = {spelling(token.content): token.content for token in vocabulary.added}
    spelled |= {spelling(word): word for word, _ in vocabulary.expanded}
    for token in dict.fromkeys([embedding.token, *embedding.tokens]):
        if not token or token != token.strip():
            raise UsageError(
                f"--embedding {embedding.file}: {token!r} begins or ends with white space, or is "
                f"empty: {advice}"
            )
        known = token if token in vocabulary.tokens else spelled.get(spelling(token))
        if known is not None:
            same = "is" if known == token else f"is written like {known!r},"
            raise UsageError(
                f"--embedding {embedding.file}: {token!r} {same} a token of "
                f"{vocabulary.folder} already: {advice}"
            )


def _check_expanded(vocabulary: Vocabulary) -> None:
    """UsageError where putting in a token's other vectors would break up another token."""
    spelling = normalizer().normalize_str
    for word, count in vocabulary.expanded:
        pieces = numbered(word, count)
        for added in vocabulary.added:
            if added.content not in pieces and spelling(word) in spelling(added.content):
                raise UsageError(
                    f"--embedding: {word!r}, a token of {count} vectors, is part of the token "
                    f"{added.content!r}: name it otherwise with FILE:TOKEN"
                )
