"""The engine seam: the only thing that differs between ONNX Runtime, OpenVINO and Core ML."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import Graph
from runtimes.errors import UsageError

Tensors = dict[str, NDArray[np.generic]]
Feeds = Mapping[str, NDArray[np.generic]]

# What `--execution-precision` takes, and the precisions a bundle's graphs are stored in.
STORED = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


@dataclass(frozen=True)
class Execution:
    """Where and how graphs are asked to run; None leaves the engine its best.

    `engine` is one of ENGINES, `precision` one of f32, bf16 and f16 (the type heavy operations
    compute in), `cache` a folder that keeps compiled graphs for the next start, `threads` how many
    of the CPU's a graph runs on.
    """

    device: str = "cpu"
    engine: str | None = None
    precision: str | None = None
    cache: Path | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Placement:
    """Where and how a graph really runs: the engine and its version, the device, the precision.

    `notes` say what else an engine did with it, such as '32 fused attention'.
    """

    engine: str
    device: str
    precision: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((self.engine, self.device, self.precision, *self.notes))


@dataclass(frozen=True)
class GraphFile:
    """One graph of a bundle on disk; `digest` is a SHA-256 over all its files.

    `files`: what engines read of it, by their names in the folder of `path`.
    """

    path: Path
    graph: Graph
    digest: str
    files: tuple[str, ...] = ()


class Engine(Protocol):
    """One graph, ready to run. `load_seconds`: time spent loading and compiling, until reset."""

    load_seconds: float

    @property
    def placement(self) -> Placement:
        """Where it runs; engines that compile for the shapes they meet know after the first run."""
        ...

    def run(self, feeds: Feeds) -> Tensors:
        """All outputs by name, on the host."""
        ...

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        """A `run` with some inputs fixed: they are moved to the device once and stay there."""
        ...

    def close(self) -> None:
        """Release the graph's memory."""
        ...


def open_onnxruntime(file: GraphFile, execution: Execution) -> Engine:
    from runtimes.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(file, execution)


def check_onnxruntime(execution: Execution) -> None:
    from runtimes.engines.onnxruntime import check_device

    no_such_options("ONNX Runtime", execution)
    check_device(execution.device)


def open_openvino(file: GraphFile, execution: Execution) -> Engine:
    from runtimes.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(file, execution)


def check_openvino(execution: Execution) -> None:
    from runtimes.engines.openvino import check

    check(execution)


def open_coreml(file: GraphFile, execution: Execution) -> Engine:
    from runtimes.engines.coreml import CoreMLEngine

    return CoreMLEngine(file.path, file.graph, execution.device.lower(), file.files)


def check_coreml(execution: Execution) -> None:
    from runtimes.engines.coreml import check_device

    no_such_options("Core ML", execution)
    no_threads("Core ML", execution)
    check_device(execution.device.lower())


@dataclass(frozen=True)
class Footprint:
    """What an engine takes of the CPU's memory, as measured at real size (docs/performance.md).

    `weights`: bytes per stored byte of a graph, by the precision it is stored in; `positions` and
    `pairs`: bytes per byte that the manifest counts to grow with the picture's positions, and with
    their square, which are attention's scores.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    positions: float = 1.0
    pairs: float = 1.0


def footprint_onnxruntime(execution: Execution) -> Footprint:
    from runtimes.engines.onnxruntime import FOOTPRINT

    return FOOTPRINT


def footprint_openvino(execution: Execution) -> Footprint:
    from runtimes.engines.openvino import footprint

    return footprint(execution)


@dataclass(frozen=True)
class EngineKind:
    """Which bundles an engine runs, how it opens a graph, and how it checks what is asked of it.

    `check` raises UsageError, before any graph is opened, for a device, precision or cache that
    the engine does not have. `chooses_precision`: it may compute in another type than the graph's.
    """

    backends: tuple[str, ...]
    open: Callable[[GraphFile, Execution], Engine]
    check: Callable[[Execution], None]
    chooses_precision: bool = False
    footprint: Callable[[Execution], Footprint] = lambda execution: Footprint()


# The first engine that lists a backend is that backend's default.
ENGINES = {
    "onnxruntime": EngineKind(
        ("onnx",), open_onnxruntime, check_onnxruntime, footprint=footprint_onnxruntime
    ),
    "openvino": EngineKind(
        ("openvino", "onnx"), open_openvino, check_openvino, True, footprint_openvino
    ),
    "coreml": EngineKind(("coreml",), open_coreml, check_coreml),
}


def engine_for(backend: str, name: str | None = None) -> EngineKind:
    """The engine `name`, or the backend's own; UsageError when it does not run such bundles."""
    if name is None:
        found = [kind for kind in ENGINES.values() if backend in kind.backends]
        if not found:
            raise UsageError(f"no engine of this version runs '{backend}' bundles")
        return found[0]
    if name not in ENGINES:
        raise UsageError(f"--engine {name}: there are {', '.join(ENGINES)}")
    if backend not in ENGINES[name].backends:
        runs = " and ".join(ENGINES[name].backends)
        raise UsageError(
            f"--engine {name} runs {runs} bundles and this bundle's backend is {backend}; export "
            f"one with --backend {ENGINES[name].backends[0]}, or leave --engine out"
        )
    return ENGINES[name]


def no_such_options(engine: str, execution: Execution) -> None:
    """UsageError for options that only OpenVINO has."""
    if execution.precision is not None:
        raise UsageError(
            f"--execution-precision is for OpenVINO: {engine} computes in the precision the bundle "
            "was exported in"
        )
    if execution.cache is not None:
        raise UsageError(f"--cache-dir is for OpenVINO: {engine} keeps no compiled graphs")


def no_threads(engine: str, execution: Execution) -> None:
    """UsageError for a number of threads, where an engine takes none."""
    if execution.threads is not None:
        raise UsageError(
            f"--threads is for ONNX Runtime and OpenVINO: {engine} takes as many as it likes"
        )
