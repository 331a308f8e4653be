"""A denoiser quantised in many ways, and what each does to epsilon at every judged step."""

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from quantization.calibrated import Calibrated, calibrated
from quantization.channels_last import channels_last
from quantization.integers import Rounded
from quantization.onnx_files import load, save
from quantization.onnx_int8 import prepared_int8, quantize_int8, quantize_int8_dynamic
from quantization.onnx_weights import quantize_weights
from quantization.recipes import Int8, Int8Dynamic, IntegerWeights
from quantization.roles import uses
from runtimes.decibels import decibels
from runtimes.engines.base import Tensors
from runtimes.memory import give_back

Noise = NDArray[np.float64]  # error power over signal power, per judged step
AnyRecipe = Int8 | Int8Dynamic | IntegerWeights
Run = Callable[[Tensors], NDArray[np.float32]]
TIMED = 9  # steps of a denoiser whose median time counts

# What `--group` takes: how a weight's name becomes the name of what is quantised together.
GROUPS: dict[str, Callable[[str], str]] = {
    "weight": lambda name: name,
    "block": lambda name: match[0] if (match := re.match(r"\w+\.\d+", name)) else name,
}


@dataclass(frozen=True)
class Evaluation:
    """A denoiser's feeds at every timestep of `runs` runs, one after another, and fp32's epsilon.

    `few`: the steps that plans are judged by first, where all would take too long.
    """

    feeds: Sequence[Tensors]
    expected: Sequence[NDArray[np.float32]]
    runs: int = 1
    few: Sequence[int] | None = None

    @property
    def all(self) -> range:
        return range(len(self.feeds))

    @property
    def first(self) -> Sequence[int]:
        """The steps of `few`, or all."""
        return self.all if self.few is None else self.few

    def places(self) -> NDArray[np.int64]:
        """Each step's place in its run."""
        return np.arange(len(self.feeds)) % (len(self.feeds) // self.runs)


class Quantised:
    """A graph that a trial has written, while it is there: its bytes, and a session of it."""

    def __init__(self, path: Path, evaluation: Evaluation, fp32: Callable[[], Run]) -> None:
        self.bytes = sum(file.stat().st_size for file in path.parent.iterdir())
        self._evaluation, self._fp32 = evaluation, fp32
        self.run = open_run(path)

    def noise(self, steps: Sequence[int] | None = None) -> Noise:
        """Error power over the power of fp32's epsilon at these steps (default: all)."""
        judged = self._evaluation
        chosen = judged.all if steps is None else steps
        return np.array(
            [noise_of(self.run(judged.feeds[step]), judged.expected[step]) for step in chosen]
        )

    def speed(self) -> float:
        """fp32's median time of a step over this graph's, the two in turn."""
        chosen = np.unique(np.linspace(0, len(self._evaluation.feeds) - 1, TIMED).astype(int))
        runs = (self._fp32(), self.run)
        feeds = [self._evaluation.feeds[step] for step in chosen]
        seconds = [[_seconds(run, sample) for run in runs] for sample in feeds]
        before, after = np.median(seconds, axis=0)
        return float(before / after)


class Trial:
    """Quantises one denoiser in many ways, with one calibration."""

    def __init__(
        self,
        graph: Path,
        recipe: AnyRecipe,
        calibration: Sequence[Tensors],
        evaluation: Evaluation,
        group: str = "weight",
    ) -> None:
        self.graph, self.recipe = graph, recipe
        self._calibration, self.evaluation = calibrated(calibration), evaluation
        model = onnx_ir.load(graph)
        weights = [use.weight for use in uses(model) if not use.reason]
        tensors = {name: model.graph.initializers[name].const_value for name in weights}
        self.values = {name: tensor.size for name, tensor in tensors.items() if tensor is not None}
        self.groups: dict[str, list[str]] = {}
        for name in self.values:
            self.groups.setdefault(GROUPS[group](name), []).append(name)
        self.sizes = {
            group: sum(self.values[name] for name in members)
            for group, members in self.groups.items()
        }
        shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
        self.any_size = not any(isinstance(n, int) for s in shapes if len(s) == 4 for n in s[2:])
        self.large = evaluation.few is not None
        self._folder = tempfile.TemporaryDirectory()
        self._root = Path(self._folder.name)
        self._fp32: Run | None = None
        self.rounded: Rounded = {}  # integers that were made for other plans

    @property
    def prepared(self) -> Path:
        """The fp32 graph as the recipe's integers are made of it: channels last, smoothed."""
        return self._prepared[0]

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The calibrated ends of each weight's inputs in the prepared graph; {} without any."""
        extremes = self._prepared[1].extremes or {}
        return {name: (low.min(), high.max()) for name, (low, high) in extremes.items()}

    @cached_property
    def _prepared(self) -> tuple[Path, Calibrated]:
        """That graph, and the extremes that its weights have now that they are smoothed."""
        path = self._root / "prepared" / "model.onnx"
        path.parent.mkdir()
        extremes = None
        if isinstance(self.recipe, Int8):
            model, extremes = prepared_int8(self.graph, self.recipe, self._calibration)
        else:
            model = load(self.graph)
            channels_last(model, fuse_attention=isinstance(self.recipe, Int8Dynamic))
        save(model, path)
        del model
        give_back(4 * sum(self.values.values()))
        return path, Calibrated(extremes=extremes)

    @contextmanager
    def quantised(
        self,
        *,
        keep: Sequence[str] = (),
        skip: Sequence[str] = (),
        recipe: AnyRecipe | None = None,
    ) -> Iterator[Quantised]:
        """The graph with all but these weights quantised."""
        recipe = dataclasses.replace(recipe or self.recipe, keep=tuple(keep), skip=tuple(skip))
        with self.written(lambda target: self._write(target, recipe)) as graph:
            yield graph

    @contextmanager
    def written(self, write: Callable[[Path], object]) -> Iterator[Quantised]:
        """What `write` makes of the graph."""
        with tempfile.TemporaryDirectory(dir=self._root) as folder:
            target = Path(folder) / "graph" / "model.onnx"
            target.parent.mkdir()
            write(target)
            yield Quantised(target, self.evaluation, self._fp32_run)

    def alone(self, group: str) -> AbstractContextManager[Quantised]:
        """The graph with only the weights of a group quantised."""
        return self.quantised(skip=[name for name in self.values if name not in self.groups[group]])

    def noise(self, *, keep: Sequence[str] = (), skip: Sequence[str] = ()) -> Noise:
        """Error power at every judged step when all but these weights are quantised."""
        with self.quantised(keep=keep, skip=skip) as graph:
            return graph.noise()

    def share(self, weights: Sequence[str]) -> float:
        """The share of the graph's values that these weights have."""
        return sum(self.values[name] for name in weights) / sum(self.values.values())

    def close(self) -> None:
        self._folder.cleanup()

    def _write(self, target: Path, recipe: AnyRecipe) -> None:
        plain = dataclasses.replace(recipe, keep=self.recipe.keep, skip=self.recipe.skip)
        rounded = self.rounded if plain == self.recipe else None
        if isinstance(recipe, Int8Dynamic):
            quantize_int8_dynamic(self.prepared, target, recipe, (), rounded)
        elif isinstance(recipe, IntegerWeights):
            quantize_weights(self.prepared, target, recipe, (), rounded)
        elif plain == self.recipe:
            done = dataclasses.replace(recipe, smoothing=0.0, norm_smoothing=0.0)
            prepared, smoothed = self._prepared
            quantize_int8(prepared, target, done, smoothed, rounded)
        else:  # smoothed in another way
            quantize_int8(self.graph, target, recipe, self._calibration)

    def _fp32_run(self) -> Run:
        if self._fp32 is None:
            self._fp32 = open_run(self.graph)
        return self._fp32


def evaluation_of(graph: Path, feeds: Sequence[Tensors], runs: int = 1) -> Evaluation:
    """Run the fp32 graph on recorded feeds."""
    run = open_run(graph)
    return Evaluation(feeds, [run(sample) for sample in feeds], runs)


def sqnr_db(noise: float) -> float:
    """SQNR in dB of an error power over signal power."""
    return decibels(math.sqrt(noise))


def noise_at(target_db: float) -> float:
    """The error power over signal power that has an SQNR: the reverse of `sqnr_db`."""
    return 10 ** (-target_db / 10)


def noise_of(epsilon: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Error power over the power of what was expected."""
    return _power(epsilon - expected) / _power(expected)


def _seconds(run: Run, feeds: Tensors) -> float:
    start = time.perf_counter()
    run(feeds)
    return time.perf_counter() - start


def _power(values: NDArray[np.float32]) -> float:
    return float(np.square(values.astype(np.float64)).sum())


def open_run(graph: Path) -> Run:
    """A session of a denoiser's graph, as a function from its feeds to epsilon."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def run(feeds: Tensors) -> NDArray[np.float32]:
        return np.asarray(session.run(["epsilon"], feeds)[0])

    return run
