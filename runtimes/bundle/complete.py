"""What a manifest says to hosts, from the bundle's own files and the runtimes' own constants.

Whoever seals a bundle completes its manifest: exports, and quantising a bundle of any version.
"""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from runtimes.bundle.graph_files import engine_reads, graph_files
from runtimes.bundle.host import GUIDANCE, NOISE, PICTURE, SCHEDULE, Host, Session, Sizes, Tolerance
from runtimes.bundle.manifest import (
    EXACT_GRAPHS,
    FORMAT_VERSION,
    STORED,
    TOKENS_FILE,
    Data,
    Graph,
    Manifest,
    Sampling,
)
from runtimes.bundle.oldest_engines import oldest_engines
from runtimes.bundle.onnx_header import read_header
from runtimes.bundle.ort_format import read_ort_header
from runtimes.bundle.tokenizer_rules import read_rules
from runtimes.bundle.wiring import run_order
from runtimes.errors import RunError
from runtimes.sizes import sizes
from runtimes.tolerances import loosest

# Sessions as the adapters in runtimes/engines open them on a CPU.
_ONNX_RUNTIME = Session(memory_pattern=False, config={}, config_f32={})
_OPENVINO = Session(
    memory_pattern=None,
    config={"PERFORMANCE_HINT": "LATENCY"},
    # Integer weights: without the second, activations of matrix products are rounded to int8.
    config_f32={"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"},
)
_SESSIONS = {
    "onnx": {"onnxruntime": _ONNX_RUNTIME, "openvino": _OPENVINO},
    "openvino": {"openvino": _OPENVINO},
    "coreml": {},
    "executorch": {},
    "litert": {},
}


def completed(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest of a bundle whose files it lists, in the newest format version.

    RunError for a graph that names weights which are no file of the bundle.
    """
    tokenizers = {
        name: replace(spec, rules=read_rules(folder / spec.folder / "tokenizer.json", spec))
        for name, spec in manifest.tokenizers.items()
    }
    return replace(
        manifest,
        format_version=FORMAT_VERSION,
        graphs={name: _graph(folder, manifest, name) for name in manifest.graphs},
        tokenizers=tokenizers,
        host=_host(manifest),
    )


def _graph(folder: Path, manifest: Manifest, name: str) -> Graph:
    graph = manifest.graphs[name]
    graph = replace(graph, compute="f32" if name in EXACT_GRAPHS else "any")
    done = manifest.quantization.get(name)
    if manifest.backend != "onnx":
        files = (file for file in graph_files(manifest, name) if engine_reads(manifest, file))
        data = tuple(_beside(graph.file, file) for file in files if file != graph.file)
        engines = oldest_engines(manifest.backend, graph, None, done)
        return replace(graph, data=data, opsets={}, ir_version=None, engines=engines)
    read = read_ort_header if graph.is_ort else read_header
    header = read(folder / graph.file)
    data = tuple(_located(manifest, name, location) for location in header.locations)
    engines = oldest_engines(manifest.backend, graph, header.opsets.get("ai.onnx"), done)
    return replace(
        graph, data=data, opsets=header.opsets, ir_version=header.ir_version, engines=engines
    )


def _located(manifest: Manifest, name: str, location: str) -> Data:
    """The file that an ONNX graph calls `location`."""
    file = (PurePosixPath(manifest.graphs[name].file).parent / location).as_posix()
    if file not in manifest.files:
        raise RunError(f"{name} names its weights '{location}', which is no file of the bundle")
    return Data(file, location)


def _beside(graph: str, file: str) -> Data:
    return Data(file, PurePosixPath(file).relative_to(PurePosixPath(graph).parent).as_posix())


def _host(manifest: Manifest) -> Host:
    return Host(
        run=run_order(manifest),
        tokens=TOKENS_FILE if TOKENS_FILE in manifest.files else "",
        noise=NOISE,
        schedule=SCHEDULE,
        guidance=GUIDANCE,
        picture=PICTURE,
        sizes=_sizes(manifest.sampling, manifest.sizes),
        tolerances={name: _tolerances(name, graph) for name, graph in manifest.graphs.items()},
        sessions=_SESSIONS.get(manifest.backend, {}),
    )


def _sizes(sampling: Sampling, fixed: tuple[tuple[int, int], ...]) -> tuple[Sizes, ...]:
    pictures = ((sampling.height, sampling.width), *fixed)
    return tuple(dict.fromkeys(sizes(*picture, sampling) for picture in pictures))


def _tolerances(name: str, graph: Graph) -> tuple[Tolerance, ...]:
    """A graph is held to the less exact of what it is stored in and what it is computed in."""

    def held(compute: str, like: str) -> Tolerance:
        limits = loosest({graph.precision, like})
        return Tolerance(compute, limits.graph_error, limits.latent_db, limits.picture_db)

    kinds = ("f32",) if name in EXACT_GRAPHS else STORED
    return tuple(held(compute, STORED[compute]) for compute in kinds)
