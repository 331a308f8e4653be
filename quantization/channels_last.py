"""A denoiser's graph with its channels in the last axis: convolutions over points become MatMul.

ONNX Runtime multiplies int8 matrices and has no int8 kernel for convolutions with float results
(docs/quantization.md), so integer graphs are written in the form that has one. The exporter's are
NCHW, which OpenVINO and Core ML run fastest.

The pass walks the graph once. For a value that it holds in another order of axes it keeps that
copy and how to get back (`Held`); a node whose meaning does not hang on the order takes the
copies, any other node gets its inputs transposed back. What is left are transposes around
depthwise convolutions and attention's own products.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import Node, Value
from onnx_ir.passes.common import RemoveUnusedNodesPass

from quantization.onnx_files import CONTRIB
from quantization.onnx_patterns import (
    Attention,
    channel_norm,
    is_product,
    kernel,
    merges_heads,
    wide_attention,
)
from quantization.reordering import (
    CHANNELS_LAST,
    HEADS_INSIDE,
    HEADS_LAST,
    POSITIONS_FIRST,
    Held,
    Order,
    Reordering,
    inverse,
)
from quantization.roles import uses

_UNARY = {"Erf", "Sqrt", "Reciprocal", "Sigmoid", "Abs", "Neg", "Cast", "LeakyRelu", "Relu"}
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_BINARY = {"Add", "Sub", "Mul", "Div", "Pow"}
_REDUCTIONS = {"ReduceMean", "ReduceSum"}


def channels_last(model: onnx_ir.Model, *, fuse_attention: bool = False) -> int:
    """Rewrite a graph in place; returns how many convolutions became products of matrices.

    Names of weights stay; a weight (O,I,1,1) becomes (I,O). Weights are read. Convolutions that
    `roles.uses` has a reason for to leave in float stay convolutions. `fuse_attention` writes the
    widest attention as MultiHeadAttention, for the CPU: on WebGPU (ONNX Runtime 1.27,
    SwiftShader) Stage B then came out at 29 dB instead of 131.
    """
    weights = list(uses(model))
    if not any(use.kind in _CONVOLUTIONS and not use.reason for use in weights):
        return 0
    stay = {use.node for use in weights if use.reason}
    wide = wide_attention(model.graph) if fuse_attention else {}
    rewrite = _Rewrite(model.graph, stay, wide)
    for node in list(model.graph):
        rewrite.visit(node)
    rewrite.finish()
    if rewrite.products:
        RemoveUnusedNodesPass()(model)
    return rewrite.products


class _Rewrite(Reordering):
    """The walk over one graph, with a rule for each operator that may take copies."""

    def __init__(
        self, graph: onnx_ir.Graph, stay: Collection[str], wide: Mapping[Node, Attention]
    ) -> None:
        super().__init__(graph)
        self.stay, self._wide = stay, wide
        self.products = 0
        self._rules: dict[str, Callable[[Node], bool]] = {
            "Conv": self._conv,
            "ConvTranspose": self._conv_transpose,
            "Concat": self._concat,
            "Split": self._split,
            "Transpose": self._transpose,
            "Reshape": self._reshape,
            "MatMul": self._attention,
            **dict.fromkeys(_UNARY, self._unary),
            **dict.fromkeys(_BINARY, self._binary),
            **dict.fromkeys(_REDUCTIONS, self._reduce),
        }

    def visit(self, node: Node) -> None:
        """Rewrite one node where it can be, or give it its inputs as they were."""
        rule = self._rules.get(node.op_type)
        if rule is not None and rule(node):
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.held:
                node.replace_input_with(index, self.restored(value, node))

    def finish(self) -> None:
        """Give the graph's own outputs in their order, and by their names."""
        for index, value in enumerate(self.graph.outputs):
            if value in self.held and value.producer() is not None:
                restored = self.restored(value, None)
                if restored is not value:
                    restored.name, value.name = value.name, f"{value.name}_unused"
                    restored.shape, restored.type = value.shape, value.type
                    self.graph.outputs[index] = restored

    # The rules: each says whether it took the node.

    def _unary(self, node: Node) -> bool:
        value = node.inputs[0]
        if value is None or value not in self.held:
            return False
        held = self.held[value]
        copy = self.add(
            node, node.op_type, [held.copy], list(node.attributes.values()), name=_name(node)
        )
        self.hold(node.outputs[0], copy, held.order)
        return True

    def _binary(self, node: Node) -> bool:
        if self._norm(node):
            return True
        inputs, order = self.aligned(node)
        if not inputs:
            return False
        copy = self.add(node, node.op_type, inputs, name=_name(node))
        self.hold(node.outputs[0], copy, order)
        return True

    def _norm(self, node: Node) -> bool:
        """The exporter's ChannelNorm, seven nodes over axis 1, as one over the last axis."""
        source, epsilon = channel_norm(node)
        if source is None or source not in self.held:
            return False
        held = self.held[source]
        if held.order != CHANNELS_LAST or source.shape is None:
            return False
        width = source.shape[1]
        if not isinstance(width, int):
            return False
        ones = self.constant(np.ones(width, np.float32), f"ones_{width}")
        attributes = [onnx_ir.AttrInt64("axis", -1), onnx_ir.AttrFloat32("epsilon", epsilon)]
        # A bias, of zeros: ONNX Runtime up to 1.18 looks for one and ends the process without.
        zeros = self.constant(np.zeros(width, np.float32), f"zeros_{width}")
        inputs = [held.copy, ones, zeros]
        copy = self.add(node, "LayerNormalization", inputs, attributes, name=_name(node))
        self.hold(node.outputs[0], copy, held.order)
        return True

    def _reduce(self, node: Node) -> bool:
        value, axes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
        if value not in self.held or axes is None or axes.const_value is None:
            return False
        if "keepdims" in node.attributes and node.attributes["keepdims"].as_int() == 0:
            return False
        held = self.held[value]
        turned = sorted(held.order[int(axis)] for axis in axes.const_value.numpy())
        name = "axes_" + "_".join(map(str, turned))
        moved = self.constant(np.array(turned, np.int64), name)
        copy = self.add(
            node,
            node.op_type,
            [held.copy, moved],
            list(node.attributes.values()),
            name=_name(node),
        )
        self.hold(node.outputs[0], copy, held.order)
        return True

    def _concat(self, node: Node) -> bool:
        inputs, order = self.aligned(node)
        if not inputs:
            return False
        axis = onnx_ir.AttrInt64("axis", order[node.attributes["axis"].as_int()])
        copy = self.add(node, "Concat", inputs, [axis], name=_name(node))
        self.hold(node.outputs[0], copy, order)
        return True

    def _split(self, node: Node) -> bool:
        value = node.inputs[0]
        if value is None or value not in self.held:
            return False
        held = self.held[value]
        axis = held.order[node.attributes["axis"].as_int()]
        attributes = [a for a in node.attributes.values() if a.name != "axis"]
        split = Node(
            "",
            "Split",
            [held.copy, *node.inputs[1:]],
            [*attributes, onnx_ir.AttrInt64("axis", axis)],
            num_outputs=len(node.outputs),
            name=_name(node),
        )
        self.graph.insert_before(node, split)
        for output, copy in zip(node.outputs, split.outputs, strict=True):
            copy.name = f"{output.name}_last"
            self.hold(output, copy, held.order)
        return True

    def _transpose(self, node: Node) -> bool:
        """Nothing is moved yet: only the order is kept."""
        value = node.inputs[0]
        assert value is not None
        perm = tuple(node.attributes["perm"].as_ints())
        held = self.held.get(value, Held(value, tuple(range(len(perm)))))
        self.held[node.outputs[0]] = Held(held.copy, tuple(held.order[axis] for axis in perm))
        return True

    def _reshape(self, node: Node) -> bool:
        """The three reshapes of attention: positions in one axis, heads apart, and back."""
        value, result = node.inputs[0], node.outputs[0].shape
        if value not in self.held or result is None or not isinstance(result[1], int):
            return False
        order, ranks = self.held[value].order, (len(self.held[value].order), len(result))
        if ranks == (4, 3) and order == CHANNELS_LAST:
            return self._reshaped(node, [0, -1, result[1]], POSITIONS_FIRST)
        if ranks == (3, 4) and order == POSITIONS_FIRST and isinstance(result[2], int):
            return self._reshaped(node, [0, 0, result[1], result[2]], HEADS_LAST)
        if ranks == (4, 4) and order != CHANNELS_LAST and merges_heads(value, result[1]):
            return self._merge_heads(node, result[1])
        return False

    def _reshaped(self, node: Node, shape: list[int], order: Order) -> bool:
        value = node.inputs[0]
        assert value is not None
        name = "shape_" + "_".join(map(str, shape)).replace("-", "m")
        target = self.constant(np.array(shape, np.int64), name)
        copy = self.add(node, "Reshape", [self.held[value].copy, target], name=_name(node))
        self.hold(node.outputs[0], copy, order)
        return True

    def _merge_heads(self, node: Node, width: int) -> bool:
        value, shape = node.inputs[0], node.inputs[1]
        assert value is not None and shape is not None
        together = self.in_order(value, HEADS_LAST, node)
        places = self.constant(np.array([0, 2, 3, 1], np.int64), "places_last")
        moved = self.add(node, "Gather", [shape, places], name=f"{_name(node)}_shape")
        copy = self.add(node, "Reshape", [together, moved], name=_name(node))
        self.hold(node.outputs[0], copy, CHANNELS_LAST)
        return True

    def _attention(self, node: Node) -> bool:
        """Attention over many positions as one operator, which never holds all its scores."""
        found = self._wide.get(node)
        if found is None:
            return False
        together = [
            self.in_order(value, order, node)
            for value, order in (
                (found.query, HEADS_INSIDE),
                (found.key, HEADS_LAST),
                (found.value, HEADS_INSIDE),
            )
        ]
        joined = self.constant(np.array([0, 0, found.width], np.int64), f"joined_{found.width}")
        name = _name(node)
        inputs = [
            self.add(node, "Reshape", [value, joined], name=f"{name}_{kind}")
            for value, kind in zip(together, ("query", "key", "value"), strict=True)
        ]
        fused = Node(
            CONTRIB,
            "MultiHeadAttention",
            inputs,
            [
                onnx_ir.AttrInt64("num_heads", found.heads),
                onnx_ir.AttrFloat32("scale", found.scale),
            ],
            name=f"{name}_fused",
        )
        fused.outputs[0].name = fused.name
        self.graph.insert_before(node, fused)
        self.graph.opset_imports[CONTRIB] = 1
        size = found.width // found.heads
        apart = self.constant(np.array([0, 0, found.heads, size], np.int64), f"apart_{size}")
        copy = self.add(node, "Reshape", [fused.outputs[0], apart], name=name)
        self.hold(node.outputs[0], copy, HEADS_INSIDE)
        return True

    def _conv(self, node: Node) -> bool:
        weight, sides = self._product_of(node)
        if weight is None:
            return self._keep(node)
        value = node.inputs[0]
        assert value is not None
        if sides == (2, 2):  # the four pixels that one output sees, as channels: (y, x, c)
            picture = self.restored(value, node) if value in self.held else value
            size = onnx_ir.AttrInt64("blocksize", 2)
            deep = self.add(node, "SpaceToDepth", [picture], [size], name=f"{_name(node)}_deep")
            points: Value | None = self.reordered(deep, inverse(CHANNELS_LAST), node)
        else:
            points = self.in_order(value, CHANNELS_LAST, node)
        assert points is not None
        matrix = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
        copy = self._product(node, points, matrix)
        self.hold(node.outputs[0], copy, CHANNELS_LAST)
        return True

    def _conv_transpose(self, node: Node) -> bool:
        weight, sides = self._product_of(node)
        if weight is None or sides != (2, 2):
            return self._keep(node)
        value = node.inputs[0]
        assert value is not None
        points = self.in_order(value, CHANNELS_LAST, node)
        assert points is not None
        matrix = weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)  # (I, (y, x, O))
        deep = self._product(node, points, matrix, repeats=4)
        order = self.reordered(deep, CHANNELS_LAST, node)
        size = onnx_ir.AttrInt64("blocksize", 2)
        picture = self.add(node, "DepthToSpace", [order], [size], name=f"{_name(node)}_wide")
        picture.shape, picture.type = node.outputs[0].shape, node.outputs[0].type
        last = self.reordered(picture, inverse(CHANNELS_LAST), node)
        self.hold(node.outputs[0], last, CHANNELS_LAST)
        self.copies[last, CHANNELS_LAST] = picture
        return True

    def _product_of(self, node: Node) -> tuple[NDArray[np.generic] | None, tuple[int, ...]]:
        """The weight and sides of a convolution that becomes a product; None where it stays."""
        weight, sides = kernel(node)
        stays = node.name in self.stay or not is_product(node, sides)
        return (None if stays else weight), sides

    def _product(
        self, node: Node, points: Value, matrix: NDArray[np.generic], repeats: int = 1
    ) -> Value:
        """Points (B,H,W,I) by a matrix (I,O), and the convolution's bias."""
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert weight is not None and weight.name
        weight.const_value = onnx_ir.tensor(np.ascontiguousarray(matrix), name=weight.name)
        weight.shape = onnx_ir.Shape(matrix.shape)
        self.products += 1
        # The node's own name: plans and calibration know it by that.
        name, node.name = node.name or "", f"{node.name}_convolution"
        product = self.add(node, "MatMul", [points, weight], name=f"{name}_product")
        producer = product.producer()
        assert producer is not None
        producer.name = name
        if bias is None:
            return product
        if repeats > 1:
            assert bias.const_value is not None
            bias = self.constant(np.tile(bias.const_value.numpy(), repeats), f"{bias.name}_tiled")
        return self.add(node, "Add", [product, bias], name=f"{name}_last")

    def _keep(self, node: Node) -> bool:
        """A convolution that stays: what follows it takes its result with channels last."""
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.held:
                node.replace_input_with(index, self.restored(value, node))
        output = node.outputs[0]
        if output.shape is None or len(output.shape) != len(CHANNELS_LAST):
            return True
        perm = onnx_ir.AttrInt64s("perm", inverse(CHANNELS_LAST))
        turned = Node("", "Transpose", [output], [perm], name=f"{_name(node)}_last")
        turned.outputs[0].name = turned.name
        self.graph.insert_after(node, turned)
        self.hold(output, turned.outputs[0], CHANNELS_LAST)
        self.copies[turned.outputs[0], CHANNELS_LAST] = output
        return True


def _name(node: Node) -> str:
    return f"{node.outputs[0].name}_last"
