"""FlatBuffers, read without a package for them: tables of fields, vectors of tables, texts.

What is read may be a stranger's. Every offset is looked at before it is followed, and no file makes
the reader visit more than `MOST_TABLES`, however its offsets point at each other. ValueError or
struct.error for what is none.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# The demo's largest graph takes 4,824: nodes, their attributes and edges, tensors.
MOST_TABLES = 200_000
_MOST_TEXT = 1_000  # bytes of a name that is read
_OFFSET = struct.Struct("<I")  # forward, from where it stands
_BACK = struct.Struct("<i")  # from a table to the list of its fields
_SHORT = struct.Struct("<H")
_HEADER = 4  # of a list of fields: its own size and the table's


@dataclass
class Visits:
    """How many tables, and entries of lists, of a file may still be visited."""

    left: int = MOST_TABLES


@dataclass(frozen=True)
class Table:
    """A table at a place of a file; its fields go by their numbers in the schema, from 0."""

    content: memoryview
    place: int
    visits: Visits

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A whole number, `kind` as struct spells it; the schema's `default` where it is absent."""
        place = self._place(field)
        if place is None:
            return default
        return int(struct.unpack_from(f"<{kind}", self.content, place)[0])

    def text(self, field: int) -> str:
        """A text in UTF-8, '' where it is absent."""
        held = self.vector(field, 1)
        if len(held) > _MOST_TEXT:
            raise ValueError(f"a text has more than {_MOST_TEXT} bytes")
        return str(held, "utf-8")

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return self._place(field) is not None

    def table(self, field: int) -> "Table | None":
        """The table that a field points to; None where it is absent."""
        place = self._place(field)
        return None if place is None else self._at(self._follow(place))

    def tables(self, field: int) -> Iterator["Table"]:
        """The tables that a field lists."""
        held = self.vector(field, _OFFSET.size)
        start = self._start(field)
        for step in range(0, len(held), _OFFSET.size):
            yield self._at(self._follow(start + step))

    def records(self, field: int, kind: struct.Struct) -> list[tuple[int, ...]]:
        """The entries of a list that have no tables of their own."""
        held = self.vector(field, kind.size)
        self._visit(len(held) // kind.size)
        return list(kind.iter_unpack(held))

    def vector(self, field: int, size: int) -> memoryview:
        """The bytes of a list of values of `size` bytes each, which lie whole in the file."""
        place = self._place(field)
        if place is None:
            return self.content[:0]
        place = self._follow(place)
        (count,) = _OFFSET.unpack_from(self.content, place)
        start = place + _OFFSET.size
        if start + count * size > len(self.content):
            raise ValueError("a list ends behind the file")
        return self.content[start : start + count * size]

    def _start(self, field: int) -> int:
        """Where the first entry of a list is."""
        place = self._place(field)
        return 0 if place is None else self._follow(place) + _OFFSET.size

    def _place(self, field: int) -> int | None:
        (back,) = _BACK.unpack_from(self.content, self.place)
        fields = self.place - back
        if fields < 0:  # struct would count from the file's end
            raise ValueError("a table's fields are listed before the file")
        (size,) = _SHORT.unpack_from(self.content, fields)
        entry = _HEADER + _SHORT.size * field
        if entry + _SHORT.size > size:
            return None
        (offset,) = _SHORT.unpack_from(self.content, fields + entry)
        return self.place + offset if offset else None

    def _follow(self, place: int) -> int:
        return place + int(_OFFSET.unpack_from(self.content, place)[0])

    def _at(self, place: int) -> "Table":
        self._visit(1)
        return Table(self.content, place, self.visits)

    def _visit(self, count: int) -> None:
        self.visits.left -= count
        if self.visits.left < 0:
            raise ValueError(f"it has more than {MOST_TABLES:,} tables")


def root(content: memoryview, identifier: bytes) -> Table:
    """The table that a file is about; ValueError for a file of another kind than `identifier`."""
    start = _OFFSET.size
    if content[start : start + len(identifier)] != identifier:
        raise ValueError(f"it is no {identifier.decode()!a} file")
    return Table(content, int(_OFFSET.unpack_from(content, 0)[0]), Visits())
