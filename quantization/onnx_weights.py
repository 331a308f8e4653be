"""Integer weights in ONNX, each in the form that ONNX Runtime has a kernel for.

| what a weight is | form | what runs |
|---|---|---|
| a matrix, or a convolution over points (`channels_last`) | MatMulNBits | integers by blocks |
| an embedding | Gather of integers and of scales, their product | a few rows are widened |
| any other convolution | DequantizeLinear in front of it | all of it is, at every run |

OpenVINO reads the same forms. nncf.compress_weights (3.4) leaves convolutions as they are, and its
ONNX output did not load.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from quantization.bit_forms import BitForm, parse_form
from quantization.channels_last import channels_last
from quantization.integers import KEPT_BLOCK, Rounded, block_of, group_of
from quantization.onnx_files import load, save
from quantization.onnx_forms import as_dequantized, as_integer_gather, as_matmul_nbits
from quantization.onnx_fp16 import stored_in_fp16
from quantization.recipes import IntegerWeights, MixedBits
from quantization.roles import Use, uses
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors

# What --average-bits may choose for a product.
BITS, BLOCKS = (2, 4, 8), (16, 32, 64, 128)
_SKIPPED = "the plan skips it"


def quantize_weights(
    source: Path,
    target: Path,
    recipe: IntegerWeights,
    feeds: Sequence[Tensors] = (),
    rounded: Rounded | None = None,
) -> list[Weight]:
    """Write `source` as `target` with integer weights; lists every weight, changed or not.

    `rounded` keeps the integers for another plan of the graph.
    """
    model = load(source)
    channels_last(model)
    weights = compress(model, recipe, rounded)
    save(model, target)
    return weights


def quantize_mixed(
    source: Path,
    target: Path,
    recipe: MixedBits,
    feeds: Sequence[Tensors] = (),
    rounded: Rounded | None = None,
) -> list[Weight]:
    """Write `source` as `target` with each weight in its own form; lists every weight."""
    model, forms = load(source), dict(recipe.forms)
    channels_last(model)
    listed = [_in_form(model, use, forms, rounded) for use in list(uses(model))]
    save(model, target)
    return listed


def choices(source: Path) -> dict[str, dict[str, int]]:
    """The forms that each weight of a graph may have, and how many bytes it has in each."""
    model, found = load(source), {}
    channels_last(model)
    for use in uses(model):
        value = model.graph.initializers[use.weight].const_value
        if use.reason or value is None:
            continue
        outputs = int(value.shape.numpy()[use.output_axis])
        inputs = value.size // outputs
        forms = [BitForm("fp", 16), BitForm("fp", 32)]
        if use.kind == "MatMul":
            forms += [BitForm("int", bits, block) for bits in BITS for block in BLOCKS]
        found[use.weight] = {str(form): form.bytes(inputs, outputs) for form in forms}
    return found


def weight_names(source: Path) -> Collection[str]:
    """The weights of a graph that a recipe could quantise."""
    return {use.weight for use in uses(onnx_ir.load(source)) if not use.reason}


def compress(
    model: onnx_ir.Model, recipe: IntegerWeights, rounded: Rounded | None = None
) -> list[Weight]:
    """Put integer weights into a graph; lists every weight, changed or not.

    The graph stays at its opset: no form needs one above the exporter's.
    """
    return [_quantize(model, use, recipe, rounded) for use in list(uses(model))]


def _quantize(
    model: onnx_ir.Model,
    use: Use,
    recipe: IntegerWeights,
    rounded: Rounded | None,
    block: int = 0,
) -> Weight:
    """`block` is that of a product's weight (0: the recipe's for so many inputs)."""
    if use.reason:
        return Weight(use.weight, "float32", use.reason)
    if use.weight in recipe.skip:
        return Weight(use.weight, "float32", _SKIPPED)
    if use.weight not in model.graph.initializers:  # shared, and done for an earlier node
        kernel = "MatMulNBits" if use.kind == "MatMul" else ""
        return Weight(use.weight, f"int{recipe.bits} weights, shared", "", kernel)
    value = model.graph.initializers[use.weight]
    assert value.const_value is not None
    weight = np.asarray(value.const_value.numpy(), np.float32)
    group = recipe.group
    if use.kind == "MatMul":
        form = better(recipe) if use.weight in recipe.keep else recipe
        block = block or block_of(weight.shape[use.input_axis], form.group, form.bits)
        activations = form.activation_bits
        as_matmul_nbits(model.graph, value, weight, form.bits, block, activations, rounded)
        both = ", activations too" if activations == 8 else ""
        stored = f"int{form.bits} weights{both}, blocks of {block}"
        return Weight(use.weight, stored, "", "MatMulNBits")
    if use.kind == "Gather":
        group = group_of(weight.shape[use.input_axis], group)
        as_integer_gather(model.graph, value, weight, use, group)
    else:
        # Blocks run along one axis, and nothing is gained by them where all is widened.
        group = 0
        as_dequantized(model.graph, value, weight, use)
    blocks = f"groups of {group}" if group else "per channel"
    return Weight(use.weight, f"int8 weights, {blocks}", "")


def _in_form(
    model: onnx_ir.Model, use: Use, forms: Mapping[str, str], rounded: Rounded | None
) -> Weight:
    if use.reason:
        return Weight(use.weight, "float32", use.reason)
    form = parse_form(forms.get(use.weight, "fp32"))
    if form.kind == "int":
        recipe = IntegerWeights(MixedBits.name, form.bits, form.group, activation_bits=8)
        return _quantize(model, use, recipe, rounded, block=form.group)
    if form.bits == 16:
        return stored_in_fp16(model.graph, use.weight)
    return Weight(use.weight, "float32", _SKIPPED)


def better(recipe: IntegerWeights) -> IntegerWeights:
    """What the exceptions of a recipe get: a step up in exactness, and a step down in speed."""
    activations = 32 if recipe.bits == 8 else recipe.activation_bits
    return dataclasses.replace(recipe, bits=8, group=KEPT_BLOCK, activation_bits=activations)
