"""A bounded reader of flatbuffers: every offset is checked against the file before it is followed.

The engines' own readers follow offsets as they stand. So a whole buffer is read here by a schema,
into dictionaries, before an engine sees it; what lies outside the file, or is not in the schema, is
a ValueError.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

Buffer = memoryview
# A table's values by the names of its fields; a union's `x` has the name of its table in `x_type`.
Table = dict[str, Any]
# Of each table its fields in the order of their slots: (name, kind). A kind is a scalar's struct
# code, 'text', the name of a table, '|' and the name of a union, which takes two slots, or
# '[kind]', a vector, of '[(codes)]' one of structs; '-' is what has to be left out, '~' what is
# not followed: True where it is there.
Tables = Mapping[str, tuple[tuple[str, str], ...]]
_Read = Callable[[int], Any]  # the value at a place
# How long a table is, and which fields it has where.
_Layout = tuple[int, tuple[tuple[str, int, _Read], ...]]
_SCALARS = {code: struct.Struct(f"<{code}") for code in "?bBhHiIqQfd"}
_OFFSET, _BACK, _VTABLE = _SCALARS["I"], _SCALARS["i"], struct.Struct("<HH")
_TEXT_SHARE = 8  # bytes of a text that count as one more: one may be named from many places


@dataclass(frozen=True)
class Schema:
    """The tables of a format, those of its unions by their numbers, and its root.

    `identifier` stands behind the root's offset. `most`: tables, texts and values of vectors that
    are read; the public Stage B has some 100,000.
    """

    tables: Tables
    unions: Mapping[str, Mapping[int, str]]
    root: str
    identifier: bytes
    most: int = 4_000_000


def read(buffer: Buffer, schema: Schema) -> Table:
    """The root table of a buffer; ValueError, IndexError or struct.error where it is not sound."""
    if len(buffer) < 8 or bytes(buffer[4:8]) != schema.identifier:
        raise ValueError(f"no {schema.identifier.decode()} buffer")
    return _Reader(buffer, schema).table(schema.root, 0)


class _Reader:
    """Reads by offsets, and counts what it read: a table may be named from many places.

    Offsets lead forward, and struct refuses what it would read behind the file; in front of it lies
    only what a table's way back leads to.
    """

    def __init__(self, buffer: Buffer, schema: Schema) -> None:
        self._buffer, self._schema, self._left = buffer, schema, schema.most
        # Writers share vtables among tables of a kind.
        self._layouts: dict[tuple[str, int], _Layout] = {}

    def table(self, name: str, place: int) -> Table:
        """The table that the offset at `place` leads to."""
        start = self._follow(place)
        vtable = start - _BACK.unpack_from(self._buffer, start)[0]
        length, fields = self._layouts.get((name, vtable)) or self._layout(name, vtable)
        self._inside(start + length)
        return {key: value(start + at) for key, at, value in fields}

    def _layout(self, name: str, vtable: int) -> _Layout:
        """What a vtable says of tables of this name."""
        if vtable < 0:
            raise ValueError("a table's fields are listed before the file")
        size, length = _VTABLE.unpack_from(self._buffer, vtable)
        if size < 4 or size % 2 or length < 4:
            raise ValueError("a table that cannot be one")
        self._count(size)
        slots = iter(struct.unpack_from(f"<{size // 2 - 2}H", self._buffer, vtable + 4))
        fields: list[tuple[str, int, _Read]] = []
        for key, kind in self._schema.tables[name]:
            tag = next(slots, 0) if kind.startswith("|") else 0
            if at := next(slots, 0):  # a union's type alone says nothing
                width = _SCALARS[kind].size if kind in _SCALARS else 4
                if max(tag + 1, at + width) > length:
                    raise ValueError(f"'{key}' lies outside its table")
                fields += self._field(key, kind, at, tag)
        if any(slots):
            raise ValueError("a field that is not known")
        self._layouts[name, vtable] = length, tuple(fields)
        return self._layouts[name, vtable]

    def _field(self, key: str, kind: str, at: int, tag: int) -> Iterator[tuple[str, int, _Read]]:
        """A field of a table; a union's are two."""
        if not kind.startswith("|"):
            yield key, at, self._reading(kind)
        elif tag == 0:
            raise ValueError(f"'{key}' has no type")
        else:
            member = partial(self._member, self._schema.unions[kind[1:]])
            yield f"{key}_type", tag, member
            yield key, at, lambda place: self.table(member(place - at + tag), place)

    def _member(self, union: Mapping[int, str], place: int) -> str:
        """The table that a union's value is."""
        number = self._buffer[place]
        if number not in union:
            raise ValueError(f"a value of kind {number}, which is not known")
        return union[number]

    def _reading(self, kind: str) -> _Read:
        """How a value of a kind is read."""
        if kind in _SCALARS:
            return lambda place: _SCALARS[kind].unpack_from(self._buffer, place)[0]
        if not kind.startswith("["):
            named: dict[str, _Read] = {"text": self._text, "-": _refused, "~": _there}
            return named.get(kind) or partial(self.table, kind)
        each = kind[1:-1]
        if each == "B":
            return self._bytes
        if each in _SCALARS:
            return partial(self._scalars, each)
        if each.startswith("("):
            return partial(self._structs, struct.Struct(f"<{each[1:-1]}"))
        return partial(self._list, self._reading(each))

    def _text(self, place: int) -> str:
        held = self._bytes(place)
        self._count(len(held) // _TEXT_SHARE)
        return str(held, "utf-8")

    def _bytes(self, place: int) -> Buffer:
        """Bytes stay where they are."""
        first, count = self._vector(1, place)
        return self._buffer[first : first + count]

    def _scalars(self, code: str, place: int) -> tuple[Any, ...]:
        first, count = self._vector(_SCALARS[code].size, place)
        self._count(count)
        return struct.unpack_from(f"<{count}{code}", self._buffer, first)

    def _structs(self, codes: struct.Struct, place: int) -> list[tuple[Any, ...]]:
        first, count = self._vector(codes.size, place)
        self._count(count)
        return list(codes.iter_unpack(self._buffer[first : first + count * codes.size]))

    def _list(self, value: _Read, place: int) -> list[Any]:
        first, count = self._vector(4, place)
        self._count(count)
        return [value(at) for at in range(first, first + 4 * count, 4)]

    def _vector(self, width: int, place: int) -> tuple[int, int]:
        """Where a vector's values begin, and how many they are; all lie inside the file."""
        start = self._follow(place)
        count = _OFFSET.unpack_from(self._buffer, start)[0]
        self._inside(start + 4 + count * width)
        return start + 4, count

    def _follow(self, place: int) -> int:
        self._count(1)
        return place + int(_OFFSET.unpack_from(self._buffer, place)[0])

    def _inside(self, end: int) -> None:
        if end > len(self._buffer):
            raise ValueError("an offset leads out of the file")

    def _count(self, more: int) -> None:
        self._left -= more
        if self._left < 0:
            raise ValueError("more values than any graph has")


def _refused(place: int) -> NoReturn:
    raise ValueError("a value is there that nothing reads")


def _there(place: int) -> bool:
    return True
