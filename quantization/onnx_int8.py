"""Weights and activations of a denoiser in int8: products of matrices with channels last.

onnxruntime's own quantisers write the same nodes, but hold a graph several times over, know nothing
of smoothing behind LayerNormalization, and rename what they rewrite.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from quantization.calibrated import Extremes, calibrated
from quantization.channels_last import channels_last
from quantization.instrumented import channel_extremes
from quantization.integers import KEPT_BLOCK, Rounded
from quantization.onnx_files import load, save
from quantization.onnx_forms import as_dynamic_products, as_int8_products
from quantization.onnx_weights import compress
from quantization.recipes import Int8, Int8Dynamic, IntegerWeights
from quantization.roles import Use, uses
from quantization.smoothing import normed, norms, smooth
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors
from runtimes.errors import RunError


def quantize_int8(
    source: Path,
    target: Path,
    recipe: Int8,
    feeds: Sequence[Tensors],
    rounded: Rounded | None = None,
) -> list[Weight]:
    """Write `source` as `target` with QuantizeLinear and DequantizeLinear around what is int8.

    Every product between activations and every weight that `roles.uses` has a reason for stays in
    float. For another plan of the graph feeds that are `Calibrated` keep what was measured over
    them, and `rounded` the integers.
    Raises RunError where smoothing passes over what it was to change.
    """
    model, extremes = prepared_int8(source, recipe, feeds)
    activations: dict[onnx_ir.Value, onnx_ir.Value] = {}

    def write(value: onnx_ir.Value, weight: NDArray[np.float32]) -> None:
        low, high = extremes[value.name or ""]
        ends = low.min(), high.max()
        as_int8_products(model.graph, value, weight, ends, activations, rounded)

    return _quantize(model, target, recipe, write, rounded)


def prepared_int8(
    source: Path, recipe: Int8, feeds: Sequence[Tensors]
) -> tuple[onnx_ir.Model, Extremes]:
    """The graph in fp32 as int8 is made of it, channels last and smoothed, and its extremes.

    Raises RunError where smoothing passes over what it was to change.
    """
    model = load(source)
    extremes = _extremes(model, source, feeds)
    channels_last(model, fuse_attention=True)
    if recipe.smoothing > 0 or recipe.norm_smoothing > 0:
        extremes = _smoothed(model, source, extremes, recipe)
    return model, extremes


def quantize_int8_dynamic(
    source: Path,
    target: Path,
    recipe: Int8Dynamic,
    feeds: Sequence[Tensors] = (),
    rounded: Rounded | None = None,
) -> list[Weight]:
    """Write `source` as `target` with DynamicQuantizeLinear in front of what is int8."""
    model = load(source)
    channels_last(model, fuse_attention=True)
    activations: dict[onnx_ir.Value, tuple[onnx_ir.Value, ...]] = {}

    def write(value: onnx_ir.Value, weight: NDArray[np.float32]) -> None:
        as_dynamic_products(model.graph, value, weight, activations, rounded)

    return _quantize(model, target, recipe, write, rounded)


def _quantize(
    model: onnx_ir.Model,
    target: Path,
    recipe: Int8 | Int8Dynamic,
    write: Callable[[onnx_ir.Value, NDArray[np.float32]], None],
    rounded: Rounded | None,
) -> list[Weight]:
    """Each weight in int8, in blocks or as it is; writes the graph and lists all weights."""
    weights = list(uses(model))
    narrow = {use.weight for use in weights if _in_blocks(use, recipe)}
    others = {use.weight for use in weights} - narrow
    rest = IntegerWeights("int8-weights", 8, KEPT_BLOCK, skip=tuple(others), activation_bits=8)
    kept = {
        weight.name: weight for weight in compress(model, rest, rounded) if weight.name in narrow
    }
    for use in weights:
        if not use.reason and use.weight not in narrow and use.weight not in recipe.skip:
            value = model.graph.initializers[use.weight]
            assert value.const_value is not None
            write(value, np.asarray(value.const_value.numpy(), np.float32))
    RemoveUnusedNodesPass()(model)  # what smoothing replaced: ONNX Runtime would warn of it
    save(model, target)
    return [kept.get(use.weight) or _entry(use, recipe) for use in weights]


def _in_blocks(use: Use, recipe: Int8 | Int8Dynamic) -> bool:
    """A plan's exception, or what is no product of matrices: its activations stay in float."""
    excepted = use.weight in recipe.keep or use.kind != "MatMul"
    return excepted and not use.reason and use.weight not in recipe.skip


def _smoothed(model: onnx_ir.Model, source: Path, extremes: Extremes, recipe: Int8) -> Extremes:
    """Smooth what is behind every norm, or say that one is not recognised.

    Unsmoothed, int8 still makes a picture, a few dB worse: nobody would notice.
    """
    found, there = len(list(normed(model))), norms(model)
    if found == 0 or found != there:
        raise RunError(
            f"{source}: smoothing found the products behind {found} of {there} norms; a plan with "
            "smoothing = 0 and norm_smoothing = 0 does without"
        )
    return {**extremes, **smooth(model, extremes, recipe.smoothing, recipe.norm_smoothing)}


def _extremes(model: onnx_ir.Model, source: Path, feeds: Sequence[Tensors]) -> Extremes:
    """The least and largest value per channel of what each weight of the source multiplies."""
    known = calibrated(feeds)
    if known.extremes is None:
        nodes = {node.name: node for node in model.graph}
        # What each product takes: queries, keys and values the same.
        taken = {use.weight: _input(nodes[use.node]) for use in uses(model) if not use.reason}
        names = list(dict.fromkeys(taken.values()))
        measured = channel_extremes(source, names, known.told())
        known.extremes = {weight: measured[name] for weight, name in taken.items()}
    return known.extremes


def _input(node: onnx_ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None and value.name
    return value.name


def _entry(use: Use, recipe: Int8 | Int8Dynamic) -> Weight:
    if use.reason or use.weight in recipe.skip:
        return Weight(use.weight, "float32", use.reason or "the plan skips it")
    kernel = "MatMulIntegerToFloat" if isinstance(recipe, Int8) else "DynamicQuantizeMatMul"
    return Weight(use.weight, "int8 weights and activations", "", kernel)
