"""Damage as disks and cables do it: a bit that turns over, a file that ends too soon.

Each is drawn by a seed, done to the file in place, and undone to the byte.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MOST_CUT = 1 << 20  # bytes that a cut takes off at most: they are kept in memory meanwhile


@dataclass(frozen=True)
class Damage:
    """One change of a file: bit `bit` of byte `place` turned over, or all from `place` on cut off.

    `done` is a context in which the file has it.
    """

    path: Path
    kind: Literal["flip", "cut"]
    place: int
    bit: int = 0

    def __str__(self) -> str:
        if self.kind == "cut":
            return f"{self.path.name} cut at byte {self.place}"
        return f"{self.path.name}, byte {self.place}: bit {self.bit} turned over"

    @contextmanager
    def done(self) -> Iterator[None]:
        """The file with the damage, and afterwards, whatever happens, as it was."""
        with self.path.open("rb") as file:
            file.seek(self.place)
            before = file.read(1 if self.kind == "flip" else -1)
            if self.kind == "flip":
                _write(self.path, self.place, bytes([before[0] ^ (1 << self.bit)]))
            else:
                os.truncate(self.path, self.place)
        try:
            yield
        finally:
            _write(self.path, self.place, before)


def damages(path: Path, seed: int, count: int, within: int | None = None) -> Iterator[Damage]:
    """`count` damages of a file that is not empty, two flips for each cut.

    Every place is as likely as any other, but that a cut leaves all of a large file but its last
    MiB, and that flips are in the first `within` bytes. The same file size, name and seed draw the
    same damages.
    """
    size = path.stat().st_size
    draw = random.Random(f"{path.name} {size} {seed}")
    for index in range(count):
        if index % 3 == 1:
            yield Damage(path, "cut", draw.randrange(max(size - MOST_CUT, 0), size))
        else:
            yield Damage(path, "flip", draw.randrange(within or size), draw.randrange(8))


def _write(path: Path, place: int, data: bytes) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        file.write(data)
