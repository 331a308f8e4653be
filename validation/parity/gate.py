"""The parity gate: each graph on the recorded inputs, then the free-running trajectory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from runtimes.bundle.manifest import DENOISERS, STORED
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Engine, Placement, Tensors
from runtimes.engines.table import GraphSource, Sessions
from runtimes.noise import RecordedNoise
from runtimes.pipeline import OnTensors, Pipeline, load_tokenizers
from runtimes.plan import timesteps_for
from runtimes.progress import SILENT, Progress
from runtimes.recording import RECONSTRUCTION, Recording
from runtimes.schedule import schedule, timestep_embedding
from runtimes.similarity import psnr_db
from runtimes.start import Start
from runtimes.tolerances import Limits, loosest
from validation.parity.metrics import Difference, difference


@dataclass(frozen=True)
class Check:
    """One measured value against its limit: `limit_db` is the least SQNR that passes.

    `step` of the graph counts from 1; None for a graph that runs once.
    """

    what: str
    graph: str
    step: int | None
    max_abs: float
    relative: float
    sqnr_db: float
    limit: str
    limit_db: float
    passed: bool


@dataclass(frozen=True)
class Gate:
    """All checks of one bundle: per graph, per graph and step, per step of the trajectory.

    `placements` says where and in which precision each graph really ran. `reconstruction_db` is of
    the picture compressed and decoded again, held to the picture's limit; None where the bundle
    has no compressor, or the recording no such run.
    """

    source: str
    placements: dict[str, Placement]
    graphs: tuple[Check, ...]
    steps: tuple[Check, ...]
    trajectory: tuple[Check, ...]
    picture_db: float
    picture_limit_db: float
    reconstruction_db: float | None = None

    @property
    def failures(self) -> list[str]:
        """What failed, in running order: the first entry is where the run diverges."""
        checks = (*self.graphs, *self.steps, *self.trajectory)
        failed = [f"{check.what} ({check.limit})" for check in checks if not check.passed]
        if self.picture_db < self.picture_limit_db:
            failed.append(f"picture (PSNR >= {self.picture_limit_db:g} dB)")
        if self.reconstruction_db is not None and self.reconstruction_db < self.picture_limit_db:
            failed.append(f"reconstruction (PSNR >= {self.picture_limit_db:g} dB)")
        return failed


def run_gate(
    bundle: Bundle,
    graphs: GraphSource,
    recording: Recording,
    on_tensors: OnTensors = lambda name, tensors: None,
    progress: Progress = SILENT,
) -> Gate:
    """Measure a bundle's graphs, opened by `graphs`, against a recording.

    Each graph is held to the limits of its stored or its compute precision, whichever is less
    exact; the trajectory and the picture to those of the least exact graph. `on_tensors` sees
    the trajectory's tensors, as the pipeline names them.
    """
    sessions = Sessions(graphs, one_at_a_time=True)
    checks: list[Check] = []
    steps: list[Check] = []
    placements: dict[str, Placement] = {}
    for name in bundle.manifest.graphs:
        results, placements[name] = _run_graph(sessions, bundle, name, recording, progress)
        limits = loosest(_precisions(bundle, name, placements[name]))
        measured = [_graph_check(name, *result, limits) for result in results]
        if name in DENOISERS:
            steps += measured
        # A denoiser counts once among the graphs, by its worst step.
        checks.append(replace(max(measured, key=lambda check: check.relative), what=name))
    limits = loosest(
        {p for name in placements for p in _precisions(bundle, name, placements[name])}
    )
    trajectory, picture = _trajectory(bundle, graphs, recording, limits, on_tensors, progress)
    return Gate(
        recording.source,
        placements,
        tuple(checks),
        tuple(steps),
        tuple(trajectory),
        picture,
        limits.picture_db,
        _reconstruction(bundle, graphs, recording, progress),
    )


# A step of a denoiser (None for other graphs), what it is called, and how far off it is.
Result = tuple[int | None, str, Difference]


def _run_graph(
    sessions: Sessions, bundle: Bundle, name: str, recording: Recording, progress: Progress
) -> tuple[list[Result], Placement]:
    """A graph's results on the recorded inputs, and what it ran on."""
    results = []
    with sessions.using(name) as engine:
        for number, result in enumerate(graph_results(engine, bundle, name, recording), 1):
            results.append(result)
            if name in DENOISERS:
                progress.step(f"{name}, step by step", number, recording.steps(name))
        # Asked for last: some engines know where nodes ran only after a run.
        return results, engine.placement


def _precisions(bundle: Bundle, name: str, placement: Placement) -> tuple[str, str]:
    """What a graph's weights are stored in, and the stored precision that it computes like."""
    stored = bundle.manifest.graphs[name].precision
    return stored, STORED.get(placement.precision, stored)


def graph_results(
    engine: Engine, bundle: Bundle, name: str, recording: Recording
) -> Iterator[Result]:
    """A graph on the recorded inputs of each step, or of its one run, against what was recorded."""
    if name in DENOISERS:
        yield from _denoiser_steps(engine, bundle, name, recording)
    else:
        yield None, name, _graph(engine, bundle, name, recording)


def _graph(engine: Engine, bundle: Bundle, name: str, recording: Recording) -> Difference:
    spec = bundle.manifest.graphs[name]
    outputs = engine.run(_recorded(recording, name, [t.name for t in spec.inputs]))
    expected = _recorded(recording, name, [t.name for t in spec.outputs])
    differences = [difference(outputs[key], values) for key, values in expected.items()]
    return max(differences, key=lambda d: d.relative)


def _denoiser_steps(
    engine: Engine, bundle: Bundle, name: str, recording: Recording
) -> Iterator[Result]:
    """Each step by itself: the recorded latents in, the recorded epsilon expected."""
    spec, denoiser = bundle.manifest.graphs[name], getattr(bundle.manifest.sampling, name)
    names = [t.name for t in spec.inputs if t.name not in ("latents", "timestep_embedding")]
    run = engine.bind(_recorded(recording, f"{name}_condition", names))
    timesteps = timesteps_for(recording.options, name, denoiser)
    before = "start"
    for index, row in enumerate(schedule(timesteps, denoiser.s, denoiser.scaler)):
        expected = recording.tensors[f"{name}/{index}.epsilon"]
        latents = recording.tensors[f"{name}/{before}.latents"]
        # Under guidance epsilon has two rows a picture, conditional first, of the same latents.
        doubled = np.concatenate([latents] * (len(expected) // len(latents)))
        embedding = np.repeat(timestep_embedding(row.t, denoiser), len(doubled), axis=0)
        epsilon = run({"latents": doubled, "timestep_embedding": embedding})["epsilon"]
        what = f"{name}, step {index + 1} (t = {row.t:.4f})"
        yield index + 1, what, difference(epsilon, expected)
        before = str(index)


def _trajectory(
    bundle: Bundle,
    graphs: GraphSource,
    recording: Recording,
    limits: Limits,
    on_tensors: OnTensors,
    progress: Progress,
) -> tuple[list[Check], float]:
    """The whole pipeline on the recorded noise, its outputs feeding every next step.

    Returns a check for the latents after each step, and the picture's PSNR in dB.
    """
    checks: list[Check] = []

    def compare(name: str, tensors: Tensors) -> None:
        on_tensors(name, tensors)
        if name.partition("/")[2].isdigit():  # after a step, not 'start' nor a graph's own tensors
            checks.append(_latents_check(name, tensors, recording, limits))

    with Pipeline(bundle.manifest, graphs, load_tokenizers(bundle), low_memory=True) as pipeline:
        result = pipeline(
            [recording.prompt],
            recording.negative_prompt,
            recording.options,
            noise=RecordedNoise(recording.noise()),
            on_step=progress.runs("whole run", 0, 1),
            on_tensors=compare,
        )
    return checks, psnr_db(result.image, recording.tensors["stage_a.image"], peak=1)


def _reconstruction(
    bundle: Bundle, graphs: GraphSource, recording: Recording, progress: Progress
) -> float | None:
    """PSNR in dB of the recorded picture compressed and decoded again, both on the same noise."""
    name = f"{RECONSTRUCTION}.image"
    if "compressor" not in bundle.manifest.graphs or name not in recording.tensors:
        return None
    picture = recording.tensors["stage_a.image"].astype(np.float32, copy=False)
    with Pipeline(bundle.manifest, graphs, load_tokenizers(bundle), low_memory=True) as pipeline:
        result = pipeline(
            [recording.prompt],
            recording.negative_prompt,
            recording.options,
            start=Start(picture, strength=0),
            on_step=progress.runs("reconstruction", 0, 1),
        )
    return psnr_db(result.image, recording.tensors[name], peak=1)


def _latents_check(name: str, tensors: Tensors, recording: Recording, limits: Limits) -> Check:
    """The latents after a step, called '<denoiser>/<step>' from 0, against the recorded ones."""
    graph, _, index = name.partition("/")
    off = difference(tensors["latents"], recording.tensors[f"{name}.latents"])
    return Check(
        what=f"{graph} latents after step {int(index) + 1}",
        graph=graph,
        step=int(index) + 1,
        max_abs=off.max_abs,
        relative=off.relative,
        sqnr_db=off.sqnr_db,
        limit=f"SQNR >= {limits.latent_db:g} dB",
        limit_db=limits.latent_db,
        passed=off.sqnr_db >= limits.latent_db,
    )


def _recorded(recording: Recording, graph: str, names: list[str]) -> Tensors:
    return {name: recording.tensors[f"{graph}.{name}"] for name in names}


def _graph_check(graph: str, step: int | None, what: str, off: Difference, limits: Limits) -> Check:
    """Judged by the relative error itself: as decibels, rounding could decide at the limit."""
    return Check(
        what=what,
        graph=graph,
        step=step,
        max_abs=off.max_abs,
        relative=off.relative,
        sqnr_db=off.sqnr_db,
        limit=f"relative error <= {limits.graph_error:.1e}",
        limit_db=limits.graph_db,
        passed=off.relative <= limits.graph_error,
    )
