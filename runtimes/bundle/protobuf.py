"""Protocol buffers, read without a package for them: fields of a number and a wire type.

Of the wire types four occur. What is read may be a stranger's, and no other parser may read it in
another way: ValueError, IndexError or TypeError for what is none, or for a field of another wire
type than it has to have. No more work than the message has bytes, and no copy of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

Message = bytes | memoryview


@dataclass(frozen=True)
class Fixed:
    """A number of 4 or 8 bytes, which is neither a whole number nor a message here."""

    content: Message


Value = int | Message | Fixed
Field = tuple[int, Value]  # its number; a whole number, or what it holds
_SIZES = {1: 8, 5: 4}  # of the wire types of fixed size; groups, 3 and 4, do not occur
_MOST_BITS = 64
_MOST_TAG = 1 << 32  # what parsers hold a tag in: of a larger one they see the low bits only


def fields(message: Message) -> Iterator[Field]:
    """The fields of a message, in their order."""
    place, end = 0, len(message)
    while place < end:
        tag = message[place]
        place += 1
        if tag >= 0x80:  # the field's number has more than 4 bits
            start = place
            tag, place = varint(message, place - 1)
            if tag >= _MOST_TAG or place - start > 4:
                raise ValueError("a tag has more than 32 bits")
        if tag < 8:
            raise ValueError("a field has no number")
        kind = tag & 7
        if kind == 0:
            value, place = varint(message, place)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, place = varint(message, place)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        start, place = place, place + size
        if place > end:
            raise ValueError("it is cut off")
        held = message[start:place]
        yield tag >> 3, held if kind == 2 else Fixed(held)


def varint(message: Message, place: int) -> tuple[int, int]:
    """A number in pieces of 7 bits, the low ones first, and where it ends."""
    byte = message[place]
    if byte < 0x80:  # as most are
        return byte, place + 1
    value = shift = 0
    while shift < _MOST_BITS:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 and value >> _MOST_BITS == 0:
            return value, place
    raise ValueError("a number has more than 64 bits")


def numbers(value: Value, most: int) -> list[int]:
    """The whole numbers of a repeated field: one, or packed up to `most`; ValueError for more."""
    if isinstance(value, int):
        return [value]
    packed = as_message(value)
    found: list[int] = []
    place = 0
    while place < len(packed):
        one, place = varint(packed, place)
        found.append(one)
        if len(found) > most:
            raise ValueError(f"more than {most} numbers")
    return found


def only(message: Message, field: int) -> Value | None:
    """The one value of a field, None where there is none; ValueError for several.

    Parsers merge several messages, and a reader that looked at one would not see the whole.
    """
    found = [value for number, value in fields(message) if number == field]
    if len(found) > 1:
        raise ValueError(f"field {field} is there {len(found)} times")
    return found[0] if found else None


def as_number(value: Value) -> int:
    """A field that is a whole number; TypeError for any other."""
    if not isinstance(value, int):
        raise TypeError("a number was expected")
    return value


def as_message(value: Value) -> Message:
    """A field that is a message, a text or bytes; TypeError for any other."""
    if isinstance(value, int | Fixed):
        raise TypeError("a message was expected")
    return value


def as_text(value: Value) -> str:
    """A field that is a text in UTF-8; ValueError or TypeError for any other."""
    return str(as_message(value), "utf-8")
