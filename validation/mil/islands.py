"""Which operations of a program compute in which type, and whether that is as it should be."""

from dataclasses import dataclass
from pathlib import Path

import torch

from runtimes.bundle.manifest import DENOISERS
from validation.mil.program import Function, Operation, read_program

# Reductions and the divisions: in fp16, sums of squares leave its range and quotients its bits.
WIDE = ("layer_norm", "real_div", "reduce_mean", "reduce_sum", "softmax", "sqrt")
# What takes the time, and is the reason for fp16.
HEAVY = ("conv", "conv_transpose", "linear", "matmul")
_FLOATS = {torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Typed:
    """One operation: what it is, and the types of its tensors ('int32' and 'bool' included)."""

    function: str
    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str


def islands(package: Path) -> list[Typed]:
    """Every operation of a package with its types, in running order."""
    return [
        Typed(
            function.name,
            operation.kind,
            operation.name,
            tuple(_input_types(function, operation)),
            _name(operation.outputs[0].dtype),
        )
        for function in read_program(package).values()
        for operation in function.operations
    ]


def precision_faults(package: Path, graph: str, precision: str) -> list[str]:
    """What is not in the type it should be, one line each; empty when all is right.

    In an fp16 program with all islands, reductions and divisions take and give fp32, what
    GlobalResponseNorm sums was squared in fp32, and everything heavy is fp16; but the denoisers end
    in an fp32 projection and an fp32 division of an fp32 difference. An fp32 program has no fp16 at
    all.
    """
    operations = islands(package)
    if precision == "fp32":
        return [
            _line(typed, "fp32") for typed in operations if "fp16" in (typed.output, *typed.inputs)
        ]
    program = read_program(package)
    last = {_last_heavy(function) for function in program.values()} if graph in DENOISERS else set()
    faults = []
    for typed in operations:
        wide = typed.kind in WIDE or typed.name in last
        expected = "fp32" if wide else "fp16" if typed.kind in HEAVY else None
        if expected is not None and not _is(typed, expected):
            faults.append(_line(typed, expected))
    for function in program.values():
        faults += _producer_faults(function, graph)
    return faults


def _last_heavy(function: Function) -> str:
    """The projection that epsilon is made of: nothing heavy comes after it."""
    return [o.name for o in function.operations if o.kind in HEAVY][-1]


def _producer_faults(function: Function, graph: str) -> list[str]:
    """Where an fp32 reduction or division is fed with what fp16 has already spoilt."""
    producers = {value.name: o for o in function.operations for value in o.outputs}
    faults = []
    for operation in function.operations:
        if operation.kind == "reduce_sum" and not _wide(producers, operation, "mul"):
            faults.append(f"{operation.name}: sums squares that were not taken in fp32")
    if graph in DENOISERS:
        last = producers[function.outputs[0]]
        if last.kind != "real_div" or not _wide(producers, last, "sub"):
            faults.append(f"{last.name}: the last operation is no fp32 division of a difference")
    return faults


def _wide(producers: dict[str, Operation], operation: Operation, kind: str) -> bool:
    """Whether the operation's `x` comes from an operation of this kind, in fp32."""
    producer = producers.get(operation.inputs["x"][0])
    return (
        producer is not None
        and producer.kind == kind
        and producer.outputs[0].dtype == torch.float32
    )


def _input_types(function: Function, operation: Operation) -> list[str]:
    """The types of an operation's floating-point inputs, constants too; other types by name."""
    types = {value.name: value.dtype for value in function.inputs}
    types |= {value.name: value.dtype for o in function.operations for value in o.outputs}
    types |= {k: v.dtype for k, v in function.constants.items() if isinstance(v, torch.Tensor)}
    names = [name for names in operation.inputs.values() for name in names]
    return [_name(types[name]) for name in names if name in types]


def _is(typed: Typed, precision: str) -> bool:
    """Whether all floating-point tensors of an operation are of one precision."""
    return {t for t in (*typed.inputs, typed.output) if t in _FLOATS.values()} == {precision}


def _line(typed: Typed, expected: str) -> str:
    types = ", ".join(typed.inputs)
    return f"{typed.kind} {typed.name} is {types} -> {typed.output}, not {expected}"


def _name(dtype: torch.dtype) -> str:
    return _FLOATS.get(dtype, str(dtype).removeprefix("torch."))
