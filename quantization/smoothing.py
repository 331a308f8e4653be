"""SmoothQuant for the Linear after GlobalResponseNorm, exact before quantisation.

GRN multiplies by `gamma * share + 1`, one number per channel and image: dividing that by a scale
per channel, and multiplying the next weight's input channels by it, changes nothing but the ranges.
Its few large channels, which differ from image to image, no longer set the step of all others.
Source: Xiao et al., SmoothQuant (ICML 2023), equation 4.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Floats = NDArray[np.float32]


def smooth(model: onnx.ModelProto, ranges: dict[str, Floats], alpha: float) -> int:
    """Migrate scales in place; returns how many Linears were smoothed.

    `ranges` has the largest absolute value per channel of each Linear's input.
    """
    nodes = {output: node for node in model.graph.node for output in node.output}
    weights = {value.name: value for value in model.graph.initializer}
    found = list(after_grn(model))
    for linear in found:
        scaled = nodes[linear.input[0]]
        weight = numpy_helper.to_array(weights[linear.input[1]])
        scale = _scale(ranges[linear.input[0]], weight, alpha)
        shape = (1, -1, *(1,) * (weight.ndim - 2))
        weights[linear.input[1]].CopyFrom(
            numpy_helper.from_array(weight * scale.reshape(shape), linear.input[1])
        )
        _divide(model, scaled, scale.reshape(shape), nodes)
    return len(found)


def after_grn(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Convolutions whose input is x * (gamma * share + 1)."""
    nodes = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[0] not in nodes:
            continue
        scaled = nodes[node.input[0]]
        if scaled.op_type == "Mul" and _factor(scaled, nodes) is not None:
            yield node


def _factor(scaled: onnx.NodeProto, nodes: dict[str, onnx.NodeProto]) -> str | None:
    """The input of a Mul that is `... + 1` over a sum of squares: GRN's, no other's."""
    for name in scaled.input:
        addition = nodes.get(name)
        if addition is None or addition.op_type != "Add":
            continue
        above, reached = [nodes[i] for i in addition.input if i in nodes], 0
        if any(node.op_type == "Erf" for node in above):
            continue  # GELU's 1 + erf
        while above and reached < 8:
            if any(node.op_type == "ReduceSum" for node in above):
                return name
            above = [nodes[i] for node in above for i in node.input if i in nodes]
            reached += 1
    return None


def _scale(largest: Floats, weight: Floats, alpha: float) -> Floats:
    """Per input channel: how far activations are narrowed and weights widened."""
    own = np.abs(weight).reshape(weight.shape[0], weight.shape[1], -1).max(axis=(0, 2))
    scale = np.maximum(largest, 1e-5) ** alpha / np.maximum(own, 1e-5) ** (1 - alpha)
    return (scale / np.exp(np.log(scale).mean())).astype(np.float32)


def _divide(
    model: onnx.ModelProto,
    scaled: onnx.NodeProto,
    scale: Floats,
    nodes: dict[str, onnx.NodeProto],
) -> None:
    factor = _factor(scaled, nodes)
    assert factor is not None
    name = f"{factor}_smoothed"
    constant = numpy_helper.from_array((1 / scale).astype(np.float32), f"{name}_scale")
    model.graph.initializer.append(constant)
    node = helper.make_node("Mul", [factor, constant.name], [name], name=name)
    model.graph.node.insert(list(model.graph.node).index(scaled), node)
    scaled.input[list(scaled.input).index(factor)] = name
