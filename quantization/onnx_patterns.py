"""What `channels_last` recognises in the exporter's graphs."""

from dataclasses import dataclass

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import Node, Value


def kernel(node: Node) -> tuple[NDArray[np.generic] | None, tuple[int, ...]]:
    """A convolution's weight, where it is constant and the only use of it, and its sides."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or len(list(weight.uses())) != 1:
        return None, ()
    shape = tuple(weight.const_value.shape.numpy())
    return (weight.const_value.numpy(), shape[2:]) if len(shape) == 4 else (None, ())


def is_product(node: Node, sides: tuple[int, ...]) -> bool:
    """Whether every output comes of its own pixels: a matrix product with nothing around it."""
    if sides not in ((1, 1), (2, 2)):
        return False

    def numbers(name: str, default: list[int]) -> list[int]:
        return list(node.attributes[name].as_ints()) if name in node.attributes else default

    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    return (
        group == 1
        and numbers("strides", [1, 1]) == list(sides)
        and not any(numbers("pads", [0] * 4))
        and not any(numbers("output_padding", [0, 0]))
        and numbers("dilations", [1, 1]) == [1, 1]
    )


def channel_norm(node: Node) -> tuple[Value | None, float]:
    """The input of (x - mean) * rsqrt(mean((x - mean)^2) + eps) over axis 1, and eps."""
    if node.op_type != "Mul":
        return None, 0.0
    chain = [*_up(node.inputs[1], "Reciprocal", "Sqrt", "Add", "ReduceMean", "Pow")]
    centred = node.inputs[0].producer() if node.inputs[0] is not None else None
    if len(chain) != 5 or centred is None or centred.op_type != "Sub":
        return None, 0.0
    addition, mean, power = chain[2:]
    epsilon, axes = addition.inputs[1], mean.inputs[1]
    if power.inputs[0] is not node.inputs[0] or epsilon is None or epsilon.const_value is None:
        return None, 0.0
    if axes is None or axes.const_value is None or axes.const_value.numpy().tolist() != [1]:
        return None, 0.0
    return centred.inputs[0], float(epsilon.const_value.numpy())


def _up(value: Value | None, *kinds: str) -> list[Node]:
    """The nodes of these kinds, one before the other, that make a value; [] where they do not."""
    nodes = []
    for kind in kinds:
        node = None if value is None else value.producer()
        if node is None or node.op_type != kind:
            return []
        nodes.append(node)
        value = node.inputs[0]
    return nodes


def merges_heads(value: Value, width: int) -> bool:
    shape = value.shape
    return (
        shape is not None
        and len(shape) == 4
        and isinstance(shape[1], int)
        and isinstance(shape[2], int)
        and shape[1] * shape[2] == width
    )


@dataclass(frozen=True)
class Attention:
    """softmax(scale * query @ key) @ value: (B,heads,P,d), (B,heads,d,L), (B,heads,L,d)."""

    query: Value
    key: Value
    value: Value
    scale: float
    heads: int
    width: int  # of all heads


def attention(node: Node) -> Attention | None:
    """What the product of attention's weights and values belongs to; None for any other node."""
    chain = _up(node.outputs[0], "MatMul", "Softmax", "MatMul", "Mul")
    if len(chain) != 4:
        return None
    (query, scale), key, value = chain[3].inputs, chain[2].inputs[1], node.inputs[1]
    if query is None or scale is None or key is None or value is None or query.shape is None:
        return None
    heads, size = query.shape[1], query.shape[3]
    if scale.const_value is None or scale.const_value.size != 1:
        return None
    if not (isinstance(heads, int) and isinstance(size, int)):
        return None
    factor = float(scale.const_value.numpy())
    return Attention(query, key, value, factor, heads, heads * size)


def wide_attention(graph: onnx_ir.Graph) -> dict[Node, Attention]:
    """The attention over the most positions, by its last product: of several levels the narrowest.

    One operator computes it a tenth faster than five at 4,096 positions, and never holds its scores
    (0.7 GB there); at 1,024 or fewer it is a sixth slower. docs/performance.md
    """
    every = {node: found for node in graph if (found := attention(node))}
    widths = {found.width for found in every.values()}
    return {
        n: found for n, found in every.items() if len(widths) > 1 and found.width == min(widths)
    }
