"""Core ML: a graph's .mlpackage driven by coremltools, which predicts on macOS only."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.coreml_trust import specification_file
from runtimes.bundle.graph_files import real_files
from runtimes.console import imported
from runtimes.engines.base import (
    Engine,
    Execution,
    Feeds,
    Footprint,
    GraphFile,
    Placement,
    Tensors,
    check_inputs,
    no_such_options,
    no_threads,
    unknown_precision,
)
from runtimes.errors import RunError, UsageError, one_line

# --device -> coremltools.ComputeUnit: what Core ML may use. It still places each operation itself.
COMPUTE_UNITS = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "npu": "CPU_AND_NE", "all": "ALL"}
# What is told of how a graph computes, by the precision it is stored in. Smaller weights are made
# wide where they are used, in a type that Core ML chooses by device: so their own name stands.
PRECISIONS = {
    "fp32": "f32",
    "fp16": "f16",
    **{name: name for name in ("int8-weights", "int4-weights", "palette8", "palette6", "palette4")},
    "mixed-bits": "mixed-bits",
}
Shapes = dict[str, tuple[int, ...]]


class CoreMLEngine:
    """One .mlpackage. A function of it is compiled for this Mac when its sizes are first fed.

    A package has one function, or one for each picture size; the last one used stays loaded.
    """

    def __init__(self, file: GraphFile, execution: Execution) -> None:
        check(execution)
        self._ct = import_coremltools()
        graph, self._path, self._files = file.graph, file.path, file.files
        self._units = COMPUTE_UNITS[execution.device.lower()]
        self._functions = function_shapes(read_specification(file.path))
        self._inputs = {tensor.name for tensor in graph.inputs}
        self._outputs = [tensor.name for tensor in graph.outputs]
        self._loaded: tuple[str, Any] | None = None
        self.load_seconds = 0.0
        # The compute units it may choose from; which ones it chose, only Xcode's report shows.
        precision = computed_precision(graph.precision)
        name = f"Core ML, coremltools {self._ct.__version__}"
        self.placement = Placement(name, self._units, precision)

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        kept = {name: coreml_input(value) for name, value in constants.items()}

        def run(feeds: Feeds) -> Tensors:
            values = kept | {name: coreml_input(value) for name, value in feeds.items()}
            check_inputs(self._inputs, values)
            model = self._model(function_for(self._functions, values))
            try:
                outputs = model.predict(values)
            except Exception as error:  # Core ML's errors share no base class
                raise RunError(f"Core ML failed: {one_line(error)}") from error
            return {name: np.asarray(outputs[name]) for name in self._outputs}

        return run

    def close(self) -> None:
        self._loaded = None

    def _model(self, function: str) -> Any:
        if self._loaded is None or self._loaded[0] != function:
            self._loaded = None  # before the next one is loaded: one in memory
            # Not by name where there is one: packages from before functions have none.
            options = {} if len(self._functions) == 1 else {"function_name": function}
            units = getattr(self._ct.ComputeUnit, self._units)
            start = time.perf_counter()
            try:
                with real_files(self._path, self._files) as path:
                    model = self._ct.models.MLModel(str(path), compute_units=units, **options)
            except Exception as error:  # as above: no base class
                raise RunError(f"Core ML cannot load {self._path}: {one_line(error)}") from error
            self.load_seconds += time.perf_counter() - start
            self._loaded = function, model
        return self._loaded[1]


def read_specification(package: Path) -> Any:
    """A package's Model protobuf; RunError when it is damaged.

    coremltools' own reader writes to the package, which need not be ours to write to.
    """
    import_coremltools()
    from coremltools.proto.Model_pb2 import Model
    from google.protobuf.message import DecodeError

    try:
        return Model.FromString(specification_file(package).read_bytes())
    except (OSError, KeyError, TypeError, ValueError, DecodeError) as error:
        raise RunError(f"{package} is no readable Core ML package: {one_line(error)}") from error


def function_shapes(spec: Any) -> dict[str, Shapes]:
    """The input shapes of each function of a package's specification; 'main' for a lone one."""
    description = spec.description
    described = {f.name: f.input for f in description.functions} or {"main": description.input}
    return {
        name: {feature.name: tuple(feature.type.multiArrayType.shape) for feature in inputs}
        for name, inputs in described.items()
    }


def computed_precision(stored: str) -> str:
    """The entry of PRECISIONS; RunError for a precision that no bundle of this version has."""
    if stored not in PRECISIONS:
        raise unknown_precision(stored)
    return PRECISIONS[stored]


def function_for(functions: Mapping[str, Shapes], feeds: Feeds) -> str:
    """The function that takes feeds of these shapes; RunError names what there is."""
    fed = {name: value.shape for name, value in feeds.items()}
    for name, shapes in functions.items():
        if all(fed.get(key) == shape for key, shape in shapes.items()):
            return name
    known = "; ".join(
        f"{name}: {', '.join(f'{key} {shape}' for key, shape in shapes.items())}"
        for name, shapes in functions.items()
    )
    raise RunError(f"no function of the package takes {fed}, they take: {known}")


def open_graph(file: GraphFile, execution: Execution) -> Engine:
    """A package, of which a function is loaded when its sizes are first fed."""
    return CoreMLEngine(file, execution)


def footprint(execution: Execution) -> Footprint:
    """Not measured: Core ML runs on macOS only."""
    return Footprint()


def check(execution: Execution) -> None:
    """UsageError for an unknown device, another system than macOS, or missing coremltools."""
    no_such_options("Core ML", execution)
    no_threads("Core ML", execution)
    device = execution.device.lower()
    if device not in COMPUTE_UNITS:
        raise UsageError(f"--device {device}: Core ML bundles run on {', '.join(COMPUTE_UNITS)}")
    if sys.platform != "darwin":
        raise UsageError(
            "Core ML runs on macOS only: open this bundle on a Mac, or check its programs here "
            "with 'python -m validation', which interprets them"
        )
    import_coremltools()


def coreml_input(value: NDArray[np.generic]) -> NDArray[np.generic]:
    """Token ids and masks as int32: Core ML has no int64 inputs. The rest as it is."""
    return value.astype(np.int32) if value.dtype == np.int64 else value


def import_coremltools() -> Any:
    """coremltools, imported without its notices; UsageError when it is not installed."""
    # Notices of untested versions, and off macOS of every native library that is not there.
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return imported("coremltools", "coreml")
    finally:
        logger.setLevel(level)
