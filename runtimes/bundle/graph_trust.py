"""A graph is read as a stranger's before an engine or a quantiser sees it.

An engine maps the bytes that a graph asks for and runs the operators that it names. So every
weight has to lie whole in the files which the manifest lists for the graph, and every operator has
to be one that computes, and nothing else. What this does not say: that the numbers are right.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from runtimes.bundle.coreml_trust import coreml_faults
from runtimes.bundle.executorch_trust import executorch_faults
from runtimes.bundle.graph_files import engine_reads, graph_files
from runtimes.bundle.litert_trust import litert_faults
from runtimes.bundle.manifest import ORT_SUFFIX, Manifest
from runtimes.bundle.onnx_trust import onnx_faults
from runtimes.bundle.openvino_trust import openvino_faults
from runtimes.bundle.ort_trust import ort_faults
from runtimes.errors import RunError

# By a bundle's backend, and 'ort' for an ONNX bundle's graphs in that format: what is wrong with a
# graph, given the sizes of the files that it may read by their paths from its folder (Core ML: from
# its package).
UNREADABLE = (
    LookupError, ValueError, TypeError, AttributeError, OSError, RecursionError, struct.error,
)  # fmt: skip
FAULTS: dict[str, Callable[[Path, Mapping[str, int]], Iterator[str]]] = {
    "onnx": onnx_faults,
    "ort": ort_faults,
    "openvino": openvino_faults,
    "coreml": coreml_faults,
    "executorch": executorch_faults,
    "litert": litert_faults,
}


def check_graph(folder: Path, manifest: Manifest, name: str) -> None:
    """RunError for a graph that asks for anything but weights of its own and known operators."""
    graph = manifest.graphs[name]
    path = folder / graph.file
    home = PurePosixPath(graph.file)
    if manifest.backend != "coreml":
        home = home.parent
    files = graph_files(manifest, name)
    sizes = {
        PurePosixPath(key).relative_to(home).as_posix(): file.size
        for key, file in files.items()
        if key != graph.file
        and PurePosixPath(key).is_relative_to(home)
        and engine_reads(manifest, key)  # and is hashed, therefore
    }
    try:
        for fault in FAULTS["ort" if graph.file.endswith(ORT_SUFFIX) else manifest.backend](
            path, sizes
        ):
            raise RunError(f"{path}: {fault}; do not run it")
        for data in graph.data:
            place = PurePosixPath(graph.file).parent / data.location
            if place.as_posix() != data.file or data.file not in files:
                raise RunError(f"{path}: {data.file} is no file of it; export the bundle again")
    except UNREADABLE:
        raise RunError(
            f"{path} cannot be read as a graph ({manifest.backend}); export the bundle again"
        ) from None
