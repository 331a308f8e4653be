"""From a target to a plan: what a denoiser loses by a recipe, and which weights to keep from it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from quantization.calibration import Samples, record, steps_of
from quantization.recipes import Int8, Int8Dynamic, IntegerWeights, Recipe
from quantization.sensitivity import (
    AnyRecipe,
    Damage,
    Point,
    Trial,
    damages,
    evaluation_of,
    floor_of,
    pick,
    plane,
    sqnr_db,
)
from runtimes.bundle.manifest import DENOISERS
from runtimes.bundle.read import Bundle
from runtimes.progress import SILENT, Progress

EVALUATION_SEED = 1 << 20  # far from any seed one calibrates with


@dataclass(frozen=True)
class Outcome:
    """A denoiser: the uniform recipe's worst step, each group's damage, and the picked plan.

    `recipe` is the one to use; `damages` is empty where the uniform one reaches the target.
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
) -> Samples:
    """Every step of a full run of each prompt: what plans are judged by. `others` as `record`."""
    samples = len(prompts) * max(steps_of(bundle, name) for name in DENOISERS)
    return record(bundle, prompts, samples, EVALUATION_SEED, progress, "runs to judge on", others)


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
    outcomes = {}
    for name in DENOISERS:
        recipe = plan.get(name)
        if not isinstance(recipe, Int8 | Int8Dynamic | IntegerWeights):
            continue
        graph = bundle.path(bundle.graph(name).file)
        feeds = calibration.feeds[name] if calibration else []
        trial = Trial(graph, recipe, feeds, evaluation_of(graph, judged.feeds[name]), group)
        try:
            outcomes[name] = _search(name, trial, target_db, progress, rank=rank, verbose=verbose)
        finally:
            trial.close()
    return outcomes


def _search(
    name: str,
    trial: Trial,
    target_db: float | None,
    progress: Progress,
    *,
    rank: bool,
    verbose: bool,
) -> Outcome:
    uniform = sqnr_db(trial.noise(keep=trial.recipe.keep, skip=trial.recipe.skip).max())
    progress.line(f"{name}, uniform {trial.recipe.name}: worst step {uniform:.1f} dB")
    if target_db is None or uniform >= target_db:
        if not rank:
            return Outcome(uniform, (), trial.recipe, uniform, ())
        ranked = damages(trial, progress, f"{name}, groups", verbose=verbose)
        points = _plane(name, trial, ranked, progress)
        return Outcome(uniform, ranked, trial.recipe, uniform, points)
    floor = floor_of(trial, target_db)
    ranked = damages(trial, progress, f"{name}, groups", verbose=verbose)
    points = _plane(name, trial, ranked, progress) if rank else []
    keep, noise = pick(trial, ranked, floor, target_db, progress, f"{name}, picking")
    worst = sqnr_db(noise.max())
    kept = sum(trial.values[weight] for weight in keep) / sum(trial.values.values())
    progress.line(
        f"{name}, picked: worst step {worst:.1f} dB with {len(keep)} of {len(trial.values)} "
        f"weights kept ({100 * kept:.0f} % of the values)"
    )
    return Outcome(uniform, ranked, dataclasses.replace(trial.recipe, keep=keep), worst, points)


def _plane(name: str, trial: Trial, ranked: Sequence[Damage], progress: Progress) -> list[Point]:
    others = _alternatives(trial.recipe)
    return plane(trial, ranked, others, progress=progress, what=f"{name}, comparing plans")


def _alternatives(recipe: AnyRecipe) -> dict[str, AnyRecipe]:
    """What else one could do to every weight alike."""
    if isinstance(recipe, IntegerWeights):
        sizes = [size for size in (16, 32, 64, 128) if size != recipe.group]
        return {f"groups of {size}": dataclasses.replace(recipe, group=size) for size in sizes}
    if isinstance(recipe, Int8):
        others = [alpha for alpha in (0.0, 0.5, 0.7) if alpha != recipe.smoothing]
        return {f"smoothing {a:g}": dataclasses.replace(recipe, smoothing=a) for a in others}
    return {}
