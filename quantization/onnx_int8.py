"""Weights and activations of a denoiser in int8, by onnxruntime's static quantiser (QDQ)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from quantization.onnx_weights import KEPT_GROUP, quantize_weights
from quantization.recipes import Int8, IntegerWeights
from quantization.smoothing import after_grn, channel_ranges, smooth
from quantization.weights import Use, uses
from runtimes.engine import Tensors
from runtimes.manifest import Weight


def quantize_int8(
    source: Path, target: Path, recipe: Int8, feeds: Sequence[Tensors], ranges: Path | None = None
) -> list[Weight]:
    """Write `source` as `target` with QuantizeLinear and DequantizeLinear around what is int8.

    Every product between activations and every weight that `weights.uses` has a reason for stays
    in float. `ranges` keeps what calibration measured for another plan of the same graph.
    """
    model = onnx.load(source)
    found = list(uses(model))
    aside = {*recipe.keep, *recipe.skip}
    nodes = [use.node for use in found if not use.reason and use.weight not in aside]
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        smoothed, mixed = Path(folder) / "smoothed.onnx", Path(folder) / "mixed.onnx"
        if recipe.smoothing > 0:
            names = list(dict.fromkeys(node.input[0] for node in after_grn(model)))
            smooth(model, channel_ranges(source, names, feeds), recipe.smoothing)
        onnx.save(model, smoothed, save_as_external_data=True, location="smoothed.data")
        del model
        if nodes:  # an empty list would mean all of them to onnxruntime
            _quantize_static(smoothed, mixed, nodes, feeds, ranges)
        else:
            mixed = smoothed
        others = {use.weight for use in found} - set(recipe.keep)
        rest = IntegerWeights("int8-weights", 8, KEPT_GROUP, skip=tuple(others))
        kept = {w.name: w for w in quantize_weights(mixed, target, rest) if w.name in recipe.keep}
    return [kept.get(use.weight) or _entry(use, recipe) for use in found]


def _entry(use: Use, recipe: Int8) -> Weight:
    if use.reason or use.weight in recipe.skip:
        return Weight(use.weight, "float32", use.reason or "the plan skips it")
    return Weight(use.weight, "int8 weights and activations", "")


def _quantize_static(
    source: Path, target: Path, nodes: list[str], feeds: Sequence[Tensors], ranges: Path | None
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self._left, None)
            return None if sample is None else dict(sample)

    target.parent.mkdir(parents=True, exist_ok=True)
    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "MatMul"],
        nodes_to_quantize=nodes,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        use_external_data_format=True,
        calibration_cache_path=ranges,
    )
