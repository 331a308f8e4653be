"""Real activations: the feeds of both denoisers over full runs of many prompts.

Samples are spread evenly over the timesteps of each denoiser and over the prompts; Stage C's hold
the conditional and the unconditional half, which run in one batch under guidance.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantization.calibrated import Calibrated
from runtimes.bundle.manifest import DENOISERS, Calibration, Model
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Engine, Execution, Feeds, Tensors
from runtimes.engines.table import BundleGraphs, engine_for
from runtimes.errors import UsageError
from runtimes.memory import give_back
from runtimes.pipeline import Pipeline, load_tokenizers
from runtimes.plan import Options, timesteps_for
from runtimes.progress import SILENT, Progress
from runtimes.prompts import read_prompts

LARGE = 2_000_000_000  # bytes of a bundle whose graphs are held one at a time
RUNS = 3  # full runs that a plan is judged by
# A large bundle's plans are judged by one run with fewer steps: its first and its last, which is
# the worst, are those of a full run, the rest is spread between them.
JUDGED = {"stage_c": 10, "stage_b": 6}
DEFAULTS = Options()
# Shipped lists: the demo knows coloured shapes only, other checkpoints are made for everything.
PROMPTS_FILE, DEMO_PROMPTS_FILE = (
    Path(__file__).parent / name for name in ("prompts.txt", "prompts_demo.txt")
)


@dataclass(frozen=True)
class Samples:
    """Feeds of each denoiser and of what else was asked for, and what they were drawn from.

    `epsilons` is what the denoisers made of theirs, `seconds` the median time of a step.
    """

    feeds: dict[str, Calibrated]
    epsilons: dict[str, list[NDArray[np.float32]]]
    seconds: dict[str, float]
    about: Calibration


def default_prompts(model: Model) -> list[str]:
    """The list for a bundle's model."""
    path = DEMO_PROMPTS_FILE if model.is_demo else PROMPTS_FILE
    return read_prompts(path, "the shipped list", distinct=True)


def record(
    bundle: Bundle,
    prompts: Sequence[str],
    samples: int,
    seed: int,
    progress: Progress = SILENT,
    what: str = "recording",
    others: Collection[str] = (),
    options: Options = DEFAULTS,
) -> Samples:
    """Run the bundle's own pipeline and keep `samples` steps of each denoiser.

    `options` are those of every run, but for the seed. Of a large bundle, which takes minutes a
    picture, no more prompts are run than have that many steps; of any other one all are, for
    variety. Of each graph in `others`, which run once, all feeds are kept.
    """
    sampling = bundle.manifest.sampling
    steps = {name: len(timesteps_for(options, name, getattr(sampling, name))) - 1
             for name in DENOISERS}  # fmt: skip
    _check(samples, max(steps.values()))
    if large(bundle):
        prompts = prompts[: math.ceil(samples / max(steps.values()))]
    keep = {name: _spread(samples, steps[name], len(prompts)) for name in DENOISERS}
    graphs = _Recorder(bundle, others)
    with Pipeline(
        bundle.manifest, graphs, load_tokenizers(bundle), low_memory=large(bundle)
    ) as pipeline:
        chosen = [index for index in range(len(prompts)) if any(index in k for k in keep.values())]
        for number, index in enumerate(chosen):
            graphs.wanted = {name: own.get(index, set()) for name, own in keep.items()}
            on_step = progress.runs(what, number, len(chosen))
            seeded = dataclasses.replace(options, seed=seed + index)
            pipeline([prompts[index]], "", seeded, on_step=on_step)
    give_back(sum(file.size for file in bundle.manifest.files.values()))
    seconds = {name: float(np.median(taken)) for name, taken in graphs.seconds.items()}
    about = _about(prompts, samples, seed, graphs.feeds)
    feeds = {
        name: Calibrated(own, partial(progress.step, f"{name}, ranges"))
        for name, own in graphs.feeds.items()
    }
    return Samples(feeds, graphs.epsilons, seconds, about)


def check_samples(bundle: Bundle, samples: int) -> None:
    """UsageError for fewer samples than a denoiser has timesteps."""
    _check(samples, max(steps_of(bundle, name) for name in DENOISERS))


def _check(samples: int, least: int) -> None:
    if samples < least:
        raise UsageError(f"--samples {samples} misses some timesteps; give at least {least}")


def held_out(prompts: Sequence[str], runs: int = RUNS) -> tuple[Sequence[str], Sequence[str]]:
    """Prompts to calibrate on, and the last `runs` of them, which plans are judged by instead.

    UsageError when none would be left to calibrate on.
    """
    if not 1 <= runs < len(prompts):
        raise UsageError(
            f"a target is judged by {runs} runs on prompts that are not calibrated on: the list of "
            f"prompts (--calibration) has {len(prompts)}; give {runs + 1} or more, or --target-db 0"
        )
    return prompts[:-runs], prompts[-runs:]


def large(bundle: Bundle) -> bool:
    """Whether a bundle's graphs are held one at a time, and as few steps are run as will do."""
    return sum(file.size for file in bundle.manifest.files.values()) > LARGE


def judging_runs(bundle: Bundle, *, full: bool = False) -> int:
    """How many runs plans for a bundle are judged by; `full` as `judging_options`."""
    return RUNS if full or not large(bundle) else 1


def judging_options(bundle: Bundle, *, full: bool = False) -> Options:
    """The runs that plans for a bundle are judged by: where `full`, those of a picture."""
    if full or not large(bundle):
        return DEFAULTS
    sampling = bundle.manifest.sampling
    stage_c, stage_b = (
        _thinned(getattr(sampling, name).timesteps, JUDGED[name]) for name in DENOISERS
    )
    return Options(timesteps=stage_c, decoder_timesteps=stage_b)


def _thinned(timesteps: Sequence[float], steps: int) -> tuple[float, ...]:
    """So many steps of a schedule, its first and its last among them."""
    places = np.linspace(0, len(timesteps) - 2, min(steps, len(timesteps) - 1)).round()
    return (*(timesteps[int(place)] for place in places), timesteps[-1])


def steps_of(bundle: Bundle, name: str) -> int:
    """How often a denoiser runs in a picture by the bundle's schedule."""
    return len(getattr(bundle.manifest.sampling, name).schedule)


def _spread(samples: int, steps: int, prompts: int) -> dict[int, set[int]]:
    """Which steps of which prompts: every timestep as often as any other, give or take one."""
    chosen: dict[int, set[int]] = {}
    for number in range(min(samples, steps * prompts)):
        step, round_ = number % steps, number // steps
        # Later rounds and later steps start at another prompt, so that no prompt is left out.
        prompt = (step + round_ * max(1, prompts * steps // samples)) % prompts
        while step in chosen.get(prompt, set()):
            prompt = (prompt + 1) % prompts
        chosen.setdefault(prompt, set()).add(step)
    return chosen


def _about(
    prompts: Sequence[str], samples: int, seed: int, feeds: dict[str, list[Tensors]]
) -> Calibration:
    digest = hashlib.sha256()
    for name in DENOISERS:
        for sample in feeds[name]:
            for tensor in sorted(sample):
                digest.update(np.ascontiguousarray(sample[tensor]).data)
    kept = max(len(feeds[name]) for name in DENOISERS)  # fewer where the prompts have no more steps
    return Calibration(len(prompts), min(samples, kept), seed, digest.hexdigest())


class _Recorder:
    """A bundle's graphs; the denoisers keep the feeds and results of the wanted steps, others the
    feeds of all of theirs.
    """

    def __init__(self, bundle: Bundle, others: Collection[str]) -> None:
        # In fp32 where the engine has a choice: another type's rounding is no part of the model.
        chooses = engine_for(bundle.manifest.backend).chooses_precision
        self._graphs = BundleGraphs(bundle, Execution(precision="f32" if chooses else None))
        self.feeds: dict[str, list[Tensors]] = {name: [] for name in (*DENOISERS, *others)}
        self.epsilons: dict[str, list[NDArray[np.float32]]] = {name: [] for name in DENOISERS}
        self.seconds: dict[str, list[float]] = {}
        self.wanted: dict[str, set[int]] = {}

    def open(self, name: str) -> Engine:
        engine = self._graphs.open(name)
        return _Recording(engine, self, name) if name in self.feeds else engine

    def keep(
        self,
        name: str,
        step: int,
        fixed: Tensors,
        feeds: Feeds,
        results: Tensors,
        seconds: float,
    ) -> None:
        self.seconds.setdefault(name, []).append(seconds)
        if name in self.wanted and step not in self.wanted[name]:
            return
        # Copies: an engine may write its next results into the arrays it gave.
        varying = {key: np.array(value) for key, value in feeds.items()}
        self.feeds[name].append({**fixed, **varying})
        if name in self.epsilons:
            self.epsilons[name].append(np.array(results["epsilon"]))


class _Recording:
    """An engine that shows its feeds to the recorder, numbered from each `bind` on."""

    def __init__(self, engine: Engine, recorder: _Recorder, name: str) -> None:
        self._engine, self._recorder, self._name = engine, recorder, name
        self.load_seconds, self.placement = engine.load_seconds, engine.placement

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        recorder, name = self._recorder, self._name
        bound, steps = self._engine.bind(constants), iter(range(1 << 30))
        fixed = {key: np.array(value) for key, value in constants.items()}  # one for all steps

        def run(feeds: Feeds) -> Tensors:
            start = time.perf_counter()
            results = bound(feeds)
            seconds = time.perf_counter() - start
            recorder.keep(name, next(steps), fixed, feeds, results, seconds)
            return results

        return run

    def close(self) -> None:
        self._engine.close()
