"""Protocol buffers, read without a package for them: fields of a number and a wire type.

Of the wire types four occur. What is read may be a stranger's: ValueError, IndexError or TypeError
for what is none, no more work than the message has bytes, and no copy of them.
"""

from collections.abc import Iterator

Message = bytes | memoryview
Value = int | Message
Field = tuple[int, Value]  # its number; a whole number, or what it holds
_SIZES = {1: 8, 5: 4}  # of the wire types of fixed size; groups, 3 and 4, do not occur
_MOST_BITS = 64


def fields(message: Message) -> Iterator[Field]:
    """The fields of a message, in their order."""
    place, end = 0, len(message)
    while place < end:
        tag = message[place]
        place += 1
        if tag >= 0x80:  # the field's number has more than 4 bits
            tag, place = varint(message, place - 1)
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
        yield tag >> 3, message[start:place]


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
        if byte < 0x80:
            return value, place
    raise ValueError("a number has more than 64 bits")


def numbers(value: Value) -> list[int]:
    """The whole numbers of a repeated field: one, or packed as many as it holds."""
    if isinstance(value, int):
        return [value]
    found, place = [], 0
    while place < len(value):
        one, place = varint(value, place)
        found.append(one)
    return found


def as_number(value: Value) -> int:
    """A field that is a whole number; TypeError for any other."""
    if not isinstance(value, int):
        raise TypeError("a number was expected")
    return value


def as_message(value: Value) -> Message:
    """A field that is a message, a text or bytes; TypeError for any other."""
    if isinstance(value, int):
        raise TypeError("a message was expected")
    return value


def as_text(value: Value) -> str:
    """A field that is a text in UTF-8; ValueError or TypeError for any other."""
    return str(as_message(value), "utf-8")
