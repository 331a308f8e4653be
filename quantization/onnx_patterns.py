"""What `channels_last` recognises in the exporter's graphs."""

import numpy as np
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
