"""SmoothQuant for the products behind a norm, exact before quantisation.

A norm ends in a factor per channel: LayerNormalization's scale, and GlobalResponseNorm's
`gamma * share + 1`. Dividing it by a number per channel, and multiplying the next weights' input
channels by the same, changes nothing but the ranges: the few large channels, which differ from
image to image, no longer set the step of all others. It costs nothing when the graph runs.
Source: Xiao et al., SmoothQuant (ICML 2023), equation 4.

Graphs are those of `channels_last`: a weight is (inputs, outputs).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import Graph, Model, Node, Value

from quantization.calibrated import Extremes
from quantization.onnx_files import add_initializer

Floats = NDArray[np.float32]
# From GRN's sum of squares to the addition of 1 there are a root, a mean, a division and a product.
_FARTHEST = 8


@dataclass(frozen=True)
class Normed:
    """A norm's last node and the weights that multiply its result.

    Where Stage B concatenates other channels behind the norm's, those weights have more inputs.
    """

    node: Node
    factor: Value
    width: int
    weights: tuple[Value, ...]


def smooth(
    model: Model, extremes: Extremes, alpha: float, norm_alpha: float
) -> dict[str, tuple[Floats, Floats]]:
    """Migrate scales in place; returns the extremes after it, of those weights that changed.

    `alpha` is for GlobalResponseNorm, `norm_alpha` for LayerNorm.
    """
    changed = {}
    for norm in list(normed(model)):
        names = [weight.name or "" for weight in norm.weights]
        low, high = (ends[: norm.width] for ends in extremes[names[0]])
        scale = _scale(
            np.maximum(np.abs(low), np.abs(high)),
            norm,
            norm_alpha if norm.node.op_type == "LayerNormalization" else alpha,
        )
        for name, weight in zip(names, norm.weights, strict=True):
            assert weight.const_value is not None
            values = np.array(weight.const_value.numpy())
            values[: norm.width] *= scale[:, None]
            weight.const_value = onnx_ir.tensor(values, name=name)
            wide = np.ones(len(extremes[name][0]), np.float32)
            wide[: norm.width] = scale
            changed[name] = (extremes[name][0] / wide, extremes[name][1] / wide)
        _divide(model.graph, norm, scale)
    return changed


def normed(model: Model) -> Iterator[Normed]:
    """Every norm whose result products by a weight take, and nothing else does."""
    behind: dict[Value, list[Value]] = {}
    for node in model.graph:
        if (
            node.op_type != "MatMul"
            or node.inputs[1] is None
            or not node.inputs[1].is_initializer()
        ):
            continue
        source = node.inputs[0]
        maker = None if source is None else source.producer()
        if maker is not None and maker.op_type == "Concat":
            source = maker.inputs[0]
        if source is not None:
            behind.setdefault(source, []).append(node.inputs[1])
    for source, weights in behind.items():
        norm = source.producer()
        factor = None if norm is None else _factor(norm)
        if norm is None or factor is None or len(list(source.uses())) != len(weights):
            continue
        width = None if factor.shape is None else factor.shape[-1]
        if isinstance(width, int):
            yield Normed(norm, factor, width, tuple(weights))


def norms(model: Model) -> int:
    """How many norms stand in front of products, by what nothing else in a graph computes.

    GlobalResponseNorms always do. The norms in front of resampling and the last projection do not.
    """
    count = 0
    for node in model.graph:
        after = {use.node.op_type for use in node.outputs[0].uses()}
        normed_products = node.op_type == "LayerNormalization" and after <= {"MatMul", "Concat"}
        count += normed_products or node.op_type in ("ReduceSum", "ReduceL2", "ReduceSumSquare")
    return count


def _factor(node: Node) -> Value | None:
    """What a norm's last node multiplies by: LayerNormalization's scale, or GRN's `... + 1`."""
    if node.op_type == "LayerNormalization":
        return node.inputs[1]
    if node.op_type != "Mul":
        return None
    for value in node.inputs:
        addition = None if value is None else value.producer()
        if addition is None or addition.op_type != "Add":
            continue
        above = addition.predecessors()
        if any(other.op_type == "Erf" for other in above):
            continue  # GELU's 1 + erf
        for _ in range(_FARTHEST):
            if any(other.op_type == "ReduceSum" for other in above):
                return value
            above = [maker for other in above for maker in other.predecessors()]
    return None


def _scale(largest: Floats, norm: Normed, alpha: float) -> Floats:
    """Per input channel: how far activations are narrowed and weights widened.

    Their geometric mean is 1: the step of the weights as a whole stays where it was.
    """
    rows = [w.const_value.numpy()[: norm.width] for w in norm.weights if w.const_value is not None]
    widest = np.max([np.abs(row).max(axis=1) for row in rows], axis=0)
    scale = np.maximum(largest, 1e-5) ** alpha / np.maximum(widest, 1e-5) ** (1 - alpha)
    return np.asarray(scale / np.exp(np.log(scale).mean()), np.float32)


def _divide(graph: Graph, norm: Normed, scale: Floats) -> None:
    """Divide a norm's factor: a constant by itself, GRN's in a node of its own before its use."""
    name = f"{norm.factor.name}_{norm.node.name}_smoothed"
    inverse = onnx_ir.tensor((1 / scale).astype(np.float32), name=f"{name}_scale")
    place = list(norm.node.inputs).index(norm.factor)
    if norm.factor.is_initializer():  # ones, as the exporter's norms have no weights
        norm.node.replace_input_with(place, add_initializer(graph, inverse))
        return
    node = Node("", "Mul", [norm.factor, add_initializer(graph, inverse)], name=name)
    node.outputs[0].name = name
    graph.insert_before(norm.node, node)
    norm.node.replace_input_with(place, node.outputs[0])
