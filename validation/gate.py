"""The parity gate: each graph on the recorded inputs, then the free-running trajectory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runtimes.bundle import Bundle
from runtimes.engine import Engine, Tensors
from runtimes.graphs import BundleGraphs, Sessions
from runtimes.noise import RecordedNoise
from runtimes.options import timesteps_for
from runtimes.pipeline import Pipeline, load_tokenizers
from runtimes.schedule import schedule, timestep_embedding
from validation.metrics import Difference, difference, psnr_db
from validation.recording import Recording
from validation.tolerances import Limits, limits_for


@dataclass(frozen=True)
class Check:
    """One measured value against its limit."""

    what: str
    max_abs: float
    relative: float
    sqnr_db: float
    limit: str
    passed: bool


@dataclass(frozen=True)
class Gate:
    """All checks of one bundle: per graph, per graph and step, per step of the trajectory."""

    source: str
    graphs: tuple[Check, ...]
    steps: tuple[Check, ...]
    trajectory: tuple[Check, ...]
    picture_db: float
    picture_limit_db: float

    @property
    def failures(self) -> list[str]:
        """What failed, in running order: the first entry is where the run diverges."""
        checks = (*self.graphs, *self.steps, *self.trajectory)
        found = [f"{check.what} ({check.limit})" for check in checks if not check.passed]
        if self.picture_db < self.picture_limit_db:
            found.append(f"picture (PSNR >= {self.picture_limit_db:g} dB)")
        return found


def run_gate(bundle: Bundle, device: str, recording: Recording) -> Gate:
    """Measure a bundle against a recording.

    Each graph is held to the limits of its own precision (condition graphs are fp32 in every
    bundle), the trajectory and the picture to those of the bundle's.
    """
    limits = limits_for(bundle.manifest.precision)
    sessions = Sessions(BundleGraphs(bundle, device), one_at_a_time=True)
    graphs, steps = [], []
    for name in bundle.manifest.graphs:
        own = limits_for(bundle.manifest.graphs[name].precision)
        with sessions.using(name) as engine:
            if name in ("stage_c", "stage_b"):
                found = list(_denoiser_steps(engine, bundle, name, recording, own))
                steps += found
                graphs.append(_worst(name, found))
            else:
                graphs.append(_graph(engine, bundle, name, recording, own))
    trajectory, picture = _trajectory(bundle, device, recording, limits)
    return Gate(
        recording.source,
        tuple(graphs),
        tuple(steps),
        tuple(trajectory),
        picture,
        limits.picture_db,
    )


def _graph(
    engine: Engine, bundle: Bundle, name: str, recording: Recording, limits: Limits
) -> Check:
    spec = bundle.manifest.graphs[name]
    outputs = engine.run(_recorded(recording, name, [t.name for t in spec.inputs]))
    expected = _recorded(recording, name, [t.name for t in spec.outputs])
    differences = [difference(outputs[key], values) for key, values in expected.items()]
    return _graph_check(name, max(differences, key=lambda d: d.relative), limits)


def _denoiser_steps(
    engine: Engine, bundle: Bundle, name: str, recording: Recording, limits: Limits
) -> Iterator[Check]:
    """Each step by itself: the recorded latents in, the recorded epsilon expected."""
    spec, denoiser = bundle.manifest.graphs[name], getattr(bundle.manifest.sampling, name)
    names = [t.name for t in spec.inputs if t.name not in ("latents", "timestep_embedding")]
    run = engine.bind(_recorded(recording, f"{name}_condition", names))
    timesteps = timesteps_for(recording.options, name, denoiser)
    before = "start"
    for index, row in enumerate(schedule(timesteps, denoiser.s, denoiser.scaler)):
        expected = recording.tensors[f"{name}/{index}.epsilon"]
        latents = recording.tensors[f"{name}/{before}.latents"]
        doubled = np.concatenate([latents] * (len(expected) // len(latents)))
        embedding = np.repeat(timestep_embedding(row.t, denoiser), len(doubled), axis=0)
        found = run({"latents": doubled, "timestep_embedding": embedding})["epsilon"]
        what = f"{name}, step {index + 1} (t = {row.t:.4f})"
        yield _graph_check(what, difference(found, expected), limits)
        before = str(index)


def _trajectory(
    bundle: Bundle, device: str, recording: Recording, limits: Limits
) -> tuple[list[Check], float]:
    """The whole pipeline on the recorded noise, its own outputs feeding every next step."""
    checks = []

    def compare(name: str, tensors: Tensors) -> None:
        graph, _, index = name.partition("/")
        if index.isdigit():
            found = difference(tensors["latents"], recording.tensors[f"{name}.latents"])
            what = f"{graph} latents after step {int(index) + 1}"
            limit = f"SQNR >= {limits.latent_db:g} dB"
            passed = found.sqnr_db >= limits.latent_db
            checks.append(Check(what, found.max_abs, found.relative, found.sqnr_db, limit, passed))

    graphs = BundleGraphs(bundle, device)
    with Pipeline(bundle.manifest, graphs, load_tokenizers(bundle), low_memory=True) as pipeline:
        result = pipeline(
            [recording.prompt],
            recording.negative_prompt,
            recording.options,
            noise=RecordedNoise(recording.noise()),
            on_tensors=compare,
        )
    return checks, psnr_db(result.image, recording.tensors["stage_a.image"])


def _recorded(recording: Recording, graph: str, names: list[str]) -> Tensors:
    return {name: recording.tensors[f"{graph}.{name}"] for name in names}


def _graph_check(what: str, found: Difference, limits: Limits) -> Check:
    limit = f"relative error <= {limits.graph_error:.1e}"
    passed = found.relative <= limits.graph_error
    return Check(what, found.max_abs, found.relative, found.sqnr_db, limit, passed)


def _worst(name: str, checks: list[Check]) -> Check:
    worst = max(checks, key=lambda check: check.relative)
    return Check(name, worst.max_abs, worst.relative, worst.sqnr_db, worst.limit, worst.passed)
