"""Where in a sound flatbuffer a field lies, to write something else there."""

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.bundle.flatbuffer import Schema
from validation.trust.hostile import CUT

Step = str | int
Spoil = Callable[[Path, str], Any]


@dataclass(frozen=True)
class Node:
    """A value of a buffer: its kind, as the schema has it, and the byte it begins at.

    Of a table and a vector that is the byte of the offset that leads there.
    """

    content: bytes
    schema: Schema
    kind: str
    place: int

    def number(self, kind: str, place: int) -> int:
        """The whole number at a place."""
        return int(struct.unpack_from(f"<{kind}", self.content, place)[0])

    @property
    def begin(self) -> int:
        """Where a table, or a vector's length, begins."""
        return self.place + self.number("I", self.place)

    def __len__(self) -> int:
        return self.number("I", self.begin)

    def __getitem__(self, step: Step) -> "Node":
        """A vector's element, or a table's field: LookupError for one that is left out."""
        if isinstance(step, int):
            kind = self.kind[1:-1]
            if step >= len(self):
                raise LookupError(f"no {step} in {self.kind}")
            width = struct.calcsize(f"<{kind}") if len(kind) == 1 else 4
            return Node(self.content, self.schema, kind, self.begin + 4 + width * step)
        slot = 0
        for name, kind in self.schema.tables[self.kind]:
            union = kind.startswith("|")
            if step == name + "_type" and union:
                return self._field("B", slot)
            slot += union
            if step == name:
                return self._field(self._member(kind, slot) if union else kind, slot)
            slot += 1
        raise LookupError(f"no {step} in {self.kind}")

    def _member(self, union: str, slot: int) -> str:
        return self.schema.unions[union[1:]][self.number("B", self._field("B", slot - 1).place)]

    def _field(self, kind: str, slot: int) -> "Node":
        vtable = self.begin - self.number("i", self.begin)
        if 4 + 2 * slot >= self.number("H", vtable):
            raise LookupError(f"{self.kind} ends before slot {slot}")
        offset = self.number("H", vtable + 4 + 2 * slot)
        if offset == 0:
            raise LookupError(f"slot {slot} of {self.kind} is left out")
        return Node(self.content, self.schema, kind, self.begin + offset)


def inside(node: Node, *steps: Step) -> Node:
    """What lies at the end of so many steps."""
    return functools.reduce(Node.__getitem__, steps, node)


def written(path: Path, node: Node, value: int) -> None:
    """Write a number over a value; over an offset, where it is a table or a vector."""
    kind = node.kind if len(node.kind) == 1 else "I"
    at(node.place, struct.pack(f"<{kind}", value))(path, "")


def at(place: int, new: bytes) -> Spoil:
    """Write bytes at a place of the file."""

    def spoil(path: Path, data: str) -> None:
        content = bytearray(path.read_bytes())
        content[place : place + len(new)] = new
        path.write_bytes(content)

    return spoil


def replaced(old: bytes, new: bytes) -> Spoil:
    """Write other bytes, as many, over the first place of some; LookupError without one."""
    assert len(old) == len(new)

    def spoil(path: Path, data: str) -> None:
        content = path.read_bytes()
        if old not in content:
            raise LookupError(f"{old!r} is not in {path}")
        path.write_bytes(content.replace(old, new, 1))

    return spoil


def cut(path: Path, data: str) -> None:
    """Leave out the last bytes."""
    path.write_bytes(path.read_bytes()[:-CUT])


def emptied(path: Path, data: str) -> None:
    """Leave out all bytes."""
    path.write_bytes(b"")
