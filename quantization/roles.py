"""The weights of an ONNX graph: which node uses them how, and which stay as they are.

Core ML and OpenVINO find the same weights by their own operators, and give the same reasons.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

# Smaller weights save nothing: timestep mappers and biases of the demo are under this.
SMALLEST = 1024
# Why a weight stays in float. Figures: the demo's worst step with that role alone in int8.
LAST = "last projection: epsilon's own rounding"
FIRST = "first projection: 20 dB alone, a few thousand weights"
DEPTHWISE = "depthwise: 21 dB alone, under 1 % of the weights"
MAPPER = "timestep mapper: scales the whole stream, under 1 % of the time"
UNHELD = "fp16 cannot hold its values"
SMALL = f"fewer than {SMALLEST} values"
# Where a weight's output channels are, and where the inputs that are summed over.
_AXES = {
    "Conv": (0, 1),
    "ConvTranspose": (1, 0),
    "MatMul": (1, 0),
    "Gemm": (1, 0),
    "Gather": (0, 1),
}


@dataclass(frozen=True)
class Use:
    """A weight and the node that uses it; `reason` says why it is left alone ('': it is not)."""

    weight: str
    node: str
    kind: str
    output_axis: int
    input_axis: int
    reason: str


def uses(model: "onnx_ir.Model") -> Iterator[Use]:
    """Every fp32 weight of the graph's convolutions, products and embeddings, in running order.

    Their values are not looked at: external data may be absent. A weight that several nodes share
    comes once for each.
    """
    import onnx_ir  # here, since formats that need no ONNX take their reasons from this file

    first = True
    for node in model.graph:
        position = 0 if node.op_type == "Gather" else 1
        weight = node.inputs[position] if len(node.inputs) > position else None
        if node.op_type not in _AXES or weight is None or not weight.is_initializer():
            continue
        assert weight.name and weight.const_value is not None
        shape = tuple(weight.const_value.shape.numpy())
        if len(shape) < 2 or weight.const_value.dtype != onnx_ir.DataType.FLOAT:
            continue
        # Only Gemm can be told to take its weight transposed.
        transposed = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        output, inner = (0, 1) if transposed else _AXES[node.op_type]
        reason = _reason(node, shape, first=first)
        first = first and node.op_type != "Conv"
        yield Use(weight.name, node.name or "", node.op_type, output, inner, reason)


def _reason(node: "onnx_ir.Node", shape: tuple[int, ...], *, first: bool) -> str:
    """Why a weight stays in float; '' where it does not. `first`: no convolution came before."""
    if node.op_type == "ConvTranspose" and max(shape[2:]) == 1:  # upsampling has wider kernels
        return LAST
    if node.op_type == "Conv" and first:
        return FIRST
    if "group" in node.attributes and node.attributes["group"].as_int() > 1:
        return DEPTHWISE
    if node.op_type == "Gemm":  # the only products with a bias that are not convolutions
        return MAPPER
    return SMALL if math.prod(shape) < SMALLEST else ""
