"""The manifest as JSON, and what its values have to be beside their types."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

from runtimes.bundle.manifest import (
    FORMAT,
    MANIFEST_NAME,
    READABLE_VERSIONS,
    Denoiser,
    Graph,
    Manifest,
)
from runtimes.bundle.typed_json import decode
from runtimes.errors import RunError

Fault = tuple[str, str]  # where in the manifest, and what is wrong there


def to_json(manifest: Manifest) -> str:
    """The manifest as indented JSON text."""
    return json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n"


_MAKE = "make one with 'python -m exporter'"


def read_manifest(folder: Path) -> Manifest:
    """Parse `folder/bundle.json`; RunError names what is missing, unknown or mistyped."""
    path = folder / MANIFEST_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_NAME}"))
        advice = f"did you mean {folder / inside[0]}?" if inside else _MAKE
        raise RunError(f"{folder} is no bundle: it has no {MANIFEST_NAME}; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not valid JSON ({error}); export the bundle again") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise RunError(f"{path} is not a {FORMAT} manifest")
    version = value.get("format_version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        raise RunError(
            f"{path} has format version {version}, this program reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; export the bundle again with a matching "
            "version"
        )
    manifest = decode(Manifest, value, str(path))
    check_manifest(manifest, str(path))
    return manifest


def _no_number(name: str) -> float:
    """Python's JSON reads NaN and Infinity, which JSON does not have and no field means."""
    raise ValueError(f"{name} is no number")


def check_manifest(manifest: Manifest, where: str) -> None:
    """RunError naming the first value that cannot be meant."""
    for place, fault in _faults(manifest):
        raise RunError(f"{where}.{place}: {fault}")


def _faults(manifest: Manifest) -> Iterator[Fault]:
    for name, graph in manifest.graphs.items():
        yield from _graph(graph, f"graphs.{name}")
    for name, tokenizer in manifest.tokenizers.items():
        if tokenizer.max_length < 2:  # its start and its end
            yield f"tokenizers.{name}.max_length", _least(tokenizer.max_length, 2)
    for key, file in manifest.files.items():
        if file.size < 0:
            yield f"files.{key}.size", _least(file.size, 0)
    for index, size in enumerate(manifest.sizes):
        if min(size) < 1:
            yield f"sizes[{index}]", _least(min(size), 1)
    yield from _sampling(manifest)
    if manifest.format_version > 1:
        yield from _host(manifest)


def _graph(graph: Graph, where: str) -> Iterator[Fault]:
    if len(graph.activations) not in (0, 3):
        count = len(graph.activations)
        yield f"{where}.activations", f"expected 3 values or none, found {count}"
    elif any(value < 0 for value in graph.activations):
        yield f"{where}.activations", _least(min(graph.activations), 0)
    for kind, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if not tensors:
            yield f"{where}.{kind}", "a graph has one at least"
        for index, tensor in enumerate(tensors):
            if not tensor.shape:
                yield f"{where}.{kind}[{index}].shape", "it has no batch axis"
            for side in tensor.shape:
                if isinstance(side, int) and side < 1:
                    yield f"{where}.{kind}[{index}].shape", _least(side, 1)


def _sampling(manifest: Manifest) -> Iterator[Fault]:
    sampling = manifest.sampling
    for name in ("resolution_multiple", "latent_dim_scale"):
        if not getattr(sampling, name) > 0:
            yield f"sampling.{name}", "it must be above 0"
    for name in ("stage_b_multiple", "stage_a_scale", "height", "width"):
        if getattr(sampling, name) < 1:
            yield f"sampling.{name}", _least(getattr(sampling, name), 1)
    for name, denoiser in (("stage_c", sampling.stage_c), ("stage_b", sampling.stage_b)):
        yield from _denoiser(denoiser, f"sampling.{name}")


def _denoiser(denoiser: Denoiser, where: str) -> Iterator[Fault]:
    steps = len(denoiser.timesteps) - 1
    if denoiser.channels < 1:
        yield f"{where}.channels", _least(denoiser.channels, 1)
    if denoiser.timestep_padding < 0:
        yield f"{where}.timestep_padding", _least(denoiser.timestep_padding, 0)
    if steps < 1:
        yield f"{where}.timesteps", f"expected 2 values at least, found {steps + 1}"
    for name, rows in (("schedule", denoiser.schedule), ("embeddings", denoiser.embeddings)):
        if len(rows) != steps:
            yield f"{where}.{name}", f"expected {steps} rows, one a step, found {len(rows)}"
    width = 2 * len(denoiser.timestep_frequencies) + denoiser.timestep_padding
    for index, row in enumerate(denoiser.embeddings):
        if len(row) != width:
            yield f"{where}.embeddings[{index}]", f"expected {width} values, found {len(row)}"
    values = [v for row in denoiser.schedule for v in (row.t, row.a, row.b, row.c)]
    if not all(map(math.isfinite, [denoiser.s, denoiser.scaler, denoiser.guidance, *values])):
        yield where, "it holds a number that is not finite"


def _host(manifest: Manifest) -> Iterator[Fault]:
    """What format version 2 says in addition must be there, and speak of this bundle."""
    for name, graph in manifest.graphs.items():
        if not graph.compute:
            yield f"graphs.{name}.compute", f"{_MISSING} {manifest.format_version}"
        for data in graph.data:
            if data.file not in manifest.files:
                yield f"graphs.{name}.data", f"'{data.file}' is none of the bundle's files"
    for name, tokenizer in manifest.tokenizers.items():
        if tokenizer.rules is None:
            yield f"tokenizers.{name}.rules", f"{_MISSING} {manifest.format_version}"
    if manifest.host is None:
        yield "host", f"{_MISSING} {manifest.format_version}"
        return
    for call in manifest.host.run:
        if call.graph not in manifest.graphs:
            yield "host.run", f"there is no graph '{call.graph}'"
    if not manifest.host.sizes:
        yield "host.sizes", "expected the default size at least"


_MISSING = "it is missing, in a manifest of format version"


def _least(value: float, least: int) -> str:
    return f"{value} is below {least}"
