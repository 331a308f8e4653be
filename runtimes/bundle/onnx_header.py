"""What an ONNX file says of itself, read without the onnx package: versions and weight files.

A file is a protocol buffer (onnx.proto).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtimes.bundle.protobuf import Message, as_message, as_number, as_text, fields
from runtimes.bundle.untrusted import map_regular
from runtimes.errors import RunError

# Field numbers of onnx.proto.
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8  # ModelProto
_DOMAIN, _VERSION = 1, 2  # OperatorSetIdProto
_INITIALIZER = 5  # GraphProto
_EXTERNAL_DATA = 13  # TensorProto
_KEY, _VALUE = 1, 2  # StringStringEntryProto


@dataclass(frozen=True)
class OnnxHeader:
    """A graph's IR version, its operator sets by domain, and the files that hold its weights."""

    ir_version: int
    opsets: dict[str, int]
    locations: tuple[str, ...]


def read_header(path: Path) -> OnnxHeader:
    """The header of an ONNX file; RunError for one that is none."""
    try:
        return _header(map_regular(path))
    except (IndexError, KeyError, ValueError, TypeError):
        raise RunError(f"{path} is no ONNX file; export the bundle again") from None


def _header(content: Message) -> OnnxHeader:
    version, opsets, locations = 0, {}, set()
    for number, value in fields(content):
        if number == _IR_VERSION:
            version = as_number(value)
        elif number == _OPSETS:
            opset = dict(fields(as_message(value)))
            domain = as_text(opset.get(_DOMAIN, b"")) or "ai.onnx"
            opsets[domain] = as_number(opset.get(_VERSION, 0))
        elif number == _GRAPH:
            locations |= set(_locations(as_message(value)))
    if not version or not opsets:
        raise ValueError("no version")
    return OnnxHeader(version, dict(sorted(opsets.items())), tuple(sorted(locations)))


def _locations(graph: Message) -> Iterator[str]:
    """The files that hold a graph's weights, as they are named there."""
    for number, tensor in fields(graph):
        for field, entry in fields(as_message(tensor)) if number == _INITIALIZER else ():
            if field == _EXTERNAL_DATA:
                pair = dict(fields(as_message(entry)))
                if pair.get(_KEY) == b"location":
                    yield as_text(pair[_VALUE])
