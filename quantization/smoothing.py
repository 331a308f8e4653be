"""SmoothQuant for the Linear after GlobalResponseNorm, exact before quantisation.

GRN multiplies by `gamma * share + 1`, one number per channel and image: dividing that by a scale
per channel, and multiplying the next weight's input channels by it, changes nothing but the ranges.
Its few large channels, which differ from image to image, no longer set the step of all others.
Source: Xiao et al., SmoothQuant (ICML 2023), equation 4.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import Model, Node, Value

from quantization.onnx_files import add_initializer

Floats = NDArray[np.float32]
# From GRN's sum of squares to the addition of 1 there are a root, a mean, a division and a product.
_FARTHEST = 8


def smooth(model: Model, ranges: dict[str, Floats], alpha: float) -> int:
    """Migrate scales in place; returns how many Linears were smoothed.

    `ranges` has the largest absolute value per channel, (C,), of each Linear's input by its name.
    """
    linears = list(after_grn(model))
    for linear in linears:
        scaled, weight = linear.inputs[0], linear.inputs[1]
        assert scaled is not None and scaled.name and weight is not None and weight.const_value
        values = weight.const_value.numpy()
        scale = _scale(ranges[scaled.name], values, alpha)
        scale = scale.reshape(1, -1, *(1,) * (values.ndim - 2))
        weight.const_value = onnx_ir.tensor(values * scale, name=weight.name)
        _divide(model.graph, scaled, scale)
    return len(linears)


def after_grn(model: Model) -> Iterator[Node]:
    """Convolutions by a weight whose input is x * (gamma * share + 1)."""
    for node in model.graph:
        if node.op_type != "Conv":
            continue
        scaled = node.inputs[0].producer() if node.inputs[0] is not None else None
        if scaled is not None and scaled.op_type == "Mul" and _factor(scaled) is not None:
            yield node


def norms(model: Model) -> int:
    """How many GlobalResponseNorms a graph has, by what nothing else in it computes."""
    return sum(node.op_type in ("ReduceSum", "ReduceL2", "ReduceSumSquare") for node in model.graph)


def _factor(scaled: Node) -> Value | None:
    """The input of a Mul that is `... + 1` over a sum of squares: GRN's, no other's."""
    for value in scaled.inputs:
        addition = None if value is None else value.producer()
        if addition is None or addition.op_type != "Add":
            continue
        above = addition.predecessors()
        if any(node.op_type == "Erf" for node in above):
            continue  # GELU's 1 + erf
        for _ in range(_FARTHEST):
            if any(node.op_type == "ReduceSum" for node in above):
                return value
            above = [maker for node in above for maker in node.predecessors()]
    return None


def _scale(largest: Floats, weight: Floats, alpha: float) -> Floats:
    """Per input channel: how far activations are narrowed and weights widened.

    Their geometric mean is 1: the step of the weights as a whole stays where it was.
    """
    widest = np.abs(weight).reshape(weight.shape[0], weight.shape[1], -1).max(axis=(0, 2))
    scale = np.maximum(largest, 1e-5) ** alpha / np.maximum(widest, 1e-5) ** (1 - alpha)
    return (scale / np.exp(np.log(scale).mean())).astype(np.float32)


def _divide(graph: onnx_ir.Graph, product: Value, scale: Floats) -> None:
    """Divide GRN's factor of `product` by `scale`, in a node of its own before it."""
    scaled = product.producer()
    factor = None if scaled is None else _factor(scaled)
    assert scaled is not None and factor is not None
    name = f"{factor.name}_smoothed"
    inverse = (1 / scale).astype(np.float32)
    constant = add_initializer(graph, onnx_ir.tensor(inverse, name=f"{name}_scale"))
    node = onnx_ir.Node("", "Mul", [factor, constant], name=name)
    node.outputs[0].name = name
    graph.insert_before(scaled, node)
    scaled.replace_input_with(list(scaled.inputs).index(factor), node.outputs[0])
