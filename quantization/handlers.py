"""The table from a backend and a recipe to what carries it out."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from quantization.recipes import Int8, IntegerWeights, Recipe
from runtimes.engine import Tensors
from runtimes.manifest import Weight

# Writes a graph (source file, or Core ML package) as another, with the feeds calibration recorded
# for it; lists every weight, changed or not.
Handler = Callable[[Path, Path, Any, list[Tensors]], list[Weight]]


def _onnx_weights(
    source: Path, target: Path, recipe: IntegerWeights, feeds: list[Tensors]
) -> list[Weight]:
    from quantization.onnx_weights import quantize_weights

    return quantize_weights(source, target, recipe)


def _onnx_int8(source: Path, target: Path, recipe: Int8, feeds: list[Tensors]) -> list[Weight]:
    from quantization.onnx_int8 import quantize_int8

    return quantize_int8(source, target, recipe, feeds)


def _onnx_names(source: Path) -> Collection[str]:
    import onnx

    model = onnx.load(source, load_external_data=False)
    return {value.name for value in model.graph.initializer}


HANDLERS: dict[tuple[str, type[Recipe]], Handler] = {
    ("onnx", IntegerWeights): _onnx_weights,
    ("onnx", Int8): _onnx_int8,
}
# The names of a graph's weights: what a plan may make exceptions of.
WEIGHT_NAMES: dict[str, Callable[[Path], Collection[str]]] = {"onnx": _onnx_names}
