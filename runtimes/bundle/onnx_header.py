"""What an ONNX file says of itself, read without the onnx package: versions and weight files.

A file is a protocol buffer (onnx.proto): fields of a number and a wire type, of which four occur.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import RunError

# Field numbers of onnx.proto.
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8  # ModelProto
_DOMAIN, _VERSION = 1, 2  # OperatorSetIdProto
_INITIALIZER = 5  # GraphProto
_EXTERNAL_DATA = 13  # TensorProto
_KEY, _VALUE = 1, 2  # StringStringEntryProto

Field = tuple[int, int | bytes]  # its number; a whole number, or what it holds


@dataclass(frozen=True)
class OnnxHeader:
    """A graph's IR version, its operator sets by domain, and the files that hold its weights."""

    ir_version: int
    opsets: dict[str, int]
    locations: tuple[str, ...]


def read_header(path: Path) -> OnnxHeader:
    """The header of an ONNX file; RunError for one that is none."""
    try:
        return _header(path.read_bytes())
    except (IndexError, ValueError, TypeError):
        raise RunError(f"{path} is no ONNX file; export the bundle again") from None


def _header(content: bytes) -> OnnxHeader:
    version, opsets, locations = 0, {}, set()
    for number, value in _fields(content):
        if number == _IR_VERSION:
            version = _number(value)
        elif number == _OPSETS:
            opset = dict(_fields(_content(value)))
            domain = _content(opset.get(_DOMAIN, b"")).decode() or "ai.onnx"
            opsets[domain] = _number(opset.get(_VERSION, 0))
        elif number == _GRAPH:
            locations |= set(_locations(_content(value)))
    if not version or not opsets:
        raise ValueError("no version")
    return OnnxHeader(version, dict(sorted(opsets.items())), tuple(sorted(locations)))


def _locations(graph: bytes) -> Iterator[str]:
    """The files that hold a graph's weights, as they are named there."""
    for number, tensor in _fields(graph):
        for field, entry in _fields(_content(tensor)) if number == _INITIALIZER else ():
            if field == _EXTERNAL_DATA:
                pair = dict(_fields(_content(entry)))
                if pair.get(_KEY) == b"location":
                    yield _content(pair[_VALUE]).decode()


def _fields(content: bytes) -> Iterator[Field]:
    """The fields of a message, in their order."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield number, value
            continue
        if kind == 2:
            size, place = _varint(content, place)
        else:
            size = {1: 8, 5: 4}.get(kind, len(content))  # groups do not occur: too long
        if place + size > len(content):
            raise ValueError("it is cut off")
        yield number, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number in pieces of 7 bits, the low ones first, and where it ends."""
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise TypeError("a number was expected")
    return value


def _content(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError("a message was expected")
    return value
