"""fp16 in ONNX: heavy products in fp16, what loses range or digits in fp32.

`half_nodes` decides by structure which node computes in what, `quantization.islands` takes out of
these what was measured to come near the ends of fp16's range.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import DataType, Graph, Model, Node, Value

from quantization.onnx_files import add_initializer, load, recast, save
from quantization.recipes import Float16, Float16Weights
from quantization.roles import LAST, MAPPER, UNHELD, uses
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors
from runtimes.errors import RunError

# An Attention's softmax is its kernel's: CUDA's flash attention, fp16 only, keeps it in fp32.
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gather", "Attention")
# What moves values about and computes nothing.
MOVES = (
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze"),
    *("Slice", "Split", "Concat", "Pad", "DepthToSpace"),
)
# Those that take one value: rounded before them or behind them, it is the same.
_SHAPES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")
# Rounding to 11 bits costs at most this of a value, and on average 0.6 of it.
_ROUNDING = 2.0**-11
_WIDENED = "float16, multiplied in fp32"


def quantize_fp16(
    source: Path, target: Path, recipe: Float16, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` in fp16; lists every weight, changed or not.

    Inputs, outputs, and everything that `half_nodes` leaves out or the recipe names as an island
    compute in fp32. An island's weight is stored in fp16 all the same, where fp16 holds it. Raises
    RunError where the graph is not what this was written for.
    """
    model = load(source)
    wide = {island.node for island in recipe.islands} | {node.name or "" for node in unheld(model)}
    return _write(model, target, half_nodes(model, wide))


def quantize_fp16_weights(
    source: Path, target: Path, recipe: Float16Weights, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` with its weights in fp16, all computed in fp32; lists them."""
    return _write(load(source), target, set())


def half_nodes(model: Model, wide: Collection[str] = ()) -> set[str]:
    """Names of the nodes that compute in fp16.

    Products, GELU between two of them, GlobalResponseNorm's last multiplication, and moves among
    these. Reductions, norms, softmax, the residual stream, timestep mappers and epsilon's division
    are none of that: sums of squares pass 65504, and the stream keeps what single steps add to it.
    Nor are nodes named in `wide`, the GELU that one is part of, and the moves of what they make.

    Raises RunError for an Erf that is no part of a GELU.
    """
    half = {node for node in _products(model.graph) if node.name not in wide}
    for node in model.graph:
        if node.op_type == "Erf" and not any(part.name in wide for part in _gelu(node)):
            half |= _gelu(node)
    for node in model.graph:
        if node.op_type == "Mul" and node.name not in wide and _is_between(node, half):
            half.add(node)
    changed = True
    while changed:  # moves of fp16 values, from product to product, and to products alone
        moves = {
            node
            for node in model.graph
            if node.op_type in MOVES and node not in half
            if _maker(node, 0) in half or (node.op_type in _SHAPES and _is_before(node, half))
            if node.name not in wide
        }
        half |= moves
        changed = bool(moves)
    return {node.name or "" for node in half}


def unheld(model: Model) -> Iterator[Node]:
    """The nodes with a constant that fp16 does not hold."""
    for node in model.graph:
        for value in node.inputs:
            if value is None or value.const_value is None or value.dtype != DataType.FLOAT:
                continue
            if not _held(value.const_value.numpy()):
                yield node
                break


def _held(constant: NDArray[np.float32]) -> bool:
    """Whether fp16 holds a constant: a weight as exactly as it holds numbers of about 1, by the L2
    error; the rest, such as biases, which may be small beside what they are added to, at all.
    """
    with np.errstate(over="ignore"):
        rounded = constant.astype(np.float16).astype(np.float32)
    if constant.ndim < 2:
        return bool(np.isfinite(rounded).all())
    return bool(np.linalg.norm(constant - rounded) <= _ROUNDING * np.linalg.norm(constant))


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
    """Whether a node takes an fp16 result and feeds nothing but fp16 nodes."""
    takes = any(_maker(node, index) in half for index in range(len(node.inputs)))
    return takes and _feeds_only(node, half)


def _is_before(node: Node, half: set[Node]) -> bool:
    """Whether a node takes fp32 numbers and feeds nothing but fp16 nodes."""
    value = node.inputs[0]
    return value is not None and value.dtype == DataType.FLOAT and _feeds_only(node, half)


def _feeds_only(node: Node, half: set[Node]) -> bool:
    users = {usage.node for output in node.outputs for usage in output.uses()}
    outputs = any(output.is_graph_output() for output in node.outputs)
    return bool(users) and users <= half and not outputs


def _maker(node: Node, index: int) -> Node | None:
    """The node that makes an input; None for inputs of the graph and constants."""
    value = node.inputs[index]
    return None if value is None else value.producer()


def _user(node: Node) -> Node | None:
    """The first node that takes a node's result."""
    usage = next(iter(node.outputs[0].uses()), None)
    return None if usage is None else usage.node


def _write(model: Model, target: Path, half: set[str]) -> list[Weight]:
    """Carry out what `half` says, save the graph, and list its weights as they are stored."""
    weights = {use.weight: use.reason for use in uses(model)}
    _halve(model.graph, half)
    listed = [stored_in_fp16(model.graph, name, reason) for name, reason in weights.items()]
    save(model, target)
    return listed


def stored_in_fp16(graph: Graph, name: str, reason: str = "") -> Weight:
    """Store an fp32 weight in fp16, too, unless there is a `reason` not to."""
    weight = graph.initializers[name]
    if weight.dtype == DataType.FLOAT16:
        return Weight(name, "float16", "")
    assert weight.const_value is not None
    if reason in (LAST, MAPPER):
        return Weight(name, "float32", reason)
    if not _held(weight.const_value.numpy()):
        return Weight(name, "float32", UNHELD)
    users = list(weight.uses())
    recast(weight, DataType.FLOAT16)
    wide = _cast(graph, weight, DataType.FLOAT, before=graph[0])  # once, when a graph is loaded
    for user, index in users:
        user.replace_input_with(index, wide)
    return Weight(name, _WIDENED, "")


def _halve(graph: Graph, half: set[str]) -> None:
    """Have the nodes in `half` take and give fp16: casts where an fp32 value enters or leaves."""
    nodes = [node for node in graph if node.name in half]
    for node in nodes:
        for output in node.outputs:
            if output.dtype == DataType.FLOAT:
                output.dtype = DataType.FLOAT16
    narrow: dict[Value, Value] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == DataType.FLOAT:
                if value not in narrow:
                    narrow[value] = _narrowed(graph, value, node, half)
                if narrow[value] is not value:
                    node.replace_input_with(index, narrow[value])
    for node in nodes:
        for output in node.outputs:
            if output.dtype == DataType.FLOAT16:
                _widen(graph, output, node, half)


def _narrowed(graph: Graph, value: Value, user: Node, half: set[str]) -> Value:
    """An fp32 value in fp16: rounded once where it is a constant, else cast before its first user.

    A constant that fp32 nodes use too has a copy: it would be rounded for both.
    """
    if not value.is_initializer():
        return _cast(graph, value, DataType.FLOAT16, before=user)
    assert value.const_value is not None
    if all(usage.node.name in half for usage in value.uses()):
        recast(value, DataType.FLOAT16)
        return value
    array = value.const_value.numpy().astype(np.float16)
    return add_initializer(graph, onnx_ir.tensor(array, name=f"{value.name}_fp16"))


def _widen(graph: Graph, value: Value, maker: Node, half: set[str]) -> None:
    """Give the fp32 users of an fp16 result, and the graph's outputs, one cast to fp32."""
    users = [usage for usage in value.uses() if usage.node.name not in half]
    if not users and not value.is_graph_output():
        return
    wide = _cast(graph, value, DataType.FLOAT, after=maker)
    for user, index in users:
        user.replace_input_with(index, wide)
    if value.is_graph_output():
        name, place = value.name, graph.outputs.index(value)
        graph.outputs[place] = wide
        value.name, wide.name = f"{name}_fp16", name


def _cast(
    graph: Graph,
    value: Value,
    kind: DataType,
    *,
    before: Node | None = None,
    after: Node | None = None,
) -> Value:
    """The result of a new cast of `value`, beside a node."""
    to = "fp16" if kind == DataType.FLOAT16 else "fp32"
    node = Node("", "Cast", [value], [onnx_ir.AttrInt64("to", kind)], name=f"{value.name}_to_{to}")
    node.outputs[0].name, node.outputs[0].shape = f"{value.name}_{to}", value.shape
    node.outputs[0].type = onnx_ir.TensorType(kind)
    if before is not None:
        graph.insert_before(before, node)
    elif after is not None:
        graph.insert_after(after, node)
    return node.outputs[0]
