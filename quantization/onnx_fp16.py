"""fp16 in ONNX, by onnxruntime's float16 pass: heavy products in fp16, what loses range in fp32."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from quantization.onnx_files import load
from quantization.onnx_weights import save
from quantization.recipes import Float16
from quantization.roles import uses
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors

# An Attention's softmax is its kernel's: CUDA's flash attention, fp16 only, keeps it in fp32.
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gather", "Attention")
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Pad",
          "DepthToSpace")  # fmt: skip

# How the pass names its own casts from fp32 to fp16.
_NARROWING = re.compile("_cast_to_fp16_node$|^graph_input_cast")


def quantize_fp16(
    source: Path, target: Path, recipe: Float16, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` in fp16; lists every weight, changed or not.

    Inputs, outputs and everything that `half_nodes` leaves out stay fp32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = load(source)
    found, half = list(uses(model)), half_nodes(model)
    _part_constants(model, half)
    rest = [node.name for node in model.graph.node if node.name not in half]
    # The exporter wrote every value's type; inferring them again fails on graphs over 2 GB.
    model = convert_float_to_float16(
        model, keep_io_types=True, disable_shape_infer=True, op_block_list=[], node_block_list=rest
    )
    types = {value.name: value.data_type for value in model.graph.initializer}
    del model.graph.value_info[:]  # the pass leaves some types as they were
    converted = onnx_ir.from_proto(model)
    _drop_round_trips(converted)
    converted.graph.sort()  # the pass appends its casts
    save(converted, target)
    reason = {use.weight: use.reason or "an fp32 node uses it too" for use in found}
    return [
        Weight(name, "float16", "")
        if types.get(name) == onnx.TensorProto.FLOAT16
        else Weight(name, "float32", reason[name])
        for name in dict.fromkeys(use.weight for use in found)
    ]


def half_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that compute in fp16.

    Products, GELU between two of them, GlobalResponseNorm's last multiplication, and moves among
    these. Reductions, norms, softmax, the residual stream, timestep mappers and epsilon's division
    are none of that: sums of squares pass 65504, and the stream keeps what single steps add to it.
    """
    graph = Graph(model)
    epsilon = {name for value in model.graph.output for name in graph.products_before(value.name)}
    denoiser = any(value.name == "epsilon" for value in model.graph.output)
    half = {
        node.name
        for node in model.graph.node
        if node.op_type in _PRODUCTS and not (denoiser and node.name in epsilon)
    }
    for node in model.graph.node:
        if node.op_type == "Erf":
            half |= graph.gelu(node)
    for node in model.graph.node:
        if node.op_type == "Mul" and graph.between(node, half):
            half.add(node.name)
    changed = True
    while changed:  # moves of fp16 values, from product to product
        moves = {
            node.name
            for node in model.graph.node
            if node.op_type in _MOVES and node.name not in half and graph.follows(node, half)
        }
        half |= moves
        changed = bool(moves)
    return half


def _part_constants(model: onnx.ModelProto, half: set[str]) -> None:
    """Give fp32 nodes their own copy of what fp16 nodes use too: it would be rounded for both."""
    shared = {name for node in model.graph.node if node.name in half for name in node.input}
    values = {v.name: v for v in model.graph.initializer if v.data_type == onnx.TensorProto.FLOAT}
    copies: dict[str, str] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input if node.name not in half else ()):
            if name in shared and name in values:
                if name not in copies:
                    copies[name] = f"{name}_fp32"
                    model.graph.initializer.add().CopyFrom(values[name])
                    model.graph.initializer[-1].name = copies[name]
                node.input[index] = copies[name]


def _drop_round_trips(model: onnx_ir.Model) -> None:
    """Undo fp32 -> fp16 -> fp32, which the pass writes between any two nodes it leaves in fp32,
    and its casts of fp32 constants to fp32.

    It would cost exactly what they are in fp32 for: a sum of squares over 65504 became infinite.
    """
    for node in list(model.graph):
        value = node.inputs[0] if node.op_type == "Cast" else None
        if value is None or _target(node) != onnx_ir.DataType.FLOAT:
            continue
        source = value.producer()
        if source is not None and _NARROWING.search(source.name or ""):
            value = source.inputs[0]
        elif value.name not in model.graph.initializers or value.dtype != onnx_ir.DataType.FLOAT:
            continue  # a true step from fp16 to fp32
        assert value is not None
        if node.outputs[0].is_graph_output():  # its name must stay
            node.replace_input_with(0, value)
        else:
            node.outputs[0].replace_all_uses_with(value)
    RemoveUnusedNodesPass()(model)


def _target(node: onnx_ir.Node) -> int:
    return node.attributes["to"].as_int()


class Graph:
    """Who makes and who uses each value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers = {output: node for node in model.graph.node for output in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def users(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        for output in node.output:
            yield from self._users.get(output, [])

    def products_before(self, value: str) -> Iterator[str]:
        """The nearest products behind a value: what its own rounding would show of."""
        left, seen = [value], set()
        while left:
            node = self._makers.get(left.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type in _PRODUCTS:
                yield node.name
            else:
                left += node.input

    def gelu(self, erf: onnx.NodeProto) -> set[str]:
        """0.5 * x * (1 + erf(x / sqrt(2))), its factors in any order, around its erf."""
        division = self._makers[erf.input[0]]
        added = next(self.users(erf))
        product = next(self.users(added))
        other = next(name for name in product.input if name != added.output[0])
        halved = self._makers.get(other)
        if halved is None or division.input[0] not in halved.input:  # * 0.5 comes last
            halved = next(self.users(product))
        return {node.name for node in (division, erf, added, product, halved)}

    def between(self, node: onnx.NodeProto, half: set[str]) -> bool:
        """Whether a node takes an fp16 result and feeds nothing but fp16 products."""
        makers = [self._makers[name] for name in node.input if name in self._makers]
        users = list(self.users(node))
        return (
            any(maker.name in half for maker in makers)
            and bool(users)
            and all(user.name in half for user in users)
        )

    def follows(self, node: onnx.NodeProto, half: set[str]) -> bool:
        maker = self._makers.get(node.input[0])
        return maker is not None and maker.name in half
