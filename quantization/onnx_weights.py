"""Integer weights in ONNX: DequantizeLinear in front of the node that uses them.

nncf.compress_weights (3.4) and onnxruntime's MatMulNBits cover matrix products only and leave
1x1 convolutions, most of these graphs, as they are; nncf's ONNX output did not load. A standard
DequantizeLinear runs on ONNX Runtime and OpenVINO alike.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import DataType, Node, Value

from quantization.integers import KEPT_GROUP, group_of, quantized
from quantization.onnx_files import load_ir
from quantization.recipes import IntegerWeights
from quantization.roles import Use, uses
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors

OPSET = 21  # blocked DequantizeLinear, and four-bit types


def quantize_weights(
    source: Path, target: Path, recipe: IntegerWeights, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` with integer weights; lists every weight, changed or not."""
    from onnxscript import version_converter

    found = list(uses(onnx.load(source, load_external_data=False)))
    model = load_ir(source)
    if model.opset_imports[""] < OPSET:
        version_converter.convert_version(model, OPSET)
    done = [_quantize(model, use, recipe) for use in found]
    save(model, target)
    return done


def weight_names(source: Path) -> Collection[str]:
    """The weights that a recipe could quantise."""
    model = onnx.load(source, load_external_data=False)
    return {use.weight for use in uses(model) if not use.reason}


def save(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph the way the exporter does: weights of 1 MB and more in one file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if total < 1 << 20:
        onnx_ir.external_data.load_to_model(model)  # what is left of the source's file
        onnx_ir.save(model, path)
    else:
        onnx_ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=1 << 10)
    onnx.checker.check_model(str(path), full_check=True)


def _quantize(model: onnx_ir.Model, use: Use, recipe: IntegerWeights) -> Weight:
    if use.reason:
        return Weight(use.weight, "float32", use.reason)
    if use.weight in recipe.skip:
        return Weight(use.weight, "float32", "the plan skips it")
    if use.weight not in model.graph.initializers:  # shared, and done for an earlier node
        return Weight(use.weight, f"int{recipe.bits} weights, shared", "")
    value = model.graph.initializers[use.weight]
    assert value.const_value is not None
    weight = np.asarray(value.const_value.numpy(), np.float32)
    bits, group = (8, KEPT_GROUP) if use.weight in recipe.keep else (recipe.bits, recipe.group)
    if any(side > 1 for side in weight.shape[2:]):  # blocks run along one axis
        bits, group = 8, 0
    group = group_of(weight.shape[use.input_axis], group)
    integers, scale = quantized(weight, use, bits, group, np.float16)
    _insert(model, use, integers, scale, bits, group)
    blocks = f"groups of {group}" if group else "per channel"
    return Weight(use.weight, f"int{bits} weights, {blocks}", "")


def _insert(
    model: onnx_ir.Model,
    use: Use,
    integers: NDArray[np.int8],
    scale: NDArray[np.floating],
    bits: int,
    group: int,
) -> None:
    """Put the integers, their scale and a DequantizeLinear in the weight's place."""
    name, graph = use.weight, model.graph
    value = graph.initializers[name]
    stored = _initializer(graph, _tensor(integers, bits, f"{name}_int{bits}"))
    # Stored in fp16: with groups of 32 in fp32 scales take a fifth of the file. Engines fold it.
    step = _initializer(graph, onnx_ir.tensor(scale, name=f"{name}_scale"))
    widen = Node(
        "", "Cast", [step], [onnx_ir.AttrInt64("to", DataType.FLOAT)], name=f"{name}_scale_cast"
    )
    widen.outputs[0].name = f"{name}_scale_fp32"
    widen.outputs[0].shape, widen.outputs[0].type = step.shape, value.type
    options = {"axis": use.input_axis, "block_size": group} if group else {"axis": use.output_axis}
    attributes = [onnx_ir.AttrInt64(key, number) for key, number in options.items()]
    node = Node(
        "", "DequantizeLinear", [stored, widen.outputs[0]], attributes, name=f"{name}_dequantize"
    )
    output = node.outputs[0]
    output.name, output.shape, output.type = f"{name}_float", value.shape, value.type
    users = {id(consumer.node) for consumer in value.uses()}
    first = next(other for other in graph if id(other) in users)
    graph.insert_before(first, [widen, node])
    value.replace_all_uses_with(output)
    del graph.initializers[name]


def _initializer(graph: onnx_ir.Graph, tensor: onnx_ir.TensorProtocol) -> Value:
    shape = onnx_ir.Shape(tensor.shape.numpy())
    kind = onnx_ir.TensorType(tensor.dtype)
    value = Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def _tensor(integers: NDArray[np.int8], bits: int, name: str) -> onnx_ir.TensorProtocol:
    if bits == 8:
        return onnx_ir.tensor(integers, name=name)
    import ml_dtypes

    return onnx_ir.Tensor(integers.astype(ml_dtypes.int4), dtype=DataType.INT4, name=name)
