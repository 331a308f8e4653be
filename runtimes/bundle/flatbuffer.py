"""A bounded reader of flatbuffers: every offset is checked against the file before it is followed.

The engines' own readers follow offsets as they stand. So a whole buffer is read here by a schema,
into dictionaries, before an engine sees it; what lies outside the file, or is not in the schema, is
a ValueError.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Buffer = memoryview
# A table's values by the names of its fields; a union's `x` has the name of its table in `x_type`.
Table = dict[str, Any]
# Of each table its fields in the order of their slots: (name, kind). A kind is a scalar's struct
# code, 'text', the name of a table, '|' and the name of a union, which takes two slots, or
# '[kind]', a vector; '-' is a slot that has to be empty.
Tables = Mapping[str, tuple[tuple[str, str], ...]]
_SCALARS = frozenset("?bBhHiIqQfd")
_TEXT = "text"
_MOST = 4_000_000  # tables, texts and vectors: the public Stage B has some 100,000
_TEXT_SHARE = 8  # bytes of a text that count as one more: one may be named from many places


@dataclass(frozen=True)
class Schema:
    """The tables of a format, those of its unions by their numbers, and its root.

    `identifier` stands behind the root's offset, `version` in the first four characters.
    """

    tables: Tables
    unions: Mapping[str, Mapping[int, str]]
    root: str
    identifier: bytes


def read(buffer: Buffer, schema: Schema) -> Table:
    """The root table of a buffer; ValueError, IndexError or struct.error where it is not sound."""
    if len(buffer) < 8 or bytes(buffer[4:8]) != schema.identifier:
        raise ValueError(f"no {schema.identifier.decode()} buffer")
    return _Reader(buffer, schema).table(0, schema.root)


class _Reader:
    """Reads by offsets, and counts what it read: a table may be named from many places."""

    def __init__(self, buffer: Buffer, schema: Schema) -> None:
        self._buffer, self._schema, self._read = buffer, schema, 0

    def table(self, place: int, name: str) -> Table:
        """The table that the offset at `place` leads to."""
        start = self._follow(place)
        vtable = start - self._unpack("i", start)
        size, length = self._unpack("H", vtable), self._unpack("H", vtable + 2)
        if size < 4 or size % 2 or length < 4:
            raise ValueError("a table that cannot be one")
        self._inside(vtable, size)
        self._inside(start, length)
        slots = [self._unpack("H", vtable + at) for at in range(4, size, 2)]
        return self._fields(self._schema.tables[name], start, length, slots)

    def _fields(
        self, fields: tuple[tuple[str, str], ...], start: int, length: int, slots: list[int]
    ) -> Table:
        found: Table = {}
        slot = 0
        for key, kind in fields:
            width = 2 if kind.startswith("|") else 1
            at = [slots[i] if i < len(slots) else 0 for i in range(slot, slot + width)]
            slot += width
            if at[-1] == 0:  # left out; a union's type alone says nothing
                continue
            if any(each + self._width(kind, i) > length for i, each in enumerate(at)):
                raise ValueError(f"'{key}' lies outside its table")
            if width == 2:
                member = self._member(self._schema.unions[kind[1:]], start, at[0])
                found[f"{key}_type"] = member
                found[key] = self.table(start + at[1], member)
            elif kind == "-":
                raise ValueError(f"'{key}' is there, which nothing reads")
            else:
                found[key] = self._value(start + at[0], kind)
        if any(slots[slot:]):
            raise ValueError("a field that is not known")
        return found

    def _member(self, union: Mapping[int, str], start: int, slot: int) -> str:
        """The table that a union's value is."""
        number = self._unpack("B", start + slot) if slot else 0
        if number not in union:
            raise ValueError(f"a value of kind {number}, which is not known")
        return union[number]

    def _width(self, kind: str, part: int) -> int:
        if kind in _SCALARS:
            return struct.calcsize(f"<{kind}")
        return 1 if kind.startswith("|") and part == 0 else 4

    def _value(self, place: int, kind: str) -> Any:
        if kind in _SCALARS:
            return self._unpack(kind, place)
        if kind == _TEXT:
            held = self._vector(place, "B")
            self._count(len(held) // _TEXT_SHARE)
            return str(held, "utf-8")
        if kind.startswith("["):
            return self._vector(place, kind[1:-1])
        return self.table(place, kind)

    def _vector(self, place: int, kind: str) -> Any:
        """Bytes stay where they are; other scalars become a tuple, the rest a list."""
        start = self._follow(place)
        count, first = self._unpack("I", start), start + 4
        width = struct.calcsize(f"<{kind}") if kind in _SCALARS else 4
        self._inside(first, count * width)
        if kind == "B":
            return self._buffer[first : first + count]
        self._count(count)
        if kind in _SCALARS:
            return struct.unpack_from(f"<{count}{kind}", self._buffer, first)
        return [self._value(first + 4 * index, kind) for index in range(count)]

    def _follow(self, place: int) -> int:
        self._count(1)
        return place + int(self._unpack("I", place))

    def _unpack(self, kind: str, place: int) -> Any:
        # A negative place would count from the end.
        self._inside(place, struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{kind}", self._buffer, place)[0]

    def _inside(self, place: int, length: int) -> None:
        if place < 0 or place + length > len(self._buffer):
            raise ValueError("an offset leads out of the file")

    def _count(self, more: int) -> None:
        self._read += more
        if self._read > _MOST:
            raise ValueError("more values than any graph has")
