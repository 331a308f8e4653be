"""The weights of an ONNX graph: which node uses them how, and which stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# Smaller weights save nothing: timestep mappers and biases of the demo are under this.
SMALLEST = 1024
# Why a weight stays in float. Figures: the demo's worst step with that role alone in int8.
LAST = "last projection: epsilon's own rounding"
FIRST = "first projection: 20 dB alone, a few thousand weights"
DEPTHWISE = "depthwise: 21 dB alone, under 1 % of the weights"
MAPPER = "timestep mapper: scales the whole stream, under 1 % of the time"
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


def uses(model: "onnx.ModelProto") -> Iterator[Use]:
    """Every weight of the graph's convolutions, products and embeddings, in running order."""
    import onnx  # the roles are named here for other formats, too

    shapes = {value.name: tuple(value.dims) for value in model.graph.initializer}
    types = {value.name: value.data_type for value in model.graph.initializer}
    first = True
    for node in model.graph.node:
        position = 0 if node.op_type == "Gather" else 1
        weight = node.input[position] if len(node.input) > position else ""
        if node.op_type not in _AXES or weight not in shapes:
            continue
        if len(shapes[weight]) < 2 or types[weight] != onnx.TensorProto.FLOAT:
            continue
        attributes = {item.name: item for item in node.attribute}
        transposed = "transB" in attributes and attributes["transB"].i == 1
        output, inner = (0, 1) if transposed else _AXES[node.op_type]
        reason = _reason(node, attributes, shapes[weight], first=first)
        first = first and node.op_type != "Conv"
        yield Use(weight, node.name, node.op_type, output, inner, reason)


def _reason(
    node: "onnx.NodeProto",
    attributes: "dict[str, onnx.AttributeProto]",
    shape: tuple[int, ...],
    *,
    first: bool,
) -> str:
    """Why a weight stays in float; '' where it does not."""
    size = 1
    for side in shape:
        size *= side
    if node.op_type == "ConvTranspose" and max(shape[2:]) == 1:  # upsampling has wider kernels
        return LAST
    if node.op_type == "Conv" and first:
        return FIRST
    if "group" in attributes and attributes["group"].i > 1:
        return DEPTHWISE
    if node.op_type == "Gemm":
        return MAPPER
    return SMALL if size < SMALLEST else ""
