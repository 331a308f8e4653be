"""A benchmark from its cases to its findings: per graph, whole pictures, remarks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from exporter.checkpoint.open import Checkpoint
from exporter.cost import count
from exporter.graphs import plan_graphs
from exporter.sampling import sampling
from runtimes.bundle.manifest import CONDITION_GRAPHS, DENOISERS
from runtimes.bundle.read import Bundle
from runtimes.bundle.write import check_space
from runtimes.errors import RunError, one_line
from runtimes.memory import peak_bytes
from runtimes.recording import Recording
from validation.bench.cases import Case, bundle_cases
from validation.bench.contenders import Source, available, contenders, graphs_of, own_graphs
from validation.bench.devices import DEVICES
from validation.bench.end_to_end import Picture, pictures
from validation.bench.measure import Timing, measure
from validation.bench.outside import outside_seconds
from validation.bench.peak import matrix_peaks
from validation.bench.public_cases import SIDE, public_cases
from validation.bench.settings import Settings


@dataclass
class Findings:
    """Timings per graph and of whole pictures, peak FLOP/s by precision, and remarks in words."""

    timings: list[Timing] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def bench_bundle(
    bundles: Sequence[Bundle],
    checkpoint: Checkpoint,
    recording: Recording,
    settings: Settings,
    folder: Path,
) -> Findings:
    """Time the first bundle's graphs, and the other bundles' beside them; then whole pictures.

    Pictures are left out where only some graphs are asked for.
    """
    cases = bundle_cases(bundles[0], checkpoint, settings.graphs, recording, folder)
    findings = bench_cases(cases, [own_graphs(), *map(graphs_of, bundles[1:])], settings)
    whole = [bundle for bundle in bundles if _is_whole(bundle)]
    if set(settings.graphs) >= bundles[0].manifest.graphs.keys() and bundles[0] in whole:
        settings.report("timing whole pictures")
        backends = {bundle.manifest.backend for bundle in whole}
        device = DEVICES[settings.device]
        executions = available(device, backends, settings.without, lambda line: None)
        findings.pictures = pictures(whole, checkpoint, executions, recording, settings)
    return findings


def bench_public(
    checkpoint: Checkpoint, bundles: Sequence[Bundle], settings: Settings, folder: Path
) -> Findings:
    """Time graphs of the public architecture with random weights, one graph in memory at a time.

    UsageError when the graphs do not fit into the folder's disk.
    """
    _check_disk(checkpoint, settings, folder)
    form = DEVICES[settings.device].form
    cases = public_cases(checkpoint, settings.graphs, folder, settings.report, form)
    findings = bench_cases(cases, [own_graphs(), *map(graphs_of, bundles)], settings)
    findings.remarks.append(f"peak memory of the process: {peak_bytes() / 1e9:.1f} GB")
    findings.remarks += _outside(checkpoint, findings.timings, folder)
    return findings


def bench_cases(cases: Iterable[Case], sources: Sequence[Source], settings: Settings) -> Findings:
    """Time every case in PyTorch and from the files of `sources`, one case after the other.

    RunError where memory or disk give out.
    """
    present = contenders(sources, settings)
    device = DEVICES[settings.device].name
    before, findings = matrix_peaks(device), Findings()
    try:
        for case in cases:
            settings.report(f"timing {case.name}")
            if case.name in DENOISERS:
                findings.remarks.append(f"{case.name}: {case.conditioning}")
            findings.timings += measure(case, present, settings)
            del case  # the next one is made before the loop lets go of this one
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise RunError(f"cannot go on: {one_line(error)}") from error
    # A machine may be slow for a while; the better of two moments is nearer to its peak.
    findings.peaks = {name: max(rate, before[name]) for name, rate in matrix_peaks(device).items()}
    return findings


def _check_disk(checkpoint: Checkpoint, settings: Settings, folder: Path) -> None:
    """Of a graph at a time: ours and, where they are timed, the plain exports for two engines."""
    plain = settings.device == "cpu" and "plain" not in settings.without
    largest = max(
        count(plan.shapes)
        for plan in plan_graphs(checkpoint, "nchw", text=True)
        if plan.name in settings.graphs
    )
    advice = "set TMPDIR to a larger place" + (", or give --without plain" if plain else "")
    check_space(folder / "graphs", 4 * largest * (3 if plain else 1), advice)


def _is_whole(bundle: Bundle) -> bool:
    needed = {name for name in bundle.manifest.text_graphs.values() if name is not None}
    return needed | {*CONDITION_GRAPHS, *DENOISERS, "stage_a"} <= bundle.manifest.graphs.keys()


def _outside(checkpoint: Checkpoint, timings: Sequence[Timing], folder: Path) -> list[str]:
    """NumPy and Python's share of a picture at these sizes, against the fastest denoisers."""
    if not {timing.graph for timing in timings} >= set(DENOISERS):
        return []
    constants, inside, terms = sampling(checkpoint, SIDE, SIDE), 0.0, []
    for name in DENOISERS:
        steps = len(getattr(constants, name).schedule)
        step = min(timing.seconds.median for timing in timings if timing.graph == name)
        inside += steps * step
        terms.append(f"{steps} x {step:.2f} s")
    outside = outside_seconds(checkpoint, SIDE, folder)
    return [
        f"NumPy and Python outside the engines: {outside:.2f} s a picture of {SIDE} x {SIDE} "
        f"pixels, {outside / (outside + inside):.1%} of it with the fastest denoisers here "
        f"({' + '.join(terms)})"
    ]
