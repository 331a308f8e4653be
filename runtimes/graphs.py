"""The graphs of a bundle while they run: opened when needed, kept or released."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from runtimes.bundle import Bundle
from runtimes.engine import Engine, engine_for
from runtimes.errors import RunError
from runtimes.manifest import Graph


class GraphSource(Protocol):
    """Where a pipeline gets its graphs from: a bundle here, PyTorch modules in the exporter."""

    def open(self, name: str) -> Engine: ...


class BundleGraphs:
    """The graphs of a bundle on one device; UsageError when the device is not there."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._bundle = bundle
        self._device = device
        self._engine = engine_for(bundle.manifest.backend)
        self._engine.check_device(device)

    def open(self, name: str) -> Engine:
        graph: Graph = self._bundle.graph(name)
        path: Path = self._bundle.path(graph.file)
        return self._engine.open(path, graph, self._device)


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
            text = str(error)
            raise RunError(text if name in text else f"{name}: {text}") from error
        finally:
            if self._one_at_a_time:
                engine.close()

    def close(self) -> None:
        for engine in self._open.values():
            engine.close()
        self._open.clear()
