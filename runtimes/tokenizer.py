"""Prompts to token ids, with the bundle's own tokenizer.json."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

from runtimes.bundle.manifest import Tokenizer
from runtimes.bundle.tokenizer_file import read_tokenizer
from runtimes.errors import RunError, one_line

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Encoding:
    """`input_ids` and `attention_mask` i64 (B,T); what was cut off each prompt ('': nothing)."""

    input_ids: Ids
    attention_mask: Ids
    truncated: tuple[str, ...]


class PromptTokenizer:
    """CLIP's byte-level BPE: lower-cased, framed by start and end, padded to max_length.

    RunError for a tokenizer.json that is none of CLIP's kind.
    """

    def __init__(self, folder: Path, spec: Tokenizer) -> None:
        self._spec = spec
        self._path = folder / "tokenizer.json"
        with self._reported():
            self._tokenizer = FastTokenizer.from_str(read_tokenizer(self._path).text)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, prompts: list[str]) -> Encoding:
        spec = self._spec
        shape = (len(prompts), spec.max_length)
        ids, mask = np.full(shape, spec.pad_id, np.int64), np.zeros(shape, np.int64)
        truncated = []
        for row, prompt in enumerate(prompts):
            with self._reported():
                tokens = self._tokenizer.encode(prompt, add_special_tokens=False).ids
            room = spec.max_length - 2  # the start and the end take two places
            kept, lost = tokens[:room], tokens[room:]
            framed = [spec.bos_id, *kept, spec.eos_id]
            ids[row, : len(framed)] = framed
            mask[row, : len(framed)] = 1
            truncated.append(self._tokenizer.decode(lost).strip() if lost else "")
        return Encoding(ids, mask, tuple(truncated))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """The library's errors, which have no class of their own, as RunError."""
        try:
            yield
        except RunError:
            raise
        except Exception as error:
            raise RunError(
                f"{self._path}: the tokenizers library cannot use it ({one_line(error)}); export "
                "the bundle again"
            ) from None
