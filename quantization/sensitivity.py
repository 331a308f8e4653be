"""Which weights' quantisation costs how much: a group at a time, at every timestep of a denoiser.

What `probe` predicts is measured here: what one reads, and what it is held against.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantization.picking import order
from quantization.probe import Prediction
from quantization.trial import AnyRecipe, Trial, sqnr_db
from runtimes.progress import SILENT, Progress


@dataclass(frozen=True)
class Damage:
    """A group of weights: their values, and the worst step's SQNR when they alone are quantised."""

    group: str
    weights: tuple[str, ...]
    values: int
    worst_db: float
    noise: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """A plan in the size/quality plane: share of the values kept from the precision, bytes of the
    graph's files, worst step, how many times as fast as fp32 a step is (medians of the judged
    steps), share of the values in fp32.
    """

    label: str
    kept: float
    bytes: int
    worst_db: float
    speed: float
    skipped: float = 0.0


def damages(
    trial: Trial, progress: Progress = SILENT, what: str = "groups", *, verbose: bool = False
) -> list[Damage]:
    """Every group by itself, the most harmful first; a line on each where `verbose`."""
    ranking = []
    for number, (group, members) in enumerate(trial.groups.items(), 1):
        with trial.alone(group) as graph:
            noise = graph.noise()
        worst = sqnr_db(noise.max())
        ranking.append(Damage(group, tuple(members), trial.sizes[group], worst, tuple(noise)))
        if verbose:
            progress.line(f"{group}: {worst:.1f} dB")
        progress.step(what, number, len(trial.groups))
    return sorted(ranking, key=lambda damage: damage.worst_db)


def plane(
    trial: Trial,
    predicted: Prediction,
    alternatives: Mapping[str, AnyRecipe],
    steps: int = 6,
    progress: Progress = SILENT,
    what: str = "comparing plans",
) -> list[Point]:
    """Plans of growing size beside uniform ones: what keeping weights buys, and what else would.

    The plans are prefixes of the greedy order; `alternatives` are recipes for every weight alike.
    """
    climbing, points = order(trial, predicted), []
    for step in range(steps + 1):
        groups = climbing[
            : round(len(climbing) * (step / steps) ** 2)
        ]  # finer where little is kept
        keep = [name for group in groups for name in trial.groups[group]]
        label = f"plan, {len(keep)} kept" if keep else "uniform"
        points.append(point(trial, label, keep))
        progress.step(what, len(points), steps + 1 + len(alternatives))
    for label, recipe in alternatives.items():
        points.append(point(trial, label, recipe=recipe))
        progress.step(what, len(points), steps + 1 + len(alternatives))
    return points


def point(
    trial: Trial,
    label: str,
    keep: Sequence[str] = (),
    skip: Sequence[str] = (),
    recipe: AnyRecipe | None = None,
) -> Point:
    """A plan's place in the plane, measured."""
    with trial.quantised(keep=keep, skip=skip, recipe=recipe) as graph:
        worst = sqnr_db(graph.noise().max())
        return Point(label, trial.share(keep), graph.bytes, worst, graph.speed(), trial.share(skip))
