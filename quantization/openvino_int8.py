"""Weights and activations of a denoiser in int8 in OpenVINO IR, by nncf.quantize."""

import contextlib
import io
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from quantization.integers import KEPT_GROUP
from quantization.openvino_weights import (
    compress,
    read,
    save,
    uses,
    weight_input,
    weight_values,
)
from quantization.recipes import Int8, IntegerWeights
from quantization.roles import Use
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors
from runtimes.errors import RunError

# What nncf calls the multiplications that SmoothQuant inserts.
_SMOOTHED = "nncf_smooth_quant"


def quantize_int8(
    source: Path, target: Path, recipe: Int8, feeds: Sequence[Tensors]
) -> list[Weight]:
    """Write `source` as `target` with FakeQuantize in front of what is int8, and int8 weights.

    nncf by itself also quantises sums and products of activations: here it gets the convolutions
    and products by weights that `uses` has no reason against, and nothing else. Raises RunError
    where nncf smooths nothing, or leaves in float what it was to quantise.
    """
    model = read(source)
    weights = list(uses(model))
    narrow = _weights_only(weights, recipe)
    aside = {*recipe.skip, *narrow}
    wanted = {use.node for use in weights if not use.reason and use.weight not in aside}
    if wanted:
        quantised = _by_nncf(model, wanted, recipe.smoothing, feeds)
        if recipe.smoothing > 0:
            _check_smoothed(quantised, source)
        _restore(quantised, model, [use for use in weights if use.node not in wanted])
        _name(quantised, [use for use in weights if use.node in wanted])
        del quantised.rt_info["nncf"]  # its options, with the names of all nodes it left alone
        model = quantised
    others = {use.weight for use in weights} - narrow
    rest = IntegerWeights("int8-weights", 8, KEPT_GROUP, skip=tuple(others))
    kept = {w.name: w for w in compress(model, rest) if w.name in narrow}
    save(model, target)
    return [kept.get(use.weight) or _entry(use, recipe) for use in weights]


def _weights_only(weights: Sequence[Use], recipe: Int8) -> set[str]:
    """The plan's exceptions, and upsampling: under 2 % of the work."""
    upsampling = {
        use.weight for use in weights if use.kind == "ConvolutionBackpropData" and not use.reason
    }
    return {*recipe.keep, *upsampling} - set(recipe.skip)


def _entry(use: Use, recipe: Int8) -> Weight:
    if use.reason or use.weight in recipe.skip:
        return Weight(use.weight, "float32", use.reason or "the plan skips it")
    return Weight(use.weight, "int8 weights and activations", "")


def _by_nncf(
    model: Any, wanted: Collection[str], smoothing: float, feeds: Sequence[Tensors]
) -> Any:
    with quiet_nncf() as nncf:
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
            OverflowFix,
        )
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        alpha = smoothing if smoothing > 0 else -1
        names = [node.get_friendly_name() for node in model.get_ops()]
        return nncf.quantize(
            model,
            nncf.Dataset(list(feeds)),
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,  # activations asymmetric
            model_type=nncf.ModelType.TRANSFORMER,  # else there is no SmoothQuant
            ignored_scope=nncf.IgnoredScope(
                names=[name for name in names if name not in wanted], validate=False
            ),
            advanced_parameters=AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.DISABLE,  # halves weights for CPUs before VNNI
                disable_bias_correction=True,
                disable_channel_alignment=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                smooth_quant_alphas=AdvancedSmoothQuantParameters(alpha, alpha),
            ),
        )


def _check_smoothed(model: Any, source: Path) -> None:
    """RunError where SmoothQuant has inserted no scale: int8 would be a few dB worse, unsaid."""
    if not any(_SMOOTHED in node.get_friendly_name() for node in model.get_ops()):
        raise RunError(f"{source}: nncf smoothed nothing; a plan with smoothing = 0 does without")


def _restore(model: Any, source: Any, others: Sequence[Use]) -> None:
    """Give back what SmoothQuant, which knows no ignored scope, has scaled besides."""
    import openvino.opset15 as ops

    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    before = {node.get_friendly_name(): node for node in source.get_ops()}
    for use in others:
        if use.kind not in ("Convolution", "MatMul"):
            continue
        data = before[use.node].input_value(0)
        unscaled = nodes[data.get_node().get_friendly_name()].output(data.get_index())
        nodes[use.node].input(0).replace_source_output(unscaled)
        values = weight_values(weight_input(before[use.node]))
        weight_input(nodes[use.node]).replace_source_output(
            ops.constant(values, name=use.weight).output(0)
        )


def _name(model: Any, done: Sequence[Use]) -> None:
    """Name the nodes that nncf leaves to OpenVINO's numbering, which differs from run to run."""
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    for use in done:
        scaled = weight_input(nodes[use.node]).get_source_output().get_node()
        wide = scaled.input_value(0).get_node()
        # nncf stores integers behind a Convert; without one, the weight itself is still there.
        stored = wide.input_value(0).get_node() if wide.get_input_size() else wide
        if stored.get_element_type().to_string() != "i8":
            raise RunError(f"nncf left {use.weight} in {stored.get_element_type().to_string()}")
        named = {"int8": stored, "wide": wide, "float": scaled}
        named["scale"] = scaled.input_value(1).get_node()
        for suffix, node in named.items():
            node.set_friendly_name(f"{use.weight}_{suffix}")


@contextlib.contextmanager
def quiet_nncf() -> Iterator[Any]:
    """nncf without progress bars and notices, and without its reports to a third party."""
    with contextlib.redirect_stdout(io.StringIO()):
        with _no_reports():
            import nncf

        logger = logging.getLogger("nncf")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield nncf
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _no_reports() -> Iterator[None]:
    """The environment in which nncf is imported without telling Google Analytics of its uses.

    It looks once, when it is first imported; nothing else of the process should see the variable.
    """
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
