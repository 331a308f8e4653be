"""The oldest version of each engine that graphs of a kind were run on.

Measured by running the demo's golden run (every graph, every step, within runtimes/tolerances.py)
on the engine's wheels from PyPI. A version that is not here was not tried, or failed.
"""

from runtimes.bundle.manifest import Graph

# By a bundle's backend, then the graph's precision.
OLDEST: dict[str, dict[str, dict[str, str]]] = {"onnx": {}, "openvino": {}, "coreml": {}}


def oldest_engines(backend: str, graph: Graph) -> dict[str, str]:
    """Engine and version; {} where nothing was measured."""
    return OLDEST.get(backend, {}).get(graph.precision, {})
