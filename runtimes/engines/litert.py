"""LiteRT: a model (.tflite) on the CPU, by XNNPACK and LiteRT's own kernels."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtimes.console import imported, require
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
    only_cpu,
    unknown_precision,
)
from runtimes.errors import RunError, one_line

NAME, EXTRA, PACKAGE = "LiteRT", "litert", "ai_edge_litert"
# What is told of how a graph computes, by the precision it is stored in.
PRECISIONS = {"fp32": "f32", "int8-weights": "f32", "int8-dynamic": "int8-dynamic"}


class LiteRTEngine:
    """One model, run by its signature, whose tensors have the names of the manifest."""

    def __init__(self, file: GraphFile, execution: Execution) -> None:
        check(execution)
        graph = file.graph
        if graph.precision not in PRECISIONS:
            raise unknown_precision(graph.precision)
        self._inputs = {tensor.name for tensor in graph.inputs}
        self._outputs = [tensor.name for tensor in graph.outputs]
        interpreter = imported(f"{PACKAGE}.interpreter", EXTRA).Interpreter
        start = time.perf_counter()
        try:
            self._model = interpreter(model_path=str(file.path), num_threads=execution.threads)
            self._model.allocate_tensors()
            self._signature = self._model.get_signature_runner()
            known = self._signature.get_input_details(), self._signature.get_output_details()
        except Exception as error:  # RuntimeError or ValueError, by where it fails
            raise RunError(f"{NAME} cannot load {file.path}: {one_line(error)}") from error
        self.load_seconds = time.perf_counter() - start
        for missing in ({*self._inputs} ^ {*known[0]}, {*self._outputs} - {*known[1]}):
            if missing:
                raise RunError(f"{file.path} has no tensor {min(missing)}; export the bundle again")
        version = imported(PACKAGE, EXTRA).__version__
        self.placement = Placement(f"{NAME} {version}", "CPU", PRECISIONS[graph.precision])

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        kept = {name: litert_input(value) for name, value in constants.items()}

        def run(feeds: Feeds) -> Tensors:
            check_inputs(self._inputs, kept, feeds)
            values = kept | {name: litert_input(value) for name, value in feeds.items()}
            try:
                outputs = self._signature(**{name: values[name] for name in self._inputs})
            except Exception as error:  # ValueError for a shape or type that is not the graph's
                raise RunError(f"{NAME} failed: {one_line(error)}") from error
            return {name: outputs[name] for name in self._outputs}

        return run

    def close(self) -> None:
        # The interpreter has no `close`: its memory goes with the last reference to it.
        del self._signature, self._model


def litert_input(value: NDArray[np.generic]) -> NDArray[np.generic]:
    """Token ids and masks as int32, the type the models take. The rest as it is."""
    return value.astype(np.int32) if value.dtype == np.int64 else value


def open_graph(file: GraphFile, execution: Execution) -> Engine:
    """A model, ready to run."""
    return LiteRTEngine(file, execution)


def footprint(execution: Execution) -> Footprint:
    """XNNPACK packs weights anew beside the mapped file: 1.4 on the demo's Stage C, with a run."""
    return Footprint({"fp32": 1.4, "int8-weights": 1.4, "int8-dynamic": 1.4})


def check(execution: Execution) -> None:
    """UsageError for another device than the CPU, options of other engines, or no LiteRT."""
    no_such_options(NAME, execution)
    only_cpu(NAME, EXTRA, execution)
    require((PACKAGE,), EXTRA)
