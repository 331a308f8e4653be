"""A part of many pictures for one of several processes that know nothing of each other: `I/N`."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_MOST = 1_000_000  # of shards; more of them nobody starts
T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `index`, from 1, of `count`: what is numbered `index` - 1, `index` - 1 + `count`, ..."""

    index: int
    count: int

    def part_of(self, items: Sequence[T]) -> list[T]:
        """What this shard makes of all items; the shards' parts together are all of them."""
        return list(items[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def shard(text: str) -> Shard:
    """`I/N` of a command line, 1 <= I <= N."""
    wanted = "give I/N, part I of N such as 1/4, with I from 1 to N"
    if not re.fullmatch(r"[0-9]{1,7}/[0-9]{1,7}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no shard; {wanted}")
    index, count = map(int, text.split("/"))
    if not 1 <= index <= count <= _MOST:
        raise argparse.ArgumentTypeError(f"there is no shard {text}; {wanted}")
    return Shard(index, count)
