"""Values of a graph, and copies of them with their axes in another order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import Attr, Node, Value

from quantization.onnx_files import add_initializer

Order = tuple[int, ...]
# Axis i of the value is axis ORDER[i] of the copy: (B,C,H,W) of (B,H,W,C), and so on.
CHANNELS_LAST: Order = (0, 3, 1, 2)
POSITIONS_FIRST: Order = (0, 2, 1)  # (B,C,P) of (B,P,C)
HEADS_LAST: Order = (0, 2, 3, 1)  # (B,heads,d,P) of (B,P,heads,d)
HEADS_INSIDE: Order = (0, 2, 1, 3)  # (B,heads,P,d) of (B,P,heads,d)


@dataclass(frozen=True)
class Held:
    """A copy of a value with its axes in another order: value = Transpose(copy, perm=order)."""

    copy: Value
    order: Order


class Reordering:
    """What is held of a graph in which order, and the transposes between: each made once.

    `before` is always the node in whose place others are added; None: at the end.
    """

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.held: dict[Value, Held] = {}
        self.copies: dict[tuple[Value, Order], Value] = {}

    def add(
        self,
        before: Node | None,
        kind: str,
        inputs: Sequence[Value | None],
        attributes: Sequence[Attr] = (),
        *,
        name: str,
    ) -> Value:
        node = Node("", kind, inputs, attributes, name=name)
        node.outputs[0].name = name
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return node.outputs[0]

    def hold(self, value: Value, copy: Value, order: Order) -> None:
        copy.type = value.type
        if value.shape is not None and copy.shape is None:
            dimensions = [value.shape[order.index(axis)] for axis in range(len(order))]
            copy.shape = onnx_ir.Shape(dimensions)
        self.held[value] = Held(copy, order)

    def restored(self, value: Value, before: Node | None) -> Value:
        """A value in its own order."""
        held = self.held[value]
        return self.reordered(held.copy, held.order, before)

    def reordered(self, value: Value, order: Order, before: Node | None) -> Value:
        """Transpose(value, perm=order), made once."""
        if order == tuple(range(len(order))):
            return value
        if (value, order) not in self.copies:
            perm = onnx_ir.AttrInt64s("perm", order)
            name = f"{value.name}_{''.join(map(str, order))}"
            copy = self.add(before, "Transpose", [value], [perm], name=name)
            copy.type = value.type
            if value.shape is not None:
                copy.shape = onnx_ir.Shape([value.shape[axis] for axis in order])
            self.copies[value, order] = copy
        return self.copies[value, order]

    def in_order(self, value: Value, order: Order, before: Node) -> Value | None:
        """The copy of a value with its axes in `order`; None where its rank is another.

        Numbers that are the same everywhere stay as they are.
        """
        held = self.held.get(value)
        if held is not None and len(held.order) == len(order):
            # copy' = Transpose(value, inverse of order), value = Transpose(copy, held.order)
            back = inverse(order)
            return self.reordered(held.copy, tuple(held.order[axis] for axis in back), before)
        if value.const_value is not None and value.const_value.size == 1:
            return value
        if value.shape is None or len(value.shape) != len(order):
            return None
        if value.is_initializer() and value.const_value is not None:
            return self.constant_in_order(value, order)
        return self.reordered(value, inverse(order), before)

    def aligned(self, node: Node) -> tuple[list[Value], Order]:
        """All inputs of a node in the order of the first that is held; none where one cannot be."""
        held = [self.held[value] for value in node.inputs if value in self.held]
        order = held[0].order if held else ()
        inputs = [self.in_order(v, order, node) for v in node.inputs if held and v is not None]
        aligned = [value for value in inputs if value is not None]
        return (aligned if len(aligned) == len(inputs) else []), order

    def constant_in_order(self, value: Value, order: Order) -> Value:
        back = inverse(order)
        if (value, back) not in self.copies:
            assert value.const_value is not None
            turned = np.ascontiguousarray(value.const_value.numpy().transpose(back))
            self.copies[value, back] = self.constant(turned, f"{value.name}_last")
        return self.copies[value, back]

    def constant(self, values: NDArray[np.generic], name: str) -> Value:
        known = self.graph.initializers.get(name)
        return known or add_initializer(self.graph, onnx_ir.tensor(values, name=name))


def inverse(order: Order) -> Order:
    return tuple(order.index(axis) for axis in range(len(order)))
