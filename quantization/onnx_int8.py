"""Weights and activations of a denoiser in int8, by onnxruntime's quantisers."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.instrumented import channel_ranges, extremes
from quantization.integers import KEPT_GROUP
from quantization.onnx_files import load
from quantization.onnx_weights import quantize_weights
from quantization.recipes import Int8, Int8Dynamic, IntegerWeights
from quantization.roles import Use, uses
from quantization.smoothing import after_grn, smooth
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors


def quantize_int8(
    source: Path, target: Path, recipe: Int8, feeds: Sequence[Tensors], cache: Path | None = None
) -> list[Weight]:
    """Write `source` as `target` with QuantizeLinear and DequantizeLinear around what is int8.

    Every product between activations and every weight that `weights.uses` has a reason for stays
    in float. `cache`, a folder, keeps what calibration measured for another plan of the graph.
    """
    model = load(source)
    found = list(uses(model))
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        smoothed, mixed = Path(folder) / "smoothed.onnx", Path(folder) / "mixed.onnx"
        if recipe.smoothing > 0:
            names = list(dict.fromkeys(node.input[0] for node in after_grn(model)))
            smooth(model, _channel_ranges(source, names, feeds, cache), recipe.smoothing)
        onnx.save(model, smoothed, save_as_external_data=True, location="smoothed.data")
        del model
        nodes = _int8_nodes(found, recipe)
        if nodes:  # an empty list would mean all of them to onnxruntime
            ranges = (cache or Path(folder)) / "ranges.json"
            if not ranges.exists():  # of all that a plan may choose from
                _record(smoothed, [use.node for use in found if not use.reason], feeds, ranges)
            _quantize_static(smoothed, mixed, nodes, ranges)
        else:
            mixed = smoothed
        return _keep(mixed, target, found, recipe)


def quantize_int8_dynamic(
    source: Path, target: Path, recipe: Int8Dynamic, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write `source` as `target` with DynamicQuantizeLinear in front of what is int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = load(source)
    found = list(uses(model))
    nodes = _int8_nodes(found, recipe)
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        plain, mixed = Path(folder) / "plain.onnx", Path(folder) / "mixed.onnx"
        if not nodes:
            mixed = source
        else:  # onnxruntime writes beside what it reads, which is not ours to write to
            onnx.save(model, plain, save_as_external_data=True, location="plain.data")
            del model
            with _without_advice():
                quantize_dynamic(
                    plain,
                    mixed,
                    op_types_to_quantize=["Conv", "MatMul"],
                    nodes_to_quantize=nodes,
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    use_external_data_format=True,
                )
        return _keep(mixed, target, found, recipe)


def _int8_nodes(found: Sequence[Use], recipe: Int8 | Int8Dynamic) -> list[str]:
    aside = {*recipe.skip, *_weights_only(found, recipe)}
    return [use.node for use in found if not use.reason and use.weight not in aside]


def _weights_only(found: Sequence[Use], recipe: Int8 | Int8Dynamic) -> set[str]:
    """The plan's exceptions, and upsampling: onnxruntime has no int8 transposed convolution."""
    upsampling = {use.weight for use in found if use.kind == "ConvTranspose" and not use.reason}
    return {*recipe.keep, *upsampling} - set(recipe.skip)


def _keep(
    mixed: Path, target: Path, found: Sequence[Use], recipe: Int8 | Int8Dynamic
) -> list[Weight]:
    """Store the weights whose activations stay in float in int8, and list all."""
    narrow = _weights_only(found, recipe)
    others = {use.weight for use in found} - narrow
    rest = IntegerWeights("int8-weights", 8, KEPT_GROUP, skip=tuple(others))
    kept = {w.name: w for w in quantize_weights(mixed, target, rest) if w.name in narrow}
    return [kept.get(use.weight) or _entry(use, recipe) for use in found]


def _channel_ranges(
    source: Path, names: list[str], feeds: Sequence[Tensors], cache: Path | None
) -> dict[str, NDArray[np.float32]]:
    kept = None if cache is None else cache / "channels.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as values:
            return dict(values)
    found = channel_ranges(source, names, feeds)
    if kept is not None:
        with kept.open("wb") as file:
            np.savez(file, allow_pickle=False, **found)
    return found


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

    model, wanted = onnx.load(path, load_external_data=False), set(nodes)
    given = [node.input[0] for node in model.graph.node if node.name in wanted]
    found = extremes(path, list(dict.fromkeys(given)), feeds)
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), ranges)


def _quantize_static(source: Path, target: Path, nodes: list[str], ranges: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    target.parent.mkdir(parents=True, exist_ok=True)
    with _without_advice():
        quantize_static(
            source,
            target,
            calibration_data_reader=None,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=True,
            calibration_cache_path=ranges,
            # Sums and GELU take a product's output in float: rounding it costs up to 8 dB.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv", "MatMul"]},
        )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without onnxruntime's line about pre-processing: shapes are there, nothing is to be fused."""
    root = logging.getLogger()
    root.addFilter(_not_advice)
    try:
        yield
    finally:
        root.removeFilter(_not_advice)


def _not_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()
