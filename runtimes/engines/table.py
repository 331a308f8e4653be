"""The engines there are, and the graphs of a bundle while they run on one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Protocol

from runtimes.bundle.graph_files import engine_reads
from runtimes.bundle.manifest import EXACT_GRAPHS
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Engine, EngineKind, Execution, Footprint, GraphFile
from runtimes.errors import RunError, UsageError
from runtimes.memory import give_back

# The first engine that lists a backend is that backend's default.
ENGINES = {
    "onnxruntime": EngineKind("runtimes.engines.onnxruntime", ("onnx",), reads_ort=True),
    "openvino": EngineKind("runtimes.engines.openvino", ("openvino", "onnx"), True),
    "coreml": EngineKind("runtimes.engines.coreml", ("coreml",)),
    "executorch": EngineKind("runtimes.engines.executorch", ("executorch",)),
    "litert": EngineKind("runtimes.engines.litert", ("litert",)),
}


def engine_for(backend: str, name: str | None = None) -> EngineKind:
    """The engine `name`, or the backend's own; UsageError when it does not run such bundles."""
    if name is None:
        kinds = [kind for kind in ENGINES.values() if backend in kind.backends]
        if not kinds:
            raise UsageError(f"no engine of this version runs '{backend}' bundles")
        return kinds[0]
    if name not in ENGINES:
        raise UsageError(f"--engine {name}: there are {', '.join(ENGINES)}")
    if backend not in ENGINES[name].backends:
        runs = " and ".join(ENGINES[name].backends)
        raise UsageError(
            f"--engine {name} runs {runs} bundles and this bundle's backend is {backend}; export "
            f"one with --backend {ENGINES[name].backends[0]}, or leave --engine out"
        )
    return ENGINES[name]


class GraphSource(Protocol):
    """Where a pipeline gets its graphs from: a bundle here, PyTorch modules in the exporter."""

    def open(self, name: str) -> Engine:
        """The graph `name`, ready to run."""
        ...


class BundleGraphs:
    """The graphs of a bundle on one engine; UsageError when what is asked for is not there.

    Condition graphs run in f32 where the engine has a choice: their error would enter every step.
    """

    def __init__(self, bundle: Bundle, execution: Execution) -> None:
        self._bundle = bundle
        self._execution = execution
        self._engine = engine_for(bundle.manifest.backend, execution.engine)
        if not self._engine.reads_ort and any(g.is_ort for g in bundle.manifest.graphs.values()):
            raise UsageError(
                f"--engine {execution.engine} reads ONNX files, and the graphs of {bundle.folder} "
                "are in ONNX Runtime's own format (.ort); leave --engine out, or take the bundle "
                "that it was made of"
            )
        self._engine.check(execution)

    def footprint(self) -> Footprint:
        """What the engine takes of the CPU's memory."""
        return self._engine.footprint(self._execution)

    def open(self, name: str) -> Engine:
        """A graph, loaded; RunError where this bundle does not hold it or its files changed."""
        execution = self._execution
        if name in EXACT_GRAPHS and self._engine.chooses_precision:
            execution = replace(execution, precision="f32")
        # What is kept must have been made from the real files: a bundle that was damaged once would
        # stay so after it was mended, for the cache goes by the manifest's hashes.
        if execution.cache is not None:
            self._bundle.verify(name)
        return self._engine.open_graph(graph_file(self._bundle, name), execution)


def graph_file(bundle: Bundle, name: str) -> GraphFile:
    """What an engine needs to know of a bundle's graph."""
    graph = bundle.graph(name)
    folder = PurePosixPath(graph.file).parent
    keys = [key for key in bundle.files_of(name) if engine_reads(bundle.manifest, key)]
    names = tuple(str(PurePosixPath(key).relative_to(folder)) for key in keys)
    return GraphFile(bundle.path(graph.file), graph, bundle.digest(name), names)


class Sessions:
    """Opens each graph once and keeps it, or releases it after use (`one_at_a_time`)."""

    def __init__(self, source: GraphSource, *, one_at_a_time: bool) -> None:
        self._source = source
        self._one_at_a_time = one_at_a_time
        self._open: dict[str, Engine] = {}

    @contextmanager
    def using(self, name: str) -> Iterator[Engine]:
        """A graph, ready to run. Errors inside name the graph."""
        engine = self._open.get(name) or self._source.open(name)
        if not self._one_at_a_time:
            self._open[name] = engine
        try:
            yield engine
        except RunError as error:
            if name in str(error):  # the sampler's and the gate's errors name graph and step
                raise
            raise RunError(f"{name}: {error}") from error
        finally:
            if self._one_at_a_time:
                engine.close()
                give_back()  # or the next graph is loaded beside what the C library kept

    def close(self) -> None:
        """Release every graph that is open."""
        for engine in self._open.values():
            engine.close()
        self._open.clear()
