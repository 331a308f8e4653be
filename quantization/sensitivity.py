"""Which weights' quantisation costs how much: a group at a time, at every timestep of a denoiser.

Errors of single groups are nearly independent: their powers add. So a plan's error is predicted
by a sum, the plan is picked greedily by damage per value, and then measured.
"""

import dataclasses
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from quantization.onnx_int8 import quantize_int8, quantize_int8_dynamic
from quantization.onnx_weights import quantize_weights
from quantization.recipes import Int8, Int8Dynamic, IntegerWeights
from quantization.roles import uses
from runtimes.decibels import decibels
from runtimes.engines.base import Tensors
from runtimes.errors import RunError
from runtimes.progress import SILENT, Progress

Noise = NDArray[np.float64]  # error power over signal power, per evaluated step
AnyRecipe = Int8 | Int8Dynamic | IntegerWeights
ROUNDS = 12
# What `--group` takes: how a weight's name becomes the name of what is quantised together.
GROUPS: dict[str, Callable[[str], str]] = {
    "weight": lambda name: name,
    "block": lambda name: match[0] if (match := re.match(r"\w+\.\d+", name)) else name,
}


@dataclass(frozen=True)
class Evaluation:
    """A denoiser's feeds at every timestep of some runs, and what fp32 makes of them."""

    feeds: Sequence[Tensors]
    expected: Sequence[NDArray[np.float32]]


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
    graph's files, worst step.
    """

    label: str
    kept: float
    bytes: int
    worst_db: float


class Trial:
    """Quantises one denoiser in many ways, with one calibration."""

    def __init__(
        self,
        graph: Path,
        recipe: AnyRecipe,
        calibration: list[Tensors],
        evaluation: Evaluation,
        group: str = "weight",
    ) -> None:
        self._graph, self.recipe = graph, recipe
        self._calibration, self._evaluation = calibration, evaluation
        model = onnx_ir.load(graph)
        weights = [use.weight for use in uses(model) if not use.reason]
        tensors = {name: model.graph.initializers[name].const_value for name in weights}
        self.values = {name: tensor.size for name, tensor in tensors.items() if tensor is not None}
        self.groups: dict[str, list[str]] = {}
        for name in self.values:
            self.groups.setdefault(GROUPS[group](name), []).append(name)
        self._folder = tempfile.TemporaryDirectory()

    def noise(self, *, keep: Sequence[str] = (), skip: Sequence[str] = ()) -> Noise:
        """Error power at every step when all but these weights are quantised."""
        return self.measure(keep=keep, skip=skip)[0]

    def measure(
        self, *, keep: Sequence[str] = (), skip: Sequence[str] = (), recipe: AnyRecipe | None = None
    ) -> tuple[Noise, int]:
        """`noise`, and the bytes of the quantised graph's files."""
        root = Path(self._folder.name)
        recipe = dataclasses.replace(recipe or self.recipe, keep=tuple(keep), skip=tuple(skip))
        with tempfile.TemporaryDirectory(dir=root) as folder:
            target = Path(folder) / "graph" / "model.onnx"
            target.parent.mkdir()
            if isinstance(recipe, Int8):
                quantize_int8(self._graph, target, recipe, self._calibration, cache=root)
            elif isinstance(recipe, Int8Dynamic):
                quantize_int8_dynamic(self._graph, target, recipe)
            else:
                quantize_weights(self._graph, target, recipe)
            size = sum(path.stat().st_size for path in target.parent.iterdir())
            return noise_of(target, self._evaluation), size

    def close(self) -> None:
        self._folder.cleanup()


def evaluation_of(graph: Path, feeds: Sequence[Tensors]) -> Evaluation:
    """Run the fp32 graph on recorded feeds."""
    run = _run(graph)
    return Evaluation(feeds, [run(sample) for sample in feeds])


def noise_of(graph: Path, evaluation: Evaluation) -> Noise:
    """Error power of a quantised graph over the power of the fp32 output, per step."""
    run = _run(graph)
    pairs = zip(evaluation.feeds, evaluation.expected, strict=True)
    return np.array([_power(run(feeds) - expected) / _power(expected) for feeds, expected in pairs])


def damages(
    trial: Trial, progress: Progress = SILENT, what: str = "groups", *, verbose: bool = False
) -> list[Damage]:
    """Every group by itself, the most harmful first; a line on each where `verbose`."""
    names, ranking = list(trial.values), []
    for number, (group, members) in enumerate(trial.groups.items(), 1):
        noise = trial.noise(skip=[name for name in names if name not in members])
        values = sum(trial.values[name] for name in members)
        worst = sqnr_db(noise.max())
        ranking.append(Damage(group, tuple(members), values, worst, tuple(noise)))
        if verbose:
            progress.line(f"{group}: {worst:.1f} dB")
        progress.step(what, number, len(trial.groups))
    return sorted(ranking, key=lambda damage: damage.worst_db)


def floor_of(trial: Trial, target_db: float) -> Noise:
    """The noise with every weight kept; RunError when `target_db` is out of reach even so."""
    floor = trial.noise(keep=list(trial.values))
    if floor.max() > _noise_at(target_db):
        raise RunError(
            f"--target-db {target_db:g}: every weight as an exception reaches "
            f"{sqnr_db(floor.max()):.1f} dB"
        )
    return floor


def pick(
    trial: Trial,
    ranked: Sequence[Damage],
    floor: Noise,
    target_db: float,
    progress: Progress = SILENT,
    what: str = "picking",
) -> tuple[tuple[str, ...], Noise]:
    """The fewest weights to make exceptions of so that every step is above `target_db`.

    Returns them with the measured noise of that plan. `floor` comes from `floor_of`.
    """
    budget = _noise_at(target_db)
    allowed = budget - floor
    for number in range(1, ROUNDS + 1):
        keep = _greedy(ranked, allowed)
        noise = trial.noise(keep=keep)
        if noise.max() <= budget or len(keep) == len(trial.values):
            return keep, noise
        progress.step(what, number, ROUNDS)
        # Errors add up a little otherwise than predicted: aim lower by as much as was missed.
        allowed = allowed * min(0.9, float(budget / noise.max()))
    return tuple(trial.values), floor


def plane(
    trial: Trial,
    ranked: Sequence[Damage],
    alternatives: Mapping[str, AnyRecipe],
    steps: int = 6,
    progress: Progress = SILENT,
    what: str = "comparing plans",
) -> list[Point]:
    """Plans of growing size beside uniform ones: what keeping weights buys, and what else would.

    The plans are prefixes of the greedy order; `alternatives` are recipes for every weight alike.
    """
    order = _greedy(ranked, np.zeros(len(ranked[0].noise)))
    total, points = sum(trial.values.values()), []
    for step in range(steps + 1):
        keep = order[: round(len(order) * (step / steps) ** 2)]  # finer where little is kept
        noise, size = trial.measure(keep=keep)
        kept = sum(trial.values[name] for name in keep) / total
        label = f"plan, {len(keep)} kept" if keep else "uniform"
        points.append(Point(label, kept, size, sqnr_db(noise.max())))
        progress.step(what, len(points), steps + 1 + len(alternatives))
    for label, recipe in alternatives.items():
        noise, size = trial.measure(recipe=recipe)
        points.append(Point(label, 0.0, size, sqnr_db(noise.max())))
        progress.step(what, len(points), steps + 1 + len(alternatives))
    return points


def _greedy(ranked: Sequence[Damage], allowed: Noise) -> tuple[str, ...]:
    """Keep the most harmful per value until the rest's predicted noise is allowed everywhere."""
    left = {damage.group: np.array(damage.noise) for damage in ranked}
    groups = {damage.group: damage for damage in ranked}
    keep: list[str] = []
    total = sum(left.values(), np.zeros_like(allowed))
    while left and (total > allowed).any():
        # At the step that is furthest over, whichever group does most harm for its size.
        step = int(np.argmax(total / np.maximum(allowed, 1e-20)))
        worst = max(left, key=lambda name: left[name][step] / groups[name].values)
        total = total - left.pop(worst)
        keep += groups[worst].weights
    return tuple(keep)


def sqnr_db(noise: float) -> float:
    """SQNR in dB of an error power over signal power."""
    return decibels(math.sqrt(noise))


def _noise_at(target_db: float) -> float:
    """The error power over signal power that has an SQNR: the reverse of `sqnr_db`."""
    return 10 ** (-target_db / 10)


def _power(values: NDArray[np.float32]) -> float:
    return float(np.square(values.astype(np.float64)).sum())


def _run(graph: Path) -> Callable[[Tensors], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def run(feeds: Tensors) -> NDArray[np.float32]:
        return np.asarray(session.run(["epsilon"], feeds)[0])

    return run
