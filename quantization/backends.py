"""What each format of graphs can have done to it, and by what: one `Backend` value a format.

Reading this table imports none of the formats' packages: a machine that quantises Core ML packages
needs neither onnx nor OpenVINO, and `--help` needs none of the three.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantization.recipes import (
    Float16,
    Float16Weights,
    Int8,
    Int8Dynamic,
    IntegerWeights,
    MixedBits,
    Palette,
    Recipe,
)
from runtimes.bundle.manifest import Weight
from runtimes.bundle.read import Bundle
from runtimes.console import distribution, require
from runtimes.engines.base import Tensors
from runtimes.errors import UsageError

# handler(source, target, recipe, feeds) writes the graph `source` (a file, or a Core ML package) as
# `target` and lists every weight, changed or not. `feeds` are what calibration recorded for the
# graph, none for recipes that measure nothing.
Handler = Callable[[Path, Path, Any, Sequence[Tensors]], list[Weight]]


def _late(place: str) -> Callable[..., Any]:
    """The function at 'module:name' of this package; its module is imported at the first call."""
    module, _, name = place.partition(":")

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"quantization.{module}"), name)(*arguments)

    return call


def _no_check(source: Path, recipe: Recipe) -> None:
    """Nothing but the handler's presence has to hold."""


def _no_kernels(target: Path, weights: list[Weight]) -> list[Weight]:
    """The engine chooses by itself, and says so when it runs."""
    return weights


@dataclass(frozen=True)
class Backend:
    """A format of graphs and how its bundles are quantised."""

    handlers: Mapping[type[Recipe], Handler]
    # The weights of a graph that a plan may make exceptions of.
    weight_names: Callable[[Path], Collection[str]]
    # The modules that the handlers import. Checked before they run; the versions of their packages
    # are recorded in the manifest.
    packages: tuple[str, ...]
    extra: str  # of this project, beside 'quantization', that installs the packages
    # Precisions of a bundle that can be quantised.
    sources: tuple[str, ...] = ("fp32",)
    # How a graph spells a weight's name in a plan, which is PyTorch's.
    spelling: Callable[[str], str] = str
    # The forms that each weight of a graph may have by `--average-bits`, and its bytes in each.
    choices: Callable[[Path], Mapping[str, Mapping[str, int]]] | None = None
    # What else has to hold for a graph and its recipe; UsageError where it does not.
    check: Callable[[Path, Recipe], None] = _no_check
    # The weights of a written graph with the kernels they run in; RunError where one is not the
    # one it was written for.
    with_kernels: Callable[[Path, list[Weight]], list[Weight]] = _no_kernels


BACKENDS = {
    "onnx": Backend(
        handlers={
            Float16: _late("onnx_fp16:quantize_fp16"),
            Float16Weights: _late("onnx_fp16:quantize_fp16_weights"),
            IntegerWeights: _late("onnx_weights:quantize_weights"),
            Int8: _late("onnx_int8:quantize_int8"),
            Int8Dynamic: _late("onnx_int8:quantize_int8_dynamic"),
            MixedBits: _late("onnx_weights:quantize_mixed"),
        },
        weight_names=_late("onnx_weights:weight_names"),
        choices=_late("onnx_weights:choices"),
        packages=("onnx", "onnxruntime", "onnx_ir"),
        extra="cpu",
        with_kernels=_late("onnx_kernels:with_kernels"),
    ),
    "openvino": Backend(
        handlers={
            Float16: _late("openvino_weights:quantize_fp16"),
            IntegerWeights: _late("openvino_weights:quantize_weights"),
            Int8: _late("openvino_int8:quantize_int8"),
        },
        weight_names=_late("openvino_weights:weight_names"),
        packages=("openvino", "nncf"),
        extra="openvino",
    ),
    "coreml": Backend(
        handlers={
            IntegerWeights: _late("coreml_weights:compress"),
            Palette: _late("coreml_weights:compress"),
            MixedBits: _late("coreml_weights:compress"),
        },
        weight_names=_late("coreml_weights:weight_names"),
        choices=_late("coreml_weights:choices"),
        packages=("coremltools", "sklearn"),
        extra="coreml",
        # Packages are exported in fp16, and compute in it whatever their weights are.
        sources=("fp32", "fp16"),
        spelling=_late("coreml_program:mil_name"),
        check=_late("coreml_weights:check"),
    ),
    "litert": Backend(
        handlers={
            IntegerWeights: _late("litert_weights:quantize"),
            Int8Dynamic: _late("litert_weights:quantize"),
        },
        weight_names=_late("litert_weights:weight_names"),
        packages=("ai_edge_quantizer",),
        extra="litert-export",
        check=_late("litert_weights:check"),
    ),
}


def backend_of(bundle: Bundle) -> Backend:
    """How a bundle's graphs are quantised; UsageError for a format that nothing here reads."""
    name = bundle.manifest.backend
    if name not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise UsageError(f"{bundle.folder} is an {name} bundle; those of {known} can be quantised")
    return BACKENDS[name]


def require_packages(backend: Backend, note: str = "") -> None:
    """UsageError where a package that a backend's handlers import is not installed."""
    require(backend.packages, f"quantization,{backend.extra}", note=note)


def package_versions(backend: Backend) -> dict[str, str]:
    """The versions of those packages, by the names that pip has for them."""
    names = map(distribution, backend.packages)
    return {name: importlib.metadata.version(name) for name in names}
