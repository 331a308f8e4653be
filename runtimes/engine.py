"""The engine seam: the only thing that differs between ONNX Runtime, OpenVINO and Core ML."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UsageError
from runtimes.manifest import Graph

Tensors = dict[str, NDArray[np.generic]]
Feeds = Mapping[str, NDArray[np.generic]]


class Engine(Protocol):
    """One graph, ready to run."""

    def run(self, feeds: Feeds) -> Tensors:
        """All outputs by name, on the host."""
        ...

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        """A `run` with some inputs fixed: they are moved to the device once and stay there."""
        ...

    def close(self) -> None:
        """Release the graph's memory."""
        ...


# (graph file, its manifest entry, device) -> engine
OpenEngine = Callable[[Path, Graph, str], Engine]


def open_onnxruntime(path: Path, graph: Graph, device: str) -> Engine:
    from runtimes.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, graph, device)


def check_onnxruntime(device: str) -> None:
    from runtimes.onnxruntime_engine import check_device

    check_device(device)


@dataclass(frozen=True)
class EngineKind:
    """How to open a graph, and how to check a device before anything is opened."""

    open: OpenEngine
    check_device: Callable[[str], None]


# Which engine runs a bundle of which backend.
ENGINES = {"onnx": EngineKind(open_onnxruntime, check_onnxruntime)}


def engine_for(backend: str) -> EngineKind:
    """The engine of a backend; UsageError names the ones there are."""
    if backend not in ENGINES:
        known = ", ".join(ENGINES)
        raise UsageError(f"no engine runs '{backend}' bundles in this version (it runs: {known})")
    return ENGINES[backend]
