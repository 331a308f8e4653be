"""The weights of a Core ML program: which operation uses them how, and which stay as they are."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantization.roles import DEPTHWISE, FIRST, LAST, MAPPER, SMALL, SMALLEST

# Which parameter of an operation is a weight, where its output channels are, and where the inputs
# that are summed over.
_WEIGHTS = {
    "conv": (("weight", 0, 1),),
    "conv_transpose": (("weight", 1, 0),),
    "linear": (("weight", 0, 1),),
    "gather": (("x", 0, 1),),
    "matmul": (("x", -2, -1), ("y", -1, -2)),
}
_RESIZE = "resize: interpolation, not learned"
_FLOATS = {10: "float16", 11: "float32"}  # MIL's DataType
_IOS18 = 9  # specification version of iOS 18 and macOS 15


@dataclass(frozen=True)
class ProgramWeight:
    """A constant, its numbers of output and input channels and of values, and why it is left alone
    ('': it is not).
    """

    name: str
    dtype: str
    outputs: int
    inputs: int
    values: int
    reason: str


def takes_groups(spec: Any) -> bool:
    """Whether the package's deployment target has 4-bit integers, and scales or tables in groups.

    Before iOS 18 (macOS 15) there are 8-bit integers and one palette per weight.
    """
    return bool(spec.specificationVersion >= _IOS18)


def mil_name(weight: str) -> str:
    """A weight's name in the program, from PyTorch's name for it, which ONNX graphs have."""
    return weight if "." not in weight else "p_" + weight.replace(".", "_")


def weights(spec: Any) -> list[ProgramWeight]:
    """Every float weight of convolutions, products and embeddings, in running order.

    Functions (picture sizes) share their weights: each is listed once.
    """
    listed: dict[str, ProgramWeight] = {}
    for _, function in sorted(spec.mlProgram.functions.items()):
        block = function.block_specializations[function.opset]
        for weight in _weights(block, {value.name for value in function.inputs}):
            listed.setdefault(weight.name, weight)
    return list(listed.values())


def _weights(block: Any, inputs: set[str]) -> Iterator[ProgramWeight]:
    producers = {value.name: o for o in block.operations for value in o.outputs}
    for operation in block.operations:
        for parameter, output, inner in _WEIGHTS.get(operation.type, ()):
            name = operation.inputs[parameter].arguments[0].name
            producer = producers.get(name)
            if producer is None or producer.type != "const":
                continue
            tensor = producer.outputs[0].type.tensorType
            shape = tuple(int(side.constant.size) for side in tensor.dimensions)
            if tensor.dataType not in _FLOATS or len(shape) < 2:
                continue
            reason = _reason(operation, producers, inputs, shape)
            dtype = _FLOATS[tensor.dataType]
            values = math.prod(shape)
            yield ProgramWeight(name, dtype, shape[output], shape[inner], values, reason)


def _reason(
    operation: Any, producers: Mapping[str, Any], inputs: set[str], shape: tuple[int, ...]
) -> str:
    """Why a weight stays in float; '' where it does not."""
    kind = operation.type
    source = "" if kind == "gather" else _source(operation, producers)
    if kind == "conv_transpose" and max(shape[2:]) == 1:  # upsampling has wider kernels
        return LAST
    if kind == "conv" and source in inputs:
        return FIRST
    if kind == "conv" and _integer(operation.inputs["groups"], producers) > 1:
        return DEPTHWISE
    if kind == "linear" and source == "timestep_embedding":
        return MAPPER
    if kind == "matmul":
        return _RESIZE
    return SMALL if math.prod(shape) < SMALLEST else ""


def _source(operation: Any, producers: Mapping[str, Any]) -> str:
    """What an operation's `x` is, before it was cast to another type."""
    name = operation.inputs["x"].arguments[0].name
    while name in producers and producers[name].type == "cast":
        name = producers[name].inputs["x"].arguments[0].name
    return str(name)


def _integer(argument: Any, producers: Mapping[str, Any]) -> int:
    value = producers[argument.arguments[0].name].attributes["val"]
    return int(value.immediateValue.tensor.ints.values[0])
