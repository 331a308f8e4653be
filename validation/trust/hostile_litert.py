"""Hostile LiteRT models: places, sizes and numbers that no model of ours has."""

import struct
from pathlib import Path

from runtimes.bundle.litert_schema import MODEL
from validation.trust.flatbuffer_places import Node, Spoil, Step, at, cut, emptied, inside, written
from validation.trust.hostile import Hostile

_LARGE = 1 << 30
_READ = "cannot be read"
_CUSTOM, _WHILE = 32, 119


def model(value: int, *steps: Step) -> Spoil:
    """Write a number over a field of the model."""

    def spoil(path: Path, data: str) -> None:
        written(path, inside(_root(path), *steps), value)

    return spoil


def graph(value: int, *steps: Step) -> Spoil:
    """Write a number over a field of its graph."""
    return model(value, "subgraphs", 0, *steps)


def constant(value: int, *steps: Step) -> Spoil:
    """Write a number over a field of the first tensor that has a constant's bytes."""

    def spoil(path: Path, data: str) -> None:
        root = _root(path)
        tensors = inside(root, "subgraphs", 0, "tensors")
        for index in range(len(tensors)):
            try:
                buffer = tensors[index]["buffer"]
                stored = inside(root, "buffers", buffer.number("I", buffer.place))
                if _stored(stored):
                    written(path, inside(tensors[index], *steps), value)
                    return
            except LookupError:
                continue
        raise LookupError(f"no constant has {steps}")

    return spoil


def _stored(buffer: Node) -> bool:
    try:
        return len(buffer["data"]) > 0
    except LookupError:
        return buffer["size"].place > 0


def operator(number: int) -> Spoil:
    """Make the first operator another one."""

    def spoil(path: Path, data: str) -> None:
        for name in ("builtin_code", "deprecated_builtin_code"):
            try:
                code = inside(_root(path), "operator_codes", 0, name)
            except LookupError:  # of the value 0
                continue
            written(path, code, number)

    return spoil


def _root(path: Path) -> Node:
    return Node(path.read_bytes(), MODEL, MODEL.root, 0)


HOSTILE = (
    Hostile("another kind of file", at(4, b"TFL2"), _READ),
    Hostile("a root beyond the end", at(0, struct.pack("<I", _LARGE)), _READ),
    Hostile("a vector beyond the end", model(_LARGE, "buffers"), _READ),
    Hostile("a cut file", cut, _READ),
    Hostile("nothing", emptied, _READ),
    Hostile("an operator of somebody's own", operator(_CUSTOM), "an operator 32"),
    Hostile("a loop", operator(_WHILE), "an operator 119"),
    Hostile("an operator's input", graph(_LARGE, "operators", 0, "inputs", 0), "is not there"),
    Hostile("an operator's output", graph(-2, "operators", 0, "outputs", 0), "is not there"),
    Hostile("an input that is none", graph(_LARGE, "inputs", 0), "not there"),
    Hostile("a negative output", graph(-1, "outputs", 0), "not there"),
    Hostile("a negative size", constant(-1, "shape", 0), _READ),
    Hostile("a large constant", constant(_LARGE, "shape", 0), "a constant of"),
    Hostile("a buffer that is not there", constant(_LARGE, "buffer"), _READ),
    Hostile(
        "a signature's tensor",
        model(_LARGE, "signature_defs", 0, "outputs", 0, "tensor_index"),
        "its signature",
    ),
)
