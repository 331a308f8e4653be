"""What a bundle's graphs run on while they are judged."""

import sys
from collections.abc import Callable
from pathlib import Path

from runtimes.bundle.manifest import Graph
from runtimes.bundle.read import Bundle
from runtimes.console import require
from runtimes.engines.base import Engine, Execution, no_such_options, no_threads
from runtimes.engines.table import BundleGraphs, GraphSource
from runtimes.errors import UsageError


def graphs_for(bundle: Bundle, execution: Execution) -> GraphSource:
    """The bundle's graphs on the engine asked for; UsageError when it is not there.

    Core ML predicts on macOS only: elsewhere, and when no engine is named, an interpreter runs
    the program of each package. Its placement says so.
    """
    interpreted = bundle.manifest.backend == "coreml" and sys.platform != "darwin"
    if interpreted and execution.engine is None:
        no_such_options("the interpreter of Core ML programs", execution)
        no_threads("it", execution)
        if execution.device != "cpu":
            raise UsageError(f"--device {execution.device}: Core ML runs on macOS only")
        return InterpretedGraphs(bundle)
    return BundleGraphs(bundle, execution)


class InterpretedGraphs:
    """The programs of a Core ML bundle in the MIL interpreter."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._open = _interpreter()

    def open(self, name: str) -> Engine:
        graph = self._bundle.graph(name)
        return self._open(self._bundle.path(graph.file), graph)


def _interpreter() -> Callable[[Path, Graph], Engine]:
    note = ", which the interpreter of Core ML programs needs"
    require(("torch", "coremltools"), "export,coreml", note=note)
    from validation.mil.engine import MilEngine

    return MilEngine
