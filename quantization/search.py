"""From a target to a plan: what a denoiser loses by a recipe, and which weights to keep from it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantization import probe
from quantization.calibrated import Calibrated
from quantization.calibration import Samples, judging_options, large, record
from quantization.picking import Picked, checked, levelled, pick, with_rest
from quantization.recipes import Int8, Int8Dynamic, IntegerWeights, Recipe
from quantization.sensitivity import Damage, Point, damages, plane, point
from quantization.trial import AnyRecipe, Evaluation, Trial, noise_at, sqnr_db
from runtimes.bundle.manifest import DENOISERS
from runtimes.bundle.read import Bundle
from runtimes.plan import timesteps_for
from runtimes.progress import SILENT, Progress

EVALUATION_SEED = 1 << 20  # far from any seed one calibrates with
# What a search is expected to take beside its steps, to tell the time left: plans that are tried
# for a denoiser, and bytes of fp32 that are quantised in a second.
PLANS, RATE = 3, 200e6


@dataclass(frozen=True)
class Outcome:
    """A denoiser: the uniform recipe's worst step, each group's damage, and the picked plan.

    `recipe` is the one to use. `damages` and `plane` are what `rank` asked for; the plane has the
    picked plan, too. A uniform recipe that misses its target may be judged by a few steps only;
    `worst_db` is that of all.
    """

    uniform_db: float
    damages: Sequence[Damage]
    recipe: AnyRecipe
    worst_db: float
    plane: Sequence[Point]


def judged_runs(
    bundle: Bundle,
    prompts: Sequence[str],
    progress: Progress = SILENT,
    others: Collection[str] = (),
    *,
    full: bool = False,
) -> Samples:
    """Every step of a run of each prompt: what plans are judged by.

    `others` as `record`, `full` as `judging_options`.
    """
    options, sampling = judging_options(bundle, full=full), bundle.manifest.sampling
    steps = [len(timesteps_for(options, name, getattr(sampling, name))) - 1 for name in DENOISERS]
    what, samples = "runs to judge on", len(prompts) * max(steps)
    return record(bundle, prompts, samples, EVALUATION_SEED, progress, what, others, options)


def search(
    bundle: Bundle,
    plan: Mapping[str, Recipe],
    calibration: Samples | None,
    judged: Samples,
    progress: Progress = SILENT,
    *,
    target_db: float | None,
    group: str = "weight",
    rank: bool = False,
    verbose: bool = False,
) -> dict[str, Outcome]:
    """For each denoiser in `plan`: the recipe that reaches `target_db` with few exceptions.

    `rank` measures every group and the size/quality plane also where the uniform recipe does.
    A line on every group where `verbose`. Raises RunError when the target is out of reach.
    """
    searched = {
        name: recipe
        for name in DENOISERS
        if isinstance(recipe := plan.get(name), Int8 | Int8Dynamic | IntegerWeights)
    }
    trials = {name: _trial(bundle, name, recipe, calibration, judged, group)
              for name, recipe in searched.items()}  # fmt: skip
    effort = _Effort(progress, trials, judged.seconds)
    outcomes = {}
    for name, trial in trials.items():
        try:
            outcomes[name] = _search(name, trial, target_db, effort, rank=rank, verbose=verbose)
        finally:
            trial.close()
        effort.ends(name)
    return outcomes


def _trial(
    bundle: Bundle,
    name: str,
    recipe: AnyRecipe,
    calibration: Samples | None,
    judged: Samples,
    group: str,
) -> Trial:
    feeds, runs = judged.feeds[name], judged.about.prompts
    few = (0, len(feeds) // runs - 1) if large(bundle) else None
    evaluation = Evaluation(feeds, judged.epsilons[name], runs, few)
    calibrated = calibration.feeds[name] if calibration else Calibrated()
    return Trial(bundle.path(bundle.graph(name).file), recipe, calibrated, evaluation, group)


def _search(
    name: str,
    trial: Trial,
    target_db: float | None,
    effort: "_Effort",
    *,
    rank: bool,
    verbose: bool,
) -> Outcome:
    progress, recipe = effort.progress, trial.recipe
    budget = np.inf if target_db is None else noise_at(target_db)
    with trial.quantised(keep=recipe.keep, skip=recipe.skip) as graph:
        steps, noise = trial.evaluation.first, graph.noise(trial.evaluation.first)
        if noise.max() <= budget:
            steps, noise = trial.evaluation.all, with_rest(trial, graph, noise)
    effort.plan(name)
    uniform = sqnr_db(noise.max())
    progress.line(f"{name}, uniform {recipe.name}: worst step {uniform:.1f} dB")
    reached = bool(noise.max() <= budget)
    if reached and not rank:
        return Outcome(uniform, (), recipe, uniform, ())
    part = probe.cost(trial)
    predicted = probe.predict(trial, lambda: effort.step(name, part))
    ranked: Sequence[Damage] = ()
    if rank:
        ranked = damages(trial, progress, f"{name}, groups", verbose=verbose)
        predicted = _with_measured(trial, predicted, ranked)
    points = _plane(name, trial, predicted, progress) if rank else []
    if reached or target_db is None:
        return Outcome(uniform, ranked, recipe, uniform, points)
    predicted = levelled(trial, predicted, noise, steps)
    if not rank and not trial.large:
        predicted = checked(trial, predicted, target_db, lambda: effort.step(name))
        predicted = levelled(trial, predicted, noise, steps)
    picked = pick(trial, predicted, target_db, lambda: effort.plan(name))
    progress.line(_said(name, trial, picked))
    if rank:
        label = f"picked, {len(picked.keep)} kept, {len(picked.skip)} in fp32"
        points.append(point(trial, label, picked.keep, picked.skip))
    chosen = dataclasses.replace(recipe, keep=picked.keep, skip=picked.skip)
    return Outcome(uniform, ranked, chosen, sqnr_db(picked.noise.max()), points)


def _with_measured(
    trial: Trial, predicted: probe.Prediction, ranked: Sequence[Damage]
) -> probe.Prediction:
    """Measured damages instead of predicted ones; what exceptions do follows from their level."""
    noise = {damage.group: np.array(damage.noise) for damage in ranked}
    level = probe.total(noise) / probe.total(predicted.noise)
    return probe.Prediction(noise, probe.scaled(predicted.kept, level))


def _said(name: str, trial: Trial, picked: Picked) -> str:
    fp32 = f", {len(picked.skip)} in fp32" if picked.skip else ""
    share = trial.share((*picked.keep, *picked.skip))
    return (
        f"{name}, picked: worst step {sqnr_db(picked.noise.max()):.1f} dB with "
        f"{len(picked.keep)} of {len(trial.values)} weights kept{fp32} "
        f"({100 * share:.0f} % of the values)"
    )


class _Effort:
    """How far a search of several denoisers is, by what each step of theirs takes."""

    def __init__(
        self, progress: Progress, trials: Mapping[str, Trial], seconds: Mapping[str, float]
    ) -> None:
        self.progress, self._step = progress, seconds
        self._plan: dict[str, float] = {}
        self._ends: dict[str, float] = {}
        self._done = self._total = 0.0
        for name, trial in trials.items():
            judged = trial.evaluation
            writing = 4 * sum(trial.values.values()) / RATE
            self._plan[name] = writing + len(judged.first) * seconds[name]
            rest = (len(judged.all) - len(judged.first)) * seconds[name]
            probing = probe.runs(trial) * probe.cost(trial) * seconds[name]
            self._total += PLANS * self._plan[name] + rest + probing
            self._ends[name] = self._total

    def step(self, name: str, part: float = 1.0) -> None:
        """A step of a denoiser was run, on a part of the picture."""
        self._spend(name, part * self._step[name])

    def plan(self, name: str) -> None:
        """A plan was tried."""
        self._spend(name, self._plan[name])

    def ends(self, name: str) -> None:
        """The search for a denoiser is over, whatever it was expected to take."""
        self._done = self._ends[name]
        self._tell()

    def _spend(self, name: str, seconds: float) -> None:
        self._done = min(self._done + seconds, self._ends[name] - self._step[name])
        self._tell()

    def _tell(self) -> None:
        self.progress.step("searching, %", int(100 * self._done / self._total), 100)


def _plane(name: str, trial: Trial, predicted: probe.Prediction, progress: Progress) -> list[Point]:
    others = _alternatives(trial.recipe)
    return plane(trial, predicted, others, progress=progress, what=f"{name}, comparing plans")


def _alternatives(recipe: AnyRecipe) -> dict[str, AnyRecipe]:
    """What else one could do to every weight alike."""
    if isinstance(recipe, IntegerWeights):
        sizes = [size for size in (16, 32, 64, 128) if size != recipe.group]
        return {f"groups of {size}": dataclasses.replace(recipe, group=size) for size in sizes}
    if isinstance(recipe, Int8):
        others = [alpha for alpha in (0.0, 0.5, 0.7) if alpha != recipe.smoothing]
        return {f"smoothing {a:g}": dataclasses.replace(recipe, smoothing=a) for a in others}
    return {}
