"""How integer weights are written in ONNX, a function a form, in place of what uses them."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import Attr, AttrInt64, DataType, Graph, Node, Value

from quantization.integers import Rounded, blocks_of, quantized
from quantization.onnx_files import CONTRIB, add_initializer
from quantization.roles import Use

# What MatMulNBits rounds its activations to: ONNX Runtime's accuracy levels.
ACCURACY_LEVELS = {32: 1, 8: 4}


def as_matmul_nbits(
    graph: Graph,
    value: Value,
    weight: NDArray[np.float32],
    bits: int,
    block: int,
    activation_bits: int,
    rounded: Rounded | None = None,
) -> None:
    """MatMulNBits in place of MatMul by a weight (K,N): a scale for `block` inputs of a column.

    Activations of `activation_bits` 8 are rounded by blocks, too, as they come; 32 stay fp32.
    The bias stays a node: OpenVINO (2024 to 2026) adds the operator's own to the weights.
    """
    key, rounded = (value.name or "", bits, block), {} if rounded is None else rounded
    if key not in rounded:
        integers, scale = blocks_of(weight, bits, block)
        rounded[key] = _packed(integers, bits), scale
    stored, scale = rounded[key]  # (N, blocks, bytes of a block)
    inputs = [_constant(graph, stored, f"{value.name}_int{bits}")]
    inputs.append(_constant(graph, scale, f"{value.name}_scale"))
    attributes = {
        "K": weight.shape[0],
        "N": weight.shape[1],
        "bits": bits,
        "block_size": block,
        "accuracy_level": ACCURACY_LEVELS[activation_bits],
    }
    for node in _users(value):
        product = Node(
            CONTRIB,
            "MatMulNBits",
            [node.inputs[0], *inputs],
            [AttrInt64(key, number) for key, number in attributes.items()],
            name=node.name,
        )
        _replace(graph, node, product)
    graph.opset_imports[CONTRIB] = 1
    del graph.initializers[value.name or ""]


def as_int8_products(
    graph: Graph,
    value: Value,
    weight: NDArray[np.float32],
    extremes: tuple[float, float],
    activations: dict[Value, Value],
    rounded: Rounded | None = None,
) -> None:
    """MatMul of an activation and a weight (K,N) in 8 bits each: MatMulIntegerToFloat's pattern.

    The activation has one scale, from the least and the largest value it has; products that share
    it, as queries, keys and values do, share its rounding: `activations` says what was rounded.
    """
    stored, step = _columns(graph, value, weight, rounded)
    for node in _users(value):
        source = node.inputs[0]
        assert source is not None
        if source not in activations:
            activations[source] = _rounded(graph, node, source, *extremes)
        axis = [AttrInt64("axis", 1)]
        wide = _insert(graph, node, "DequantizeLinear", [stored, step], axis, f"{value.name}_float")
        product = Node("", "MatMul", [activations[source], wide], name=node.name)
        _replace(graph, node, product)
    del graph.initializers[value.name or ""]


def as_dynamic_products(
    graph: Graph,
    value: Value,
    weight: NDArray[np.float32],
    activations: dict[Value, tuple[Value, ...]],
    rounded: Rounded | None = None,
) -> None:
    """The same with the activation's range taken as it comes: DynamicQuantizeMatMul's pattern."""
    stored, step = _columns(graph, value, weight, rounded)
    for node in _users(value):
        source = node.inputs[0]
        assert source is not None
        if source not in activations:
            rounding = Node(
                "", "DynamicQuantizeLinear", [source], num_outputs=3, name=f"{source.name}_dynamic"
            )
            for output, suffix in zip(rounding.outputs, ("uint8", "scale", "zero"), strict=True):
                output.name = f"{source.name}_{suffix}"
            graph.insert_before(node, rounding)
            activations[source] = tuple(rounding.outputs)
        integers, scale, zero = activations[source]
        name = node.outputs[0].name or ""
        sums = _insert(graph, node, "MatMulInteger", [integers, stored, zero], [], f"{name}_int32")
        to_float = [AttrInt64("to", DataType.FLOAT)]
        wide = _insert(graph, node, "Cast", [sums], to_float, f"{name}_wide")
        scales = _insert(graph, node, "Mul", [scale, step], [], f"{name}_scales")
        _replace(graph, node, Node("", "Mul", [wide, scales], name=node.name))
    del graph.initializers[value.name or ""]


def as_integer_gather(
    graph: Graph, value: Value, weight: NDArray[np.float32], use: Use, group: int
) -> None:
    """Rows of an embedding (entries, width) and their scales are looked up, then widened.

    DequantizeLinear in front of the Gather would widen all of the table for a prompt's 77 rows, and
    behind it OpenVINO reads none of unknown batch: Cast and Mul, groups in an axis of their own.
    """
    group = group or weight.shape[1]
    integers, scale = quantized(weight, use, 8, group)
    grouped = (len(weight), -1, group)
    stored = _constant(graph, integers.reshape(grouped), f"{value.name}_int8")
    steps = _constant(graph, scale.reshape(len(weight), -1, 1), f"{value.name}_scale")
    for node in _users(value):
        ids, name = node.inputs[1], node.outputs[0].name or ""
        assert ids is not None and ids.shape is not None
        options = list(node.attributes.values())
        rows = _insert(graph, node, "Gather", [stored, ids], options, f"{name}_rows")
        scales = _insert(graph, node, "Gather", [steps, ids], options, f"{name}_scales")
        to_float = [AttrInt64("to", DataType.FLOAT)]
        wide = _insert(graph, node, "Cast", [rows], to_float, f"{name}_wide")
        grouped_rows = _insert(graph, node, "Mul", [wide, scales], [], f"{name}_grouped")
        shape = np.array([*[0] * len(ids.shape), weight.shape[1]], np.int64)
        joined = [grouped_rows, _constant(graph, shape, f"{name}_shape")]
        _replace(graph, node, Node("", "Reshape", joined, name=node.name))
    del graph.initializers[value.name or ""]


def as_dequantized(graph: Graph, value: Value, weight: NDArray[np.float32], use: Use) -> None:
    """DequantizeLinear in front of what uses a weight: a scale per output channel."""
    integers, scale = quantized(weight, use, 8, 0)
    stored = _constant(graph, integers, f"{value.name}_int8")
    step = _constant(graph, scale, f"{value.name}_scale")
    axis = [AttrInt64("axis", use.output_axis)]
    node = Node("", "DequantizeLinear", [stored, step], axis, name=f"{value.name}_dequantize")
    output = node.outputs[0]
    output.name, output.shape, output.type = f"{value.name}_float", value.shape, value.type
    graph.insert_before(next(_users(value)), node)
    value.replace_all_uses_with(output)
    del graph.initializers[value.name or ""]


def _columns(
    graph: Graph, value: Value, weight: NDArray[np.float32], rounded: Rounded | None
) -> tuple[Value, Value]:
    """A weight (K,N) as int8 with a scale a column."""
    key, rounded = (value.name or "", 8, 0), {} if rounded is None else rounded
    if key not in rounded:
        scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127
        integers = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        rounded[key] = integers, scale.astype(np.float32)
    integers, scale = rounded[key]
    stored = _constant(graph, integers, f"{value.name}_int8")
    return stored, _constant(graph, scale, f"{value.name}_scale")


def _rounded(graph: Graph, node: Node, source: Value, least: float, largest: float) -> Value:
    """QuantizeLinear and DequantizeLinear of an activation in front of a node."""
    least, largest = min(least, 0.0), max(largest, 0.0)  # 0 must be a number of the scale
    scale = max((largest - least) / 255, 1e-12)
    step = _constant(graph, np.array(scale, np.float32), f"{source.name}_scale")
    zero = _constant(graph, np.array(round(-least / scale), np.uint8), f"{source.name}_zero")
    inputs = [source, step, zero]
    rounded = _insert(graph, node, "QuantizeLinear", inputs, [], f"{source.name}_uint8")
    return _insert(
        graph, node, "DequantizeLinear", [rounded, step, zero], [], f"{source.name}_rounded"
    )


def _insert(
    graph: Graph,
    before: Node,
    kind: str,
    inputs: Sequence[Value],
    attributes: Sequence[Attr],
    name: str,
) -> Value:
    node = Node("", kind, inputs, attributes, name=name)
    node.outputs[0].name = name
    graph.insert_before(before, node)
    return node.outputs[0]


def _users(value: Value) -> Iterator[Node]:
    """The nodes that use a value, in running order."""
    users = {id(use.node) for use in value.uses()}
    graph = value.graph
    assert graph is not None
    return (node for node in list(graph) if id(node) in users)


def _replace(graph: Graph, node: Node, other: Node) -> None:
    """Put a node in another one's place; the result keeps its name, type and shape."""
    old, new = node.outputs[0], other.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(node, other)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _packed(integers: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """As MatMulNBits reads them: unsigned around 128, 8 or 2; of those in a byte the low first."""
    unsigned = (integers.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    count = 8 // bits
    parts = [unsigned[..., place::count] << np.uint8(place * bits) for place in range(count)]
    return np.bitwise_or.reduce(parts)


def _constant(graph: Graph, values: NDArray[np.generic], name: str) -> Value:
    return add_initializer(graph, onnx_ir.tensor(np.ascontiguousarray(values), name=name))
