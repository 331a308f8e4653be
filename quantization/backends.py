"""The table from a backend and a recipe to what carries it out."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from quantization.recipes import Float16, Int8, Int8Dynamic, IntegerWeights, Palette, Recipe
from runtimes.bundle.manifest import Weight
from runtimes.engines.base import Tensors

# Writes a graph (source file, or Core ML package) as another, with the feeds calibration recorded
# for it; lists every weight, changed or not.
Handler = Callable[[Path, Path, Any, list[Tensors]], list[Weight]]


def _onnx_fp16(source: Path, target: Path, recipe: Float16, feeds: list[Tensors]) -> list[Weight]:
    from quantization.onnx_fp16 import quantize_fp16

    return quantize_fp16(source, target)


def _onnx_weights(
    source: Path, target: Path, recipe: IntegerWeights, feeds: list[Tensors]
) -> list[Weight]:
    from quantization.onnx_weights import quantize_weights

    return quantize_weights(source, target, recipe)


def _onnx_int8(source: Path, target: Path, recipe: Int8, feeds: list[Tensors]) -> list[Weight]:
    from quantization.onnx_int8 import quantize_int8

    return quantize_int8(source, target, recipe, feeds)


def _onnx_int8_dynamic(
    source: Path, target: Path, recipe: Int8Dynamic, feeds: list[Tensors]
) -> list[Weight]:
    from quantization.onnx_int8 import quantize_int8_dynamic

    return quantize_int8_dynamic(source, target, recipe)


def _openvino_fp16(
    source: Path, target: Path, recipe: Float16, feeds: list[Tensors]
) -> list[Weight]:
    from quantization.openvino_weights import quantize_fp16

    return quantize_fp16(source, target)


def _openvino_weights(
    source: Path, target: Path, recipe: IntegerWeights, feeds: list[Tensors]
) -> list[Weight]:
    from quantization.openvino_weights import quantize_weights

    return quantize_weights(source, target, recipe)


def _openvino_int8(source: Path, target: Path, recipe: Int8, feeds: list[Tensors]) -> list[Weight]:
    from quantization.openvino_int8 import quantize_int8

    return quantize_int8(source, target, recipe, feeds)


def _coreml(
    source: Path, target: Path, recipe: IntegerWeights | Palette, feeds: list[Tensors]
) -> list[Weight]:
    from quantization.coreml_weights import compress

    return compress(source, target, recipe)


def _onnx_names(source: Path) -> Collection[str]:
    import onnx

    from quantization.roles import uses

    return {
        use.weight for use in uses(onnx.load(source, load_external_data=False)) if not use.reason
    }


def _openvino_names(source: Path) -> Collection[str]:
    from quantization.openvino_weights import read, uses

    return {use.weight for use in uses(read(source))}


def _coreml_names(source: Path) -> Collection[str]:
    from quantization.coreml_weights import names

    return names(source)


def _coreml_name(weight: str) -> str:
    from quantization.coreml_program import mil_name

    return mil_name(weight)


def _coreml_check(source: Path, recipe: Recipe) -> None:
    from quantization.coreml_weights import check

    check(source, recipe)


HANDLERS: dict[tuple[str, type[Recipe]], Handler] = {
    ("onnx", Float16): _onnx_fp16,
    ("onnx", IntegerWeights): _onnx_weights,
    ("onnx", Int8): _onnx_int8,
    ("onnx", Int8Dynamic): _onnx_int8_dynamic,
    ("openvino", Float16): _openvino_fp16,
    ("openvino", IntegerWeights): _openvino_weights,
    ("openvino", Int8): _openvino_int8,
    ("coreml", IntegerWeights): _coreml,
    ("coreml", Palette): _coreml,
}
# The names of a graph's weights: what a plan may make exceptions of.
WEIGHT_NAMES: dict[str, Callable[[Path], Collection[str]]] = {
    "onnx": _onnx_names,
    "openvino": _openvino_names,
    "coreml": _coreml_names,
}
# How a graph spells a name of the plan, where not as PyTorch does.
SPELLINGS: dict[str, Callable[[str], str]] = {"coreml": _coreml_name}
# What else has to hold for a graph and its recipe; UsageError where it does not.
CHECKS: dict[str, Callable[[Path, Recipe], None]] = {"coreml": _coreml_check}
# Precisions that can be quantised, where not fp32 only: Core ML packages are exported in fp16, and
# compute in it whatever their weights are.
SOURCES = {"coreml": ("fp32", "fp16")}
# What the handlers of a backend are made of: checked before they run, recorded in the manifest.
PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "onnx-ir", "onnxscript"),
    "openvino": ("openvino", "nncf"),
    "coreml": ("coremltools", "scikit-learn"),
}
# Packages that are imported by another name than they are installed by.
MODULES = {"onnx-ir": "onnx_ir", "scikit-learn": "sklearn"}
