"""Integer and fp16 weights in OpenVINO IR: the decompression subgraph that nncf writes, too.

nncf.compress_weights (3.4) itself is not used: its int8 modes have one scale per output channel,
which costs the demo's Stage B 4 dB against groups, and its int4 modes leave convolutions, most of
these graphs, in eight bits.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantization.integers import KEPT_GROUP, group_of, quantized
from quantization.recipes import Float16, IntegerWeights
from quantization.roles import DEPTHWISE, FIRST, LAST, MAPPER, SMALL, SMALLEST, UNHELD, Use
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors

# Where a weight's output channels are, and where the inputs that are summed over.
_AXES = {
    "Convolution": (0, 1),
    "ConvolutionBackpropData": (1, 0),
    "MatMul": (1, 0),
    "Gather": (0, 1),
}
_DEPTHWISE = ("GroupConvolution", "GroupConvolutionBackpropData")
_SHAPING = ("Reshape", "Unsqueeze", "Squeeze", "Convert")


def quantize_weights(
    source: Path, target: Path, recipe: IntegerWeights, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` with integer weights; lists every weight, changed or not."""
    model = read(source)
    weights = compress(model, recipe)
    save(model, target)
    return weights


def quantize_fp16(
    source: Path, target: Path, recipe: Float16, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` with its constants in fp16, as the exporter does.

    OpenVINO widens them when it loads, and keeps those that fp16 cannot hold; lists the weights.
    """
    import openvino

    names = [use.weight for use in uses(read(source))]
    openvino.save_model(read(source), str(target), compress_to_fp16=True)
    stored = {use.weight: kind for use, kind in _typed_uses(read(target))}
    return [
        Weight(name, "float16", "") if stored[name] == "f16" else Weight(name, "float32", UNHELD)
        for name in names
    ]


def weight_names(source: Path) -> Collection[str]:
    """The weights of a graph that a plan may name."""
    return {use.weight for use in uses(read(source))}


def read(path: Path) -> Any:
    """An openvino.Model; it maps the weights' file until it is gone."""
    import openvino

    return openvino.Core().read_model(str(path))


def save(model: Any, path: Path) -> None:
    """Write a graph as the exporter does: `path`, and the weights in a .bin beside it."""
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def uses(model: Any) -> Iterator[Use]:
    """Every fp32 weight of the model's convolutions, products and embeddings, in running order."""
    return (use for use, kind in _typed_uses(model) if kind == "f32")


def compress(model: Any, recipe: IntegerWeights) -> list[Weight]:
    """Put integer weights into an openvino.Model; lists every weight, changed or not."""
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    widened: dict[str, Any] = {}
    weights = []
    for use in list(uses(model)):
        reason = use.reason or ("the plan skips it" if use.weight in recipe.skip else "")
        if reason:
            weights.append(Weight(use.weight, "float32", reason))
            continue
        port = weight_input(nodes[use.node])
        bits, group = recipe.bits, recipe.group
        # Resampling by kernels wider than 1x1: few weights, 1.2 dB of Stage B in four bits.
        if use.weight in recipe.keep or max(port.get_shape()[2:], default=1) > 1:
            bits, group = 8, KEPT_GROUP
        group = group_of(port.get_shape()[use.input_axis], group)
        if use.weight not in widened:  # else shared, and done for an earlier node
            widened[use.weight] = _widened(use, weight_values(port), bits, group)
        port.replace_source_output(widened[use.weight])
        blocks = f"groups of {group}" if group else "per channel"
        weights.append(Weight(use.weight, f"int{bits} weights, {blocks}", ""))
    return weights


def weight_input(node: Any) -> Any:
    """The input of a node where its weight is."""
    return node.input(0 if node.get_type_name() == "Gather" else 1)


def weight_values(port: Any) -> NDArray[np.float32]:
    """A constant input as the node sees it."""
    values: NDArray[np.float32] = constant_of(port).data.reshape(port.get_shape())
    return values


def constant_of(port: Any) -> Any:
    """The Constant behind an input, by way of reshapes and conversions; None for anything else."""
    node = port.get_source_output().get_node()
    while node.get_type_name() in _SHAPING:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def _typed_uses(model: Any) -> Iterator[tuple[Use, str]]:
    """Every weight, of whatever type, with the type it is stored in."""
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in (*_AXES, *_DEPTHWISE):
            continue
        port = weight_input(node)
        constant = constant_of(port)
        if constant is None or not port.get_element_type().is_real() or len(port.get_shape()) < 2:
            continue
        output, inner = _AXES.get(kind, (0, 1))
        if kind == "MatMul" and node.get_attributes()["transpose_b"]:
            output, inner = inner, output
        name = constant.get_friendly_name().removesuffix("_compressed")  # fp16's
        use = Use(name, node.get_friendly_name(), kind, output, inner, _reason(node, port))
        yield use, constant.get_element_type().to_string()


def _reason(node: Any, port: Any) -> str:
    """Why a weight stays in float; '' where it does not."""
    kind, data = node.get_type_name(), node.input_value(0)
    if kind in _DEPTHWISE:
        return DEPTHWISE
    if kind == "ConvolutionBackpropData" and max(port.get_shape()[2:]) == 1:
        return LAST  # upsampling has wider kernels
    if kind == "Convolution" and _is_input(data.get_node()):
        return FIRST
    if kind == "MatMul" and "timestep_embedding" in data.get_names():
        return MAPPER
    return SMALL if math.prod(port.get_shape()) < SMALLEST else ""


def _is_input(node: Any) -> bool:
    """Whether a value is the graph's input, or that normalised as the compressor does it."""
    while node.get_type_name() in ("Subtract", "Divide", "Multiply", "Convert"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Parameter")


def _widened(use: Use, weight: NDArray[np.float32], bits: int, group: int) -> Any:
    """Constant -> Convert -> Multiply by the scale [-> Reshape]: the weight again, in fp32.

    The scales are stored in fp16: with groups of 32 in fp32 they take a quarter of 4-bit weights.
    """
    import openvino
    import openvino.opset15 as ops

    integers, scale = quantized(weight, use, bits, group, np.float16)
    shape = list(weight.shape)
    if group:
        split = use.input_axis
        integers = integers.reshape(*shape[:split], -1, group, *shape[split + 1 :])
        scale = np.expand_dims(scale, split + 1)
    else:
        scale = scale.reshape([-1 if i == use.output_axis else 1 for i in range(weight.ndim)])
    # Every node is named: names that OpenVINO makes up are numbered, differently in each run.
    name = use.weight
    kind = openvino.Type.i8 if bits == 8 else openvino.Type.i4
    stored = ops.constant(integers, dtype=kind, name=f"{name}_int{bits}")
    step = ops.constant(scale, name=f"{name}_scale")
    wide = ops.convert(stored, "f32", name=f"{name}_wide")
    wide_step = ops.convert(step, "f32", name=f"{name}_scale_wide")
    values = ops.multiply(wide, wide_step, name=f"{name}_float")
    if group:
        sides = ops.constant(np.array(shape, np.int64), name=f"{name}_shape")
        values = ops.reshape(values, sides, special_zero=False, name=f"{name}_reshaped")
    return values.output(0)
