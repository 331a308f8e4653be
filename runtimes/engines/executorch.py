"""ExecuTorch: a program (.pte) on the CPU, by XNNPACK and ExecuTorch's own kernels.

ExecuTorch's Python module is linked against PyTorch and takes its tensors: importing `executorch`
imports `torch`, which shares NumPy's memory here and does nothing else. It is the one engine that
brings PyTorch into the process. On a phone its C++ library runs the same file without it.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

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

NAME, EXTRA, METHOD = "ExecuTorch", "executorch", "forward"
# What is told of how a graph computes, by the precision it is stored in.
PRECISIONS = {"fp32": "f32", "int8-dynamic": "int8-dynamic"}


class ExecuTorchEngine:
    """One program, its method 'forward' loaded. Inputs and outputs come in the manifest's order."""

    def __init__(self, file: GraphFile, execution: Execution) -> None:
        check(execution)
        self._torch, runtime = imported("torch", EXTRA), _runtime(execution.threads)
        graph = file.graph
        if graph.precision not in PRECISIONS:
            raise unknown_precision(graph.precision)
        self._inputs = [tensor.name for tensor in graph.inputs]
        self._outputs = [tensor.name for tensor in graph.outputs]
        start = time.perf_counter()
        try:
            self._program = runtime.load_program(file.path)
            self._method = self._program.load_method(METHOD)
        except Exception as error:  # RuntimeError with a code, KeyError for another method
            raise RunError(f"{NAME} cannot load {file.path}: {one_line(error)}") from error
        self.load_seconds = time.perf_counter() - start
        version = imported("executorch.version", EXTRA).__version__
        precision = PRECISIONS[graph.precision]
        self.placement = Placement(f"{NAME} {version.partition('+')[0]}", "CPU", precision)

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        kept = {name: self._tensor(value) for name, value in constants.items()}

        def run(feeds: Feeds) -> Tensors:
            check_inputs(self._inputs, kept, feeds)
            values = kept | {name: self._tensor(value) for name, value in feeds.items()}
            try:
                outputs = self._method.execute([values[name] for name in self._inputs])
            except Exception as error:  # RuntimeError with a code: a shape that is not the graph's
                raise RunError(f"{NAME} failed: {one_line(error)}") from error
            return {name: value.numpy() for name, value in zip(self._outputs, outputs, strict=True)}

        return run

    def close(self) -> None:
        # The program has no `close`: its memory goes with the last reference to it.
        del self._method, self._program

    def _tensor(self, value: NDArray[np.generic]) -> Any:
        # Copied where it cannot be written to, or lies in another order: PyTorch knows no such.
        return self._torch.from_numpy(np.require(value, requirements=["C", "W"]))


def open_graph(file: GraphFile, execution: Execution) -> Engine:
    """A program, ready to run."""
    return ExecuTorchEngine(file, execution)


def footprint(execution: Execution) -> Footprint:
    """XNNPACK packs weights anew beside the mapped file: 1.3 on the demo's Stage C, with a run.

    In 8 bits its program is a third as large, and 1.7 before a run.
    """
    return Footprint({"fp32": 1.3, "int8-dynamic": 1.7})


def check(execution: Execution) -> None:
    """UsageError for another device than the CPU, options of other engines, or no executorch."""
    no_such_options(NAME, execution)
    only_cpu(NAME, EXTRA, execution)
    require(("executorch", "torch"), EXTRA)


def _runtime(threads: int | None) -> Any:
    """ExecuTorch's runtime with so many threads, which all graphs of the process share."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 'experimental', on import
        module = imported("executorch.extension.pybindings.portable_lib", EXTRA)
        runtime = imported("executorch.runtime", EXTRA).Runtime.get()
    if threads is not None and module._threadpool_get_thread_count() != threads:
        module._unsafe_reset_threadpool(threads)  # unsafe while a graph runs; none does here
    return runtime
