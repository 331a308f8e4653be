"""Graphs that ask for more than their weights and known operators, in a bundle that says so."""

import importlib
import random
from collections.abc import Generator
from pathlib import PurePosixPath

from runtimes.bundle.graph_files import engine_reads, graph_files
from runtimes.bundle.manifest import Manifest
from runtimes.bundle.read import open_bundle
from validation.trust.attempt import Attempt, Copy, refused
from validation.trust.hostile import Hostile


def format_of(manifest: Manifest) -> str:
    """The format of a bundle's graphs: its backend, but for ONNX graphs in ORT format."""
    return "ort" if any(graph.is_ort for graph in manifest.graphs.values()) else manifest.backend


def hostile(backend: str) -> tuple[Hostile, ...]:
    """The ways to spoil a graph of a format."""
    found: tuple[Hostile, ...] = importlib.import_module(
        f"validation.trust.hostile_{backend}"
    ).HOSTILE
    return found


def spoiled(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """One graph is spoiled, and the manifest names its files as they are then."""
    graphs = list(copy.manifest.graphs)
    for index, case in enumerate(hostile(format_of(copy.manifest))):
        if index >= tries:
            return
        name = chance.choice(graphs)
        graph = copy.manifest.graphs[name]
        files = list(graph_files(copy.manifest, name))
        with copy.kept(*({graph.file} if copy.manifest.backend == "coreml" else files)):
            try:
                case.spoil(copy.folder / graph.file, weights_of(copy.manifest, name))
            except LookupError:  # this graph has no such part
                continue
            copy.seal_files(*files)
            yield refused(f"{name} with {case.what}", lambda: open_bundle(copy.folder), graph.file)


def weights_of(manifest: Manifest, name: str) -> str:
    """The file of a graph's weights as a path from its folder (Core ML: from its package)."""
    graph = PurePosixPath(manifest.graphs[name].file)
    home = graph if manifest.backend == "coreml" else graph.parent
    others = [
        PurePosixPath(key).relative_to(home).as_posix()
        for key in graph_files(manifest, name)
        if key != graph.as_posix() and engine_reads(manifest, key)
    ]
    return max(others, key=lambda key: key.endswith((".data", ".bin")), default="model.onnx.data")
