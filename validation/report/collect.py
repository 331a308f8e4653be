"""Bundles and a reference run to a report: judge every variant, then time them all."""

import datetime
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import DENOISERS, GOLDEN_FILE
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Execution, Placement, Tensors
from runtimes.engines.table import BundleGraphs, GraphSource
from runtimes.errors import RunError, UsageError
from runtimes.progress import Progress
from runtimes.recording import Recording
from validation.machine import machine
from validation.parity.gate import Gate, run_gate
from validation.quality.metric import Metric
from validation.quality.similarity import run_metrics
from validation.report.cost import measure_costs
from validation.report.data import (
    FORMAT,
    FORMAT_VERSION,
    STAGES,
    Cost,
    Environment,
    Reference,
    Report,
    Variant,
)
from validation.report.verdict import first_failure, limits_of, recommend

Image = NDArray[np.float32]  # (3,H,W) in 0..1
PACKAGES = (
    "wuerstchen-export", "onnxruntime", "onnxruntime-gpu", "openvino", "coremltools",
    "executorch", "ai-edge-litert", "numpy", "tokenizers", "torch", "diffusers", "transformers",
)  # fmt: skip
NO_TIME = "not timed: an interpreter stands in for Core ML here"


@dataclass(frozen=True)
class Entry:
    """A bundle in a comparison, its name there, and what its graphs run on while judged."""

    name: str
    bundle: Bundle
    graphs: GraphSource


@dataclass(frozen=True)
class Comparison:
    """The report, and the pictures: the reference's and one per variant, in order."""

    report: Report
    reference: Image
    pictures: tuple[Image, ...]


@dataclass
class _Judged:
    entry: Entry
    gate: Gate
    picture: Image
    close: tuple[Metric, ...]


def compare(
    entries: Sequence[Entry],
    recording: Recording,
    execution: Execution,
    repeats: int,
    progress: Progress,
    quality: Mapping[str, tuple[Metric, ...]] | None = None,
) -> Comparison:
    """Judge every variant on the recorded run, time them in turn, and say which one to ship.

    `quality` has further figures by variant name, beside how close this run is. Raises RunError
    naming the bundle when one cannot run or computes a NaN.
    """
    judged = [
        _judge(entry, recording, progress, f"judging {number} of {len(entries)}: {entry.name}")
        for number, entry in enumerate(entries, 1)
    ]
    costs = _costs(entries, recording, execution, repeats, progress)
    expected = recording.tensors["stage_a.image"][0].astype(np.float32)
    variants = tuple(
        _variant(
            each, expected, costs.get(each.entry.name), (quality or {}).get(each.entry.name, ())
        )
        for each in judged
    )
    report = Report(
        FORMAT,
        FORMAT_VERSION,
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        entries[0].bundle.manifest.model,
        _reference(recording, expected),
        environment(),
        repeats,
        recommend(variants),
        variants,
    )
    return Comparison(report, expected, tuple(each.picture for each in judged))


def _costs(
    entries: Sequence[Entry],
    recording: Recording,
    execution: Execution,
    repeats: int,
    progress: Progress,
) -> dict[str, Cost]:
    """By name; an interpreter's time would say nothing, so that its bundles have none."""
    timed = [entry for entry in entries if isinstance(entry.graphs, BundleGraphs)]
    bundles = [entry.bundle for entry in timed]
    costs = measure_costs(bundles, recording, execution, repeats, progress)
    return {entry.name: cost for entry, cost in zip(timed, costs, strict=True)}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors inside say which of several bundles they are about."""
    try:
        yield
    except (UsageError, RunError) as error:
        raise type(error)(f"{name}: {error}") from error


def environment() -> Environment:
    """What the figures were measured on and with."""
    packages = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(machine(), f"{platform.system()} {platform.release()}", packages)


def _judge(entry: Entry, recording: Recording, progress: Progress, what: str) -> _Judged:
    progress.line(what)
    image: list[Image] = []
    latents: Tensors = {}

    def keep(name: str, tensors: Tensors) -> None:
        if name == "stage_a":
            image.append(np.clip(tensors["image"].astype(np.float32), 0, 1))
        elif name.partition("/")[0] in DENOISERS:
            latents[name.partition("/")[0]] = tensors["latents"]

    with naming(entry.name):
        gate = run_gate(entry.bundle, entry.graphs, recording, keep, progress)
    close = run_metrics(image[0], latents, recording, "this run, 1 picture")
    return _Judged(entry, gate, image[0][0], tuple(close))


def _variant(
    judged: _Judged, expected: Image, cost: Cost | None, quality: tuple[Metric, ...]
) -> Variant:
    gate, manifest = judged.gate, judged.entry.bundle.manifest
    return Variant(
        name=judged.entry.name,
        folder=str(judged.entry.bundle.folder),
        backend=manifest.backend,
        precision=manifest.precision,
        passed=not gate.failures,
        failure=first_failure(gate),
        limits=limits_of(gate),
        bytes=_bytes(judged.entry.bundle),
        stored={name: graph.precision for name, graph in manifest.graphs.items()},
        placements=gate.placements,
        kernels=_kernels(judged.entry, gate.placements),
        graphs=gate.graphs,
        steps=gate.steps,
        trajectory=gate.trajectory,
        picture_db=gate.picture_db,
        picture_limit_db=gate.picture_limit_db,
        largest_difference=float(np.abs(judged.picture - expected).max()),
        cost=cost,
        cost_note="" if cost else NO_TIME,
        quality=(*judged.close, *quality),
    )


def _kernels(entry: Entry, placements: Mapping[str, Placement]) -> dict[str, dict[str, int]]:
    """What quantisation read from ONNX Runtime's optimised graphs; nothing for other engines."""
    return {
        name: record.kernels
        for name, record in entry.bundle.manifest.quantization.items()
        if record.kernels and name in placements and placements[name].engine.startswith("ONNX")
    }


def _bytes(bundle: Bundle) -> dict[str, int]:
    """Bytes per stage and of the rest; a shared text encoder counts once."""
    files = {n: file.size for n, file in bundle.manifest.files.items() if n != GOLDEN_FILE}
    sizes = {}
    for stage, names in STAGES.items():
        held = [name for name in names if name in bundle.manifest.graphs]
        sizes[stage] = sum(files[key] for key in {key for n in held for key in bundle.files_of(n)})
    return sizes | {"other": sum(files.values()) - sum(sizes.values())}


def _reference(recording: Recording, image: Image) -> Reference:
    seed = recording.options.seed
    assert isinstance(seed, int)
    height, width = image.shape[1:]
    steps, decoder_steps = (recording.steps(name) for name in DENOISERS)
    return Reference(
        recording.source,
        recording.prompt,
        recording.negative_prompt,
        seed,
        height,
        width,
        steps,
        decoder_steps,
    )
