"""The engine seam: the only thing that differs between ONNX Runtime, OpenVINO, Core ML and others.

An engine is a module with three verbs: `open_graph(file, execution)`, `check(execution)` and
`footprint(execution)`. runtimes.engines.table lists the engines.
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import PRECISIONS, Graph
from runtimes.errors import RunError, UsageError

Tensors = dict[str, NDArray[np.generic]]
Feeds = Mapping[str, NDArray[np.generic]]

# Bytes in memory per stored byte where an engine was not measured: CPUs widen fp16.
UNMEASURED = {name: 2.0 if name.startswith("fp16") else 1.0 for name in PRECISIONS}


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

    `notes` say what else an engine did with it, such as '32 fused attention', or could not do.
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
        """All outputs by name, on the host; RunError where an input is missing or a run fails."""
        ...

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        """A `run` with some inputs fixed: they are moved to the device once and stay there."""
        ...

    def close(self) -> None:
        """Release the graph's memory."""
        ...


@dataclass(frozen=True)
class Footprint:
    """What an engine takes of the CPU's memory, as measured at real size (docs/performance.md).

    `weights`: bytes per stored byte of a graph, by the precision it is stored in; `positions` and
    `pairs`: bytes per byte that the manifest counts to grow with the picture's positions, and with
    their square, which are attention's scores. `whole`: of files that are read as a whole (ORT
    format), bytes per stored byte once they are loaded, and at most before.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: UNMEASURED)
    positions: float = 1.0
    pairs: float = 1.0
    whole: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def of_weights(self, precision: str) -> float:
        """Bytes per stored byte of weights; RunError for a precision that has no figure."""
        if precision not in self.weights:
            raise unknown_precision(precision)
        return self.weights[precision]

    def of_whole(self, precision: str) -> tuple[float, float]:
        """The same of a file that is read as a whole: once it is loaded, and at most before."""
        if precision not in self.whole:
            raise unknown_precision(precision)
        return self.whole[precision]


class EngineModule(Protocol):
    """The verbs of an engine's module."""

    def open_graph(self, file: GraphFile, execution: Execution) -> Engine: ...
    def check(self, execution: Execution) -> None: ...
    def footprint(self, execution: Execution) -> Footprint: ...


@dataclass(frozen=True)
class EngineKind:
    """Which bundles an engine runs, and its module, which is imported when it is first used.

    `chooses_precision`: it may compute in another type than the graph's. `reads_ort`: graphs of
    ONNX bundles in ORT format, too.
    """

    module: str
    backends: tuple[str, ...]
    chooses_precision: bool = False
    reads_ort: bool = False

    def open_graph(self, file: GraphFile, execution: Execution) -> Engine:
        """The graph, ready to run; RunError where the engine cannot load it."""
        return self._module().open_graph(file, execution)

    def check(self, execution: Execution) -> None:
        """UsageError, before any graph is opened, for what the engine does not have.

        A device, a precision, a cache, or the engine's package itself.
        """
        self._module().check(execution)

    def footprint(self, execution: Execution) -> Footprint:
        """What the engine takes of the CPU's memory."""
        return self._module().footprint(execution)

    def _module(self) -> EngineModule:
        # Not at the top of the table: a bundle needs one engine installed, not all of them.
        return cast(EngineModule, importlib.import_module(self.module))


def check_inputs(needed: Collection[str], *feeds: Feeds) -> None:
    """RunError naming the inputs of a graph that none of `feeds` has: bound ones and fed ones."""
    missing = set(needed).difference(*feeds)
    if missing:
        raise RunError(f"the graph needs inputs that were not given: {sorted(missing)}")


def unknown_precision(precision: str) -> RunError:
    """For a stored precision that an engine has no entry for: a guess would be wrong in silence."""
    return RunError(
        f"the bundle's graphs are stored in '{precision}', which this version does not know here; "
        "run it with the version that made it"
    )


def no_such_options(engine: str, execution: Execution) -> None:
    """UsageError for options that only OpenVINO has."""
    if execution.precision is not None:
        raise UsageError(
            f"--execution-precision is for OpenVINO: {engine} computes in the precision the bundle "
            "was exported in"
        )
    if execution.cache is not None:
        raise UsageError(f"--cache-dir is for OpenVINO: {engine} keeps no compiled graphs")


def only_cpu(engine: str, backend: str, execution: Execution) -> None:
    """UsageError for another device than the CPU, where an engine runs on that alone here."""
    device = execution.device.lower()
    if device != "cpu":
        raise UsageError(f"--device {device}: {engine} runs {backend} bundles on cpu here")


def no_threads(engine: str, execution: Execution) -> None:
    """UsageError for a number of threads, where an engine takes none."""
    if execution.threads is not None:
        raise UsageError(f"--threads is for engines on the CPU: {engine} takes as many as it likes")
