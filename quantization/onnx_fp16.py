"""fp16 in ONNX, by onnxruntime's float16 pass: heavy products in fp16, what loses range in fp32.

`half_nodes` decides which node computes in what; the library's pass carries it out, and what it
gets wrong is put right around it: constants that both kinds of nodes use (`_part_constants`,
before) and needless steps through fp16 (`_drop_round_trips`, after).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir
from onnx_ir import DataType, Graph, Model, Node, Value
from onnx_ir.passes.common import RemoveUnusedNodesPass

from quantization.onnx_files import add_initializer, load, save
from quantization.recipes import Float16
from quantization.roles import uses
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors
from runtimes.errors import RunError

# An Attention's softmax is its kernel's: CUDA's flash attention, fp16 only, keeps it in fp32.
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gather", "Attention")
# What moves values about and computes nothing.
_MOVES = (
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze"),
    *("Slice", "Split", "Concat", "Pad", "DepthToSpace"),
)
# How the pass names its own casts from fp32 to fp16.
_NARROWING = re.compile("_cast_to_fp16_node$|^graph_input_cast")


def quantize_fp16(
    source: Path, target: Path, recipe: Float16, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` in fp16; lists every weight, changed or not.

    Inputs, outputs and everything that `half_nodes` leaves out stay fp32. Raises RunError where
    the graph or the library's pass is not what this was written for.
    """
    model = load(source)
    weights = {use.weight: use.reason for use in uses(model)}
    half = half_nodes(model)
    _part_constants(model.graph, half)
    model = _converted(model, half)
    types = {name: value.dtype for name, value in model.graph.initializers.items()}
    _drop_round_trips(model)
    if left := next(_round_trips(model.graph), None):
        raise RunError(f"{source}: '{left.name}' still rounds to fp16 between two fp32 nodes")
    model.graph.sort()  # the pass appends its casts
    save(model, target)
    return [
        Weight(name, "float16", "")
        if types.get(name) == DataType.FLOAT16
        else Weight(name, "float32", reason or "an fp32 node uses it too")
        for name, reason in weights.items()
    ]


def half_nodes(model: Model) -> set[str]:
    """Names of the nodes that compute in fp16.

    Products, GELU between two of them, GlobalResponseNorm's last multiplication, and moves among
    these. Reductions, norms, softmax, the residual stream, timestep mappers and epsilon's division
    are none of that: sums of squares pass 65504, and the stream keeps what single steps add to it.

    Raises RunError for an Erf that is no part of a GELU.
    """
    half = set(_products(model.graph))
    for node in model.graph:
        if node.op_type == "Erf":
            half |= _gelu(node)
    for node in model.graph:
        if node.op_type == "Mul" and _is_between(node, half):
            half.add(node)
    changed = True
    while changed:  # moves of fp16 values, from product to product
        moves = {
            node
            for node in model.graph
            if node.op_type in _MOVES and node not in half and _maker(node, 0) in half
        }
        half |= moves
        changed = bool(moves)
    return {node.name or "" for node in half}


def _products(graph: Graph) -> Iterator[Node]:
    """The products of a graph, but for a denoiser's last, which epsilon would show."""
    last: set[Node] = set()
    if any(value.name == "epsilon" for value in graph.outputs):
        last = {node for value in graph.outputs for node in _products_before(value)}
    return (node for node in graph if node.op_type in _PRODUCTS and node not in last)


def _products_before(value: Value) -> Iterator[Node]:
    """The nearest products behind a value: what its own rounding would show of."""
    left: list[Value | None] = [value]
    seen: set[Node] = set()
    while left:
        behind = left.pop()
        node = None if behind is None else behind.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in _PRODUCTS:
            yield node
        else:
            left += node.inputs


def _gelu(erf: Node) -> set[Node]:
    """The nodes of 0.5 * x * (1 + erf(x / sqrt(2))), its factors in any order, around its erf."""
    division, addition = _maker(erf, 0), _user(erf)
    product = None if addition is None else _user(addition)
    if division is None or addition is None or product is None:
        raise RunError(f"'{erf.name}' is no part of a GELU: nothing says what type it takes")
    other = next(value for value in product.inputs if value is not addition.outputs[0])
    halved = None if other is None else other.producer()
    if halved is None or division.inputs[0] not in halved.inputs:  # * 0.5 comes last
        halved = _user(product)
    if halved is None:
        raise RunError(f"'{erf.name}' is no part of a GELU: nothing halves its product")
    return {division, erf, addition, product, halved}


def _is_between(node: Node, half: set[Node]) -> bool:
    """Whether a node takes an fp16 result and feeds nothing but fp16 products."""
    users = [usage.node for output in node.outputs for usage in output.uses()]
    takes = any(_maker(node, index) in half for index in range(len(node.inputs)))
    return takes and bool(users) and all(user in half for user in users)


def _maker(node: Node, index: int) -> Node | None:
    """The node that makes an input; None for inputs of the graph and constants."""
    value = node.inputs[index]
    return None if value is None else value.producer()


def _user(node: Node) -> Node | None:
    """The first node that takes a node's result."""
    usage = next(iter(node.outputs[0].uses()), None)
    return None if usage is None else usage.node


def _part_constants(graph: Graph, half: set[str]) -> None:
    """Give fp32 nodes their own copy of what fp16 nodes use too: it would be rounded for both.

    How many there are is the graph's affair: none is no fault.
    """
    narrow = {value for node in graph if node.name in half for value in node.inputs if value}
    copies: dict[Value, Value] = {}
    for node in graph:
        for index, value in enumerate(node.inputs if node.name not in half else ()):
            if value not in narrow or not value.is_initializer() or value.dtype != DataType.FLOAT:
                continue
            assert value.const_value is not None
            if value not in copies:
                array, name = value.const_value.numpy(), f"{value.name}_fp32"
                copies[value] = add_initializer(graph, onnx_ir.tensor(array, name=name))
            node.replace_input_with(index, copies[value])


def _converted(model: Model, half: set[str]) -> Model:
    """The graph in fp16 by the library's pass, which takes and gives an onnx.ModelProto."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # The exporter wrote every value's type; inferring them again fails on graphs over 2 GB.
    proto = convert_float_to_float16(
        onnx_ir.to_proto(model),
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[],
        node_block_list=[node.name for node in model.graph if node.name not in half],
    )
    del proto.graph.value_info[:]  # the pass leaves some types as they were
    return onnx_ir.from_proto(proto)


def _drop_round_trips(model: Model) -> None:
    """Undo fp32 -> fp16 -> fp32, which the pass writes between any two nodes it leaves in fp32,
    and its casts of fp32 constants to fp32.

    It would cost exactly what they are in fp32 for: a sum of squares over 65504 became infinite.
    """
    for node in list(model.graph):
        value = node.inputs[0] if _casts_to(node, DataType.FLOAT) else None
        if value is None:
            continue
        maker = value.producer()
        if maker is not None and _NARROWING.search(maker.name or ""):
            value = maker.inputs[0]
        elif value.name not in model.graph.initializers or value.dtype != DataType.FLOAT:
            continue  # a true step from fp16 to fp32
        assert value is not None
        if node.outputs[0].is_graph_output():  # its name must stay
            node.replace_input_with(0, value)
        else:
            node.outputs[0].replace_all_uses_with(value)
    RemoveUnusedNodesPass()(model)


def _round_trips(graph: Graph) -> Iterator[Node]:
    """Casts to fp32 of what was cast to fp16: none is left unless the pass names its casts anew."""
    for node in graph:
        maker = _maker(node, 0) if _casts_to(node, DataType.FLOAT) else None
        if maker is not None and _casts_to(maker, DataType.FLOAT16):
            yield node


def _casts_to(node: Node, kind: DataType) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() == kind
