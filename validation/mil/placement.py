"""What keeps a Core ML program off the Neural Engine: operations in fp32, and where they are.

Apple's Neural Engine computes in fp16, on static shapes of at most five axes; Core ML places the
rest on the CPU or GPU. Which device it takes, only Xcode's report of a run on one shows.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from runtimes.bundle.manifest import CONDITION_GRAPHS, DENOISERS
from validation.mil.islands import HEAVY
from validation.mil.program import Function, Operation, read_program

MOST_AXES = 5
# Why an operation computes in fp32, in the order of a block.
WHY = ("whole graph", "norm", "grn", "softmax", "stream", "end", "cast")
# What moves values and computes none: looked through for the weight that a value comes of.
_MOVES = (
    *("cast", "concat", "expand_dims", "identity", "pixel_shuffle", "reshape", "slice_by_index"),
    *("split", "squeeze", "stack", "transpose"),
)
_REDUCES = ("reduce_sum", "reduce_mean")
_COMPRESSED = "constexpr_"  # weights, made wide once
_BLOCK = re.compile(r"p_((?:[a-z]+_)*?(?:blocks|layers)_[0-9]+|[a-z]+(?:_[a-z]+)*?)_")


@dataclass(frozen=True)
class Wide:
    """An operation that gives fp32, or the cast into it: in which block, and why (`WHY`)."""

    function: str
    kind: str
    name: str
    block: str
    why: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """One function of a package: its operations, weights that are made wide once left out.

    `half` give fp16, `wide` are those in fp32, casts in both directions included. `casts` counts
    casts to and from fp32. `runs` is the number of stretches of fp16 operations, in running order,
    that one in fp32 ends: at least as many times an engine of fp16 alone has to be entered.
    """

    graph: str
    function: str
    operations: int
    half: int
    wide: tuple[Wide, ...]
    casts: int
    runs: int
    gathers: int
    beyond_axes: int

    @property
    def why(self) -> dict[str, int]:
        """How many operations each reason keeps in fp32; casts are apart."""
        counted = Counter(operation.why for operation in self.wide)
        return {why: counted[why] for why in WHY if counted[why]}


def placement(package: Path, graph: str) -> list[Program]:
    """What each function of a package asks for; RunError when it is damaged or has open sizes."""
    return [_program(function, graph) for function in read_program(package).values()]


def _program(function: Function, graph: str) -> Program:
    operations = [o for o in function.operations if not o.kind.startswith(_COMPRESSED)]
    types = _types(function)
    wide = tuple(_wide(function.name, operations, types, graph))
    return Program(
        graph=graph,
        function=function.name,
        operations=len(operations),
        half=sum(o.outputs[0].dtype == torch.float16 for o in operations),
        wide=wide,
        casts=sum(_crosses(o, types) for o in operations),
        runs=_runs(operations),
        gathers=sum(o.kind.startswith("gather") for o in operations),
        beyond_axes=sum(any(len(v.shape) > MOST_AXES for v in o.outputs) for o in operations),
    )


def _wide(
    function: str, operations: list[Operation], types: Mapping[str, torch.dtype], graph: str
) -> Iterator[Wide]:
    reasons = _reasons(operations, graph, any(t == torch.float16 for t in types.values()))
    blocks = _blocks(operations)
    for operation in operations:
        crosses = _crosses(operation, types)
        if operation.outputs[0].dtype == torch.float32 or crosses:
            why = "cast" if crosses else reasons[operation.name]
            shape, block = operation.outputs[0].shape, blocks[operation.name]
            yield Wide(function, operation.kind, operation.name, block, why, shape)


def _reasons(operations: list[Operation], graph: str, mixed: bool) -> dict[str, str]:
    """Why each operation would compute in fp32, by its name."""
    if graph in CONDITION_GRAPHS or not mixed:
        return {operation.name: "whole graph" for operation in operations}
    heavy = [index for index, o in enumerate(operations) if o.kind in HEAVY]
    end = heavy[-1] if graph in DENOISERS else len(operations)
    grn = _response_norms(operations)
    users = _users(operations)
    reasons = {}
    for index, operation in enumerate(operations):
        feeds_softmax = any(user.kind == "softmax" for user in users.get(operation.name, ()))
        if index >= end:
            reasons[operation.name] = "end"
        elif operation.kind == "softmax" or feeds_softmax or operation.kind == "select":
            reasons[operation.name] = "softmax"
        elif operation.kind == "layer_norm":
            reasons[operation.name] = "norm"
        else:
            reasons[operation.name] = "grn" if operation.name in grn else "stream"
    last = operations[-1]
    if graph not in DENOISERS and last.outputs[0].dtype == torch.float32:
        reasons[last.name] = "end"  # what leaves the graph is fp32
    return reasons


def _response_norms(operations: list[Operation]) -> set[str]:
    """Names of the operations from GlobalResponseNorm's squares to its factor per channel."""
    makers = {value.name: o for o in operations for value in o.outputs}
    names: set[str] = set()
    for operation in operations:
        from_norm = any(name in names for name in _read(operation))
        if operation.kind in _REDUCES:
            squares = makers.get(operation.inputs["x"][0])
            names |= {operation.name} | ({squares.name} if squares is not None else set())
        elif from_norm and operation.kind not in HEAVY and operation.kind != "cast":
            names |= {value.name for value in operation.outputs}
    return names


def _blocks(operations: list[Operation]) -> dict[str, str]:
    """The block each operation belongs to, named by the weights: 'blocks.3', 'projection', 'end'.

    That of the weight which an input comes of through moves alone; where there is none, that of the
    next weight in running order.
    """
    values: dict[str, tuple[int, str]] = {}  # what comes of a weight, moved at most, and when
    behind: dict[str, str] = {}
    for index, operation in enumerate(operations):
        sources = [values[name] for name in _read(operation) if name in values]
        _, block = max(sources, default=(0, ""))
        block = _weight_block(operation) or block
        if operation.kind in HEAVY or (operation.kind in _MOVES and block):
            values |= {value.name: (index, block) for value in operation.outputs}
        behind[operation.name] = block
    blocks, following = {}, "end"
    for operation in reversed(operations):
        following = _weight_block(operation) or following
        blocks[operation.name] = behind[operation.name] or following
    return blocks


def _weight_block(operation: Operation) -> str:
    for name in operation.inputs.get("weight", ()):
        found = _BLOCK.match(name)
        if found:
            return re.sub(r"_(?=[0-9]+$)", ".", found[1])
    return ""


def _types(function: Function) -> dict[str, torch.dtype]:
    values = [*function.inputs, *(v for o in function.operations for v in o.outputs)]
    return {value.name: value.dtype for value in values}


def _crosses(operation: Operation, types: Mapping[str, torch.dtype]) -> bool:
    """Whether it is a cast from fp16 to fp32 or back."""
    if operation.kind != "cast":
        return False
    pair = {types.get(operation.inputs["x"][0]), operation.outputs[0].dtype}
    return pair == {torch.float16, torch.float32}


def _runs(operations: Iterable[Operation]) -> int:
    """Stretches of fp16 operations; integers and masks end none, a cast to fp16 begins one."""
    floats = [o for o in operations if o.outputs[0].dtype in (torch.float16, torch.float32)]
    half = [o.outputs[0].dtype == torch.float16 for o in floats]
    return sum(now and not before for before, now in zip([False, *half], half, strict=False))


def _users(operations: list[Operation]) -> dict[str, list[Operation]]:
    users: dict[str, list[Operation]] = {}
    for operation in operations:
        for name in _read(operation):
            users.setdefault(name, []).append(operation)
    return users


def _read(operation: Operation) -> list[str]:
    return [name for names in operation.inputs.values() for name in names]
