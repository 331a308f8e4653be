"""Which weight's quantisation costs how much: one at a time, at every timestep of a denoiser.

Errors of single weights are nearly independent: their powers add. So a plan's error is predicted
by a sum, the plan is picked greedily by damage per byte, and then measured.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.onnx_int8 import quantize_int8
from quantization.onnx_weights import quantize_weights
from quantization.recipes import Int8, IntegerWeights
from quantization.weights import uses
from runtimes.engine import Tensors
from runtimes.errors import RunError

Noise = NDArray[np.float64]  # error power over signal power, per evaluated step
AnyRecipe = Int8 | IntegerWeights
ROUNDS = 12


@dataclass(frozen=True)
class Evaluation:
    """A denoiser's feeds at every timestep of some runs, and what fp32 makes of them."""

    feeds: Sequence[Tensors]
    expected: Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Damage:
    """One weight: its size in values, and the worst step's SQNR when it alone is quantised."""

    weight: str
    values: int
    worst_db: float
    noise: tuple[float, ...]


class Trial:
    """Quantises one denoiser in many ways, with one calibration."""

    def __init__(
        self, graph: Path, recipe: AnyRecipe, calibration: list[Tensors], evaluation: Evaluation
    ) -> None:
        self._graph, self.recipe = graph, recipe
        self._calibration, self._evaluation = calibration, evaluation
        model = onnx.load(graph, load_external_data=False)
        sizes = {value.name: math.prod(value.dims) for value in model.graph.initializer}
        found = [use.weight for use in uses(model) if not use.reason]
        self.values = {name: sizes[name] for name in dict.fromkeys(found)}
        self._folder = tempfile.TemporaryDirectory()

    def noise(self, *, keep: Sequence[str] = (), skip: Sequence[str] = ()) -> Noise:
        """Error power at every step when all but these weights are quantised."""
        root = Path(self._folder.name)
        recipe = dataclasses.replace(self.recipe, keep=tuple(keep), skip=tuple(skip))
        with tempfile.TemporaryDirectory(dir=root) as folder:
            target = Path(folder) / "graph" / "model.onnx"
            target.parent.mkdir()
            if isinstance(recipe, Int8):
                ranges = root / "ranges.json"
                quantize_int8(self._graph, target, recipe, self._calibration, ranges)
            else:
                quantize_weights(self._graph, target, recipe)
            return noise_of(target, self._evaluation)

    def close(self) -> None:
        self._folder.cleanup()


def evaluation_of(graph: Path, feeds: Sequence[Tensors]) -> Evaluation:
    """Run the fp32 graph on recorded feeds."""
    return Evaluation(feeds, [_run(graph)(sample) for sample in feeds])


def noise_of(graph: Path, evaluation: Evaluation) -> Noise:
    """Error power of a quantised graph over the power of the fp32 output, per step."""
    run = _run(graph)
    pairs = zip(evaluation.feeds, evaluation.expected, strict=True)
    return np.array([_power(run(feeds) - expected) / _power(expected) for feeds, expected in pairs])


def damages(trial: Trial, report: Callable[[str], None]) -> list[Damage]:
    """Every weight by itself, the most harmful first."""
    names, found = list(trial.values), []
    trial.noise()  # fills the calibration's cache for all weights
    for number, name in enumerate(names, 1):
        noise = trial.noise(skip=[other for other in names if other != name])
        found.append(Damage(name, trial.values[name], decibels(noise.max()), tuple(noise)))
        report(f"[{number}/{len(names)}] {name}: {found[-1].worst_db:.1f} dB")
    return sorted(found, key=lambda damage: damage.worst_db)


def pick(trial: Trial, found: Sequence[Damage], target_db: float) -> tuple[tuple[str, ...], Noise]:
    """The fewest weights to keep in int8 weights so that every step is above `target_db`.

    Returns them with the measured noise of that plan. Raises RunError when the target is out of
    reach even with all of them kept.
    """
    budget = 10 ** (-target_db / 10)
    floor = trial.noise(keep=list(trial.values))
    if floor.max() > budget:
        raise RunError(
            f"--target-db {target_db:g}: int8 weights alone reach {decibels(floor.max()):.1f} dB"
        )
    allowed = budget - floor
    for _ in range(ROUNDS):
        keep = _greedy(found, allowed)
        noise = trial.noise(keep=keep)
        if noise.max() <= budget or len(keep) == len(found):
            return keep, noise
        allowed = allowed * min(0.9, float(budget / noise.max()))
    return tuple(trial.values), floor


def _greedy(found: Sequence[Damage], allowed: Noise) -> tuple[str, ...]:
    """Keep the most harmful per value until the rest's predicted noise is allowed everywhere."""
    left = {damage.weight: np.array(damage.noise) for damage in found}
    values = {damage.weight: damage.values for damage in found}
    keep: list[str] = []
    total = sum(left.values(), np.zeros_like(allowed))
    while left and (total > allowed).any():
        step = int(np.argmax(total / allowed))
        worst = max(left, key=lambda name: left[name][step] / values[name])
        total = total - left.pop(worst)
        keep.append(worst)
    return tuple(keep)


def decibels(noise: float) -> float:
    """SQNR of an error power over signal power."""
    return -10 * math.log10(max(noise, 1e-20))


def _power(values: NDArray[np.float32]) -> float:
    return float(np.square(values.astype(np.float64)).sum())


def _run(graph: Path) -> Callable[[Tensors], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def run(feeds: Tensors) -> NDArray[np.float32]:
        return np.asarray(session.run(["epsilon"], feeds)[0])

    return run
