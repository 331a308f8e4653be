"""Weights and activations of a denoiser in int8, by onnxruntime's quantisers."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from quantization.instrumented import channel_ranges, extremes
from quantization.integers import KEPT_GROUP
from quantization.onnx_files import load, save, save_scratch
from quantization.onnx_weights import compress
from quantization.recipes import Int8, Int8Dynamic, IntegerWeights
from quantization.roles import Use, uses
from quantization.smoothing import after_grn, norms, smooth
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors
from runtimes.errors import RunError

# What onnxruntime's own pre-processing leaves in a graph. Without it the quantisers advise, by the
# root logger, to run that: shapes are there, and nothing is to be fused.
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")
_OPERATORS = ["Conv", "MatMul"]


def quantize_int8(
    source: Path, target: Path, recipe: Int8, feeds: Sequence[Tensors], cache: Path | None = None
) -> list[Weight]:
    """Write `source` as `target` with QuantizeLinear and DequantizeLinear around what is int8.

    Every product between activations and every weight that `roles.uses` has a reason for stays in
    float. `cache`, a folder, keeps what calibration measured for another plan of the graph.
    Raises RunError where smoothing or onnxruntime passes over what it was to change.
    """
    model = load(source)
    weights = list(uses(model))
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        smoothed, mixed = Path(folder) / "smoothed.onnx", Path(folder) / "mixed.onnx"
        if recipe.smoothing > 0:
            _smooth(model, source, recipe.smoothing, feeds, cache)
        _save_for_quantiser(model, smoothed)
        del model  # its weights are mapped and, where smoothed, in memory
        nodes = _int8_nodes(weights, recipe)
        if nodes:  # an empty list would mean all of them to onnxruntime
            ranges = (cache or Path(folder)) / "ranges.json"
            if not ranges.exists():  # of all that a plan may choose from
                _record(smoothed, [use.node for use in weights if not use.reason], feeds, ranges)
            _quantize_static(smoothed, mixed, nodes, ranges)
        return _finish(mixed if nodes else smoothed, target, weights, recipe)


def quantize_int8_dynamic(
    source: Path, target: Path, recipe: Int8Dynamic, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` with DynamicQuantizeLinear in front of what is int8."""
    model = load(source)
    weights = list(uses(model))
    nodes = _int8_nodes(weights, recipe)
    if not nodes:
        return _finish(source, target, weights, recipe)
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        # onnxruntime writes beside what it reads, which is not ours to write to
        plain, mixed = Path(folder) / "plain.onnx", Path(folder) / "mixed.onnx"
        _save_for_quantiser(model, plain)
        del model
        _quantize_dynamic(plain, mixed, nodes)
        return _finish(mixed, target, weights, recipe)


def _smooth(
    model: onnx_ir.Model,
    source: Path,
    alpha: float,
    feeds: Sequence[Tensors],
    cache: Path | None,
) -> None:
    """Smooth the Linear behind every GlobalResponseNorm, or say that one is not recognised.

    Unsmoothed, int8 still makes a picture, a few dB worse: nobody would notice.
    """
    inputs = [node.inputs[0] for node in after_grn(model)]
    names = list(dict.fromkeys(value.name for value in inputs if value and value.name))
    smoothed = smooth(model, _channel_ranges(source, names, feeds, cache), alpha)
    if smoothed == 0 or smoothed != norms(model):
        raise RunError(
            f"{source}: smoothing found the Linear behind {smoothed} of {norms(model)} response "
            "norms; a plan with smoothing = 0 does without"
        )


def _int8_nodes(weights: Sequence[Use], recipe: Int8 | Int8Dynamic) -> list[str]:
    """The nodes whose weight and activations are both quantised."""
    aside = {*recipe.skip, *_weights_only(weights, recipe)}
    return [use.node for use in weights if not use.reason and use.weight not in aside]


def _weights_only(weights: Sequence[Use], recipe: Int8 | Int8Dynamic) -> set[str]:
    """The plan's exceptions, and upsampling: onnxruntime has no int8 transposed convolution."""
    upsampling = {use.weight for use in weights if use.kind == "ConvTranspose" and not use.reason}
    return {*recipe.keep, *upsampling} - set(recipe.skip)


def _finish(
    mixed: Path, target: Path, weights: Sequence[Use], recipe: Int8 | Int8Dynamic
) -> list[Weight]:
    """Store the weights whose activations stay in float in int8, write the graph, and list all."""
    model = load(mixed)
    _check_quantised(model, weights, _int8_nodes(weights, recipe))
    model.metadata_props.pop(_PREPROCESSED[0], None)
    narrow = _weights_only(weights, recipe)
    others = {use.weight for use in weights} - narrow
    rest = IntegerWeights("int8-weights", 8, KEPT_GROUP, skip=tuple(others))
    kept = {w.name: w for w in compress(model, rest) if w.name in narrow}
    save(model, target)
    return [kept.get(use.weight) or _entry(use, recipe) for use in weights]


def _check_quantised(model: onnx_ir.Model, weights: Sequence[Use], nodes: Collection[str]) -> None:
    """RunError where onnxruntime has left a weight in float that the record calls int8."""
    elsewhere = {use.weight for use in weights if use.node not in nodes}
    wanted = {use.weight for use in weights} - elsewhere
    left = [use.weight for use in uses(model) if use.weight in wanted]
    if left:
        raise RunError(f"onnxruntime left {len(left)} weights as they are, such as '{left[0]}'")


def _channel_ranges(
    source: Path, names: list[str], feeds: Sequence[Tensors], cache: Path | None
) -> dict[str, NDArray[np.float32]]:
    kept = None if cache is None else cache / "channels.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as values:
            return dict(values)
    ranges = channel_ranges(source, names, feeds)
    if kept is not None:
        with kept.open("wb") as file:
            np.savez(file, allow_pickle=False, **ranges)
    return ranges


def _entry(use: Use, recipe: Int8 | Int8Dynamic) -> Weight:
    if use.reason or use.weight in recipe.skip:
        return Weight(use.weight, "float32", use.reason or "the plan skips it")
    return Weight(use.weight, "int8 weights and activations", "")


def _record(path: Path, nodes: list[str], feeds: Sequence[Tensors], ranges: Path) -> None:
    """Write the ranges of what the nodes multiply their weights by, in onnxruntime's format.

    Its own calibrator keeps every activation of a run in memory until the end, and records what
    nothing uses: 24 GB did not hold Stage C at the public size.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    wanted = set(nodes)
    inputs = [node.inputs[0] for node in onnx_ir.load(path).graph if node.name in wanted]
    names = dict.fromkeys(value.name for value in inputs if value is not None and value.name)
    measured = extremes(path, list(names), feeds)
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, measured), ranges)


def _save_for_quantiser(model: onnx_ir.Model, path: Path) -> None:
    model.metadata_props.update([_PREPROCESSED])
    save_scratch(model, path)


def _quantize_static(source: Path, target: Path, nodes: list[str], ranges: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    quantize_static(
        source,
        target,
        calibration_data_reader=None,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_OPERATORS,
        nodes_to_quantize=nodes,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        use_external_data_format=True,
        calibration_cache_path=ranges,
        # Sums and GELU take a product's output in float: rounding it costs up to 8 dB.
        extra_options={"OpTypesToExcludeOutputQuantization": _OPERATORS},
    )


def _quantize_dynamic(source: Path, target: Path, nodes: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=_OPERATORS,
        nodes_to_quantize=nodes,
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
