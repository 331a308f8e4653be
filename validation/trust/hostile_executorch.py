"""Hostile ExecuTorch programs: places, sizes and numbers that no program of ours has."""

import struct
from collections.abc import Iterator
from pathlib import Path

from runtimes.bundle.executorch_schema import PROGRAM, XNNPACK
from runtimes.bundle.executorch_trust import DELEGATE
from validation.trust.flatbuffer_places import (
    Node,
    Spoil,
    Step,
    at,
    cut,
    emptied,
    inside,
    replaced,
    written,
)
from validation.trust.hostile import FAR, Hostile

_LARGE = 1 << 30
_READ = "cannot be read"
# How XNNPACK's values of 8 bits are quantised: weights, and what is rounded as it comes.
WEIGHT, COMES = "PerChannelQuant", "PerTokenDynamicQuant"


def program(value: int, *steps: Step) -> Spoil:
    """Write a number over a field of the program."""

    def spoil(path: Path, data: str) -> None:
        written(path, inside(Node(path.read_bytes(), PROGRAM, PROGRAM.root, 0), *steps), value)

    return spoil


def plan(value: int, *steps: Step) -> Spoil:
    """Write a number over a field of its method."""
    return program(value, "execution_plan", 0, *steps)


def first(kind: str, value: int, *steps: Step) -> Spoil:
    """Write a number over a field of the first tensor, or call of a kind, that has it."""

    def spoil(path: Path, data: str) -> None:
        root = Node(path.read_bytes(), PROGRAM, PROGRAM.root, 0)
        for node in _all(inside(root, "execution_plan", 0), kind):
            try:
                written(path, inside(node, *steps), value)
            except LookupError:  # a field of the value 0 is left out
                continue
            return
        raise LookupError(f"no {kind} has {steps}")

    return spoil


def _all(plan: Node, kind: str) -> Iterator[Node]:
    tensor = kind == "Tensor"
    listed = plan["values"] if tensor else inside(plan, "chains", 0, "instructions")
    for index in range(len(listed)):
        node = inside(listed, index, "val" if tensor else "instr_args")
        if node.kind == kind:
            yield node


def part(value: int, *steps: Step) -> Spoil:
    """Write a number over a field of the first graph of XNNPACK's."""

    def spoil(path: Path, data: str) -> None:
        content = path.read_bytes()
        root = Node(content, XNNPACK, XNNPACK.root, content.index(XNNPACK.identifier) - 4)
        written(path, inside(root, *steps), value)

    return spoil


def rounded(value: int, how: str, *steps: Step) -> Spoil:
    """Write a number over a field of the first value of a part that is quantised so."""

    def spoil(path: Path, data: str) -> None:
        content = path.read_bytes()
        root = Node(content, XNNPACK, XNNPACK.root, content.index(XNNPACK.identifier) - 4)
        values = root["xvalues"]
        for index in range(len(values)):
            node = inside(values, index, "xvalue_union")
            if node.kind == "QuantizedTensorValue" and node["quant_params"].kind == how:
                written(path, inside(node, *steps), value)
                return
        raise LookupError(f"nothing has {how}")

    return spoil


HOSTILE = (
    Hostile("another kind of file", at(4, b"ET13"), _READ),
    Hostile("no segments", at(8, b"eh99"), _READ),
    Hostile("a program beyond the end", at(16, struct.pack("<Q", FAR)), _READ),
    Hostile("segments beyond the end", at(24, struct.pack("<Q", FAR)), _READ),
    Hostile("a root beyond the end", at(0, struct.pack("<I", _LARGE)), _READ),
    Hostile("a vector beyond the end", program(_LARGE, "segments"), _READ),
    Hostile("a cut file", cut, _READ),
    Hostile("nothing", emptied, _READ),
    Hostile("a long segment", program(FAR, "segments", 1, "size"), "a segment ends at"),
    Hostile(
        "weights in no segment",
        program(_LARGE, "named_data", 0, "segment_index"),
        "a segment that is not there",
    ),
    Hostile("another method", replaced(b"forward\0", b"forwarx\0"), "another method"),
    Hostile("another kernel", replaced(b"aten::", b"atem::"), "it calls 'atem::"),
    Hostile("another part", replaced(DELEGATE.encode(), b"XnnpackBackenx"), "XnnpackBackenx"),
    Hostile("memory without end", plan(FAR, "non_const_buffer_sizes", 1), "bytes of memory"),
    Hostile("negative memory", plan(-1, "non_const_buffer_sizes", 1), "bytes of memory"),
    Hostile("an input that is none", plan(_LARGE, "inputs", 0), "no tensor"),
    Hostile("a negative output", plan(-3, "outputs", 0), "no tensor"),
    Hostile("a value of no kind", plan(99, "values", 0, "val_type"), _READ),
    Hostile("a jump", plan(4, "chains", 0, "instructions", 0, "instr_args_type"), _READ),
    Hostile("a negative size", first("Tensor", -1, "sizes", 0), _READ),
    Hostile("a large tensor", first("Tensor", _LARGE, "sizes", 0), "bytes"),
    Hostile("an order of other axes", first("Tensor", 7, "dim_order", 0), "order"),
    Hostile("an unknown type", first("Tensor", 99, "scalar_type"), _READ),
    Hostile(
        "a place beyond the memory",
        first("Tensor", 9, "allocation_info", "memory_id"),
        "outside of the planned memory",
    ),
    Hostile("a kernel's argument", first("KernelCall", -2, "args", 0), "argument"),
    Hostile("a part's argument", first("DelegateCall", _LARGE, "args", 0), "argument"),
    Hostile("another kind of part", replaced(b"XH00", b"XH99"), _READ),
    Hostile("another graph in a part", replaced(b"XN01", b"XN99"), _READ),
    Hostile("arguments of a part", part(99, "num_externs"), "other arguments"),
    Hostile("a part's vector", part(_LARGE, "xvalues"), _READ),
    Hostile("an end of a part", part(77, "output_ids", 0), "not there"),
    Hostile("an unknown node", part(200, "xnodes", 0, "xnode_union_type"), _READ),
    Hostile("a value of no type", part(99, "xvalues", 0, "xvalue_union", "datatype"), _READ),
    Hostile("a way to quantise", rounded(2, WEIGHT, "quant_params_type"), _READ),
    Hostile("a weight of no type", rounded(9, WEIGHT, "tensor_value", "datatype"), _READ),
    Hostile("a large weight", rounded(1 << 20, WEIGHT, "tensor_value", "dims", 1), "a weight of"),
    Hostile("many outputs", rounded(1 << 20, WEIGHT, "tensor_value", "dims", 0), "the scales of"),
    Hostile("scales of no place", rounded(99, WEIGHT, "quant_params", "scale_buffer_idx"), _READ),
    Hostile("no scales", rounded(0, WEIGHT, "quant_params", "scale_buffer_idx"), "no scale"),
    Hostile("an activation of no type", rounded(6, COMES, "tensor_value", "datatype"), _READ),
    Hostile(
        "an activation's scales",
        rounded(-1, COMES, "quant_params", "num_nonbatch_dims"),
        "no activation",
    ),
    Hostile(
        "a node's input",
        part(_LARGE, "xnodes", 0, "xnode_union", "output_id"),
        "names a value that is not there",
    ),
)
