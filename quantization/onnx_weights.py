"""Integer weights in ONNX: DequantizeLinear in front of the node that uses them.

nncf.compress_weights (3.4) and onnxruntime's MatMulNBits cover matrix products only and leave
1x1 convolutions, most of these graphs, as they are; nncf's ONNX output did not load. A standard
DequantizeLinear runs on ONNX Runtime and OpenVINO alike.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import DataType, Node

from quantization.integers import KEPT_GROUP, group_of, quantized
from quantization.onnx_files import add_initializer, load, save
from quantization.recipes import IntegerWeights
from quantization.roles import Use, uses
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors
from runtimes.errors import RunError

OPSET = 21  # blocked DequantizeLinear, and four-bit types


def quantize_weights(
    source: Path, target: Path, recipe: IntegerWeights, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` with integer weights; lists every weight, changed or not."""
    model = load(source)
    weights = compress(model, recipe)
    save(model, target)
    return weights


def weight_names(source: Path) -> Collection[str]:
    """The weights of a graph that a recipe could quantise."""
    return {use.weight for use in uses(onnx_ir.load(source)) if not use.reason}


def compress(model: onnx_ir.Model, recipe: IntegerWeights) -> list[Weight]:
    """Put integer weights into a graph; lists every weight, changed or not.

    Raises RunError where the graph cannot be brought to an opset that has them.
    """
    from onnxscript import version_converter

    weights = list(uses(model))  # before the converter, which may rename nodes
    if (before := model.opset_imports[""]) < OPSET:
        version_converter.convert_version(model, OPSET)
        # The converter leaves a graph as it is where it does not know an operator's way.
        if model.opset_imports[""] < OPSET:
            raise RunError(f"{model.graph.name}: no way from opset {before} to {OPSET}")
    return [_quantize(model, use, recipe) for use in weights]


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
    stored = add_initializer(graph, _tensor(integers, bits, f"{name}_int{bits}"))
    # Stored in fp16: with groups of 32 in fp32 scales take a fifth of the file. Engines fold it.
    step = add_initializer(graph, onnx_ir.tensor(scale, name=f"{name}_scale"))
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


def _tensor(integers: NDArray[np.int8], bits: int, name: str) -> onnx_ir.TensorProtocol:
    if bits == 8:
        return onnx_ir.tensor(integers, name=name)
    import ml_dtypes

    return onnx_ir.Tensor(integers.astype(ml_dtypes.int4), dtype=DataType.INT4, name=name)
