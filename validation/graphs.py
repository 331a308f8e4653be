"""What a bundle's graphs run on while they are judged."""

from runtimes.bundle import Bundle
from runtimes.engine import Execution
from runtimes.graphs import BundleGraphs, GraphSource


def graphs_for(bundle: Bundle, execution: Execution) -> GraphSource:
    """The bundle's graphs on the engine asked for; UsageError when it is not there."""
    return BundleGraphs(bundle, execution)
