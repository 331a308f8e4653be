"""Whole pictures: seconds per engine and stage, and what of it is spent outside the engines."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from exporter.checkpoint.open import Checkpoint
from exporter.graphs import plan_graphs
from exporter.torch_engine import TorchGraphs
from runtimes.bundle.read import Bundle
from runtimes.engines.base import Engine, Execution, Feeds, Placement, Tensors
from runtimes.engines.table import ENGINES, BundleGraphs, GraphSource
from runtimes.pipeline import Pipeline, Result, load_tokenizers
from runtimes.recording import Recording
from runtimes.similarity import psnr_db
from validation.bench.contenders import ENGINE_COPIES
from validation.bench.measure import Spread, in_groups, interleaved, spread
from validation.bench.settings import Settings


@dataclass(frozen=True)
class _Way:
    """A bundle's pipeline and what opens its graphs."""

    name: str
    bundle: Bundle
    graphs: Callable[[], GraphSource]

    @property
    def bytes(self) -> float:
        """What its engines may hold, all graphs open."""
        return ENGINE_COPIES * sum(file.size for file in self.bundle.manifest.files.values())


@dataclass(frozen=True)
class Picture:
    """One way to make a whole picture, everything loaded: seconds, and per stage their medians.

    `outside` is the share of the time, 0..1, that NumPy and Python take: all but what runs inside
    the engines. `picture_db` is the PSNR against the recorded run's picture.
    """

    contender: str
    seconds: Spread
    stages: dict[str, float]
    outside: float
    picture_db: float


@dataclass
class Clock:
    """Seconds spent inside engines."""

    seconds: float = 0.0

    def time(self, action: Callable[[], Tensors]) -> Tensors:
        """Run `action` and count it."""
        start = time.perf_counter()
        result = action()
        self.seconds += time.perf_counter() - start
        return result


class TimedGraphs:
    """A pipeline's graphs, with a clock on every run."""

    def __init__(self, graphs: GraphSource, clock: Clock) -> None:
        self._graphs, self._clock = graphs, clock

    def open(self, name: str) -> Engine:
        return _TimedEngine(self._graphs.open(name), self._clock)


class _TimedEngine:
    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        self.load_seconds = engine.load_seconds

    @property
    def placement(self) -> Placement:
        return self._engine.placement

    def run(self, feeds: Feeds) -> Tensors:
        return self._clock.time(lambda: self._engine.run(feeds))

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        bound = self._engine.bind(constants)
        return lambda feeds: self._clock.time(lambda: bound(feeds))

    def close(self) -> None:
        self._engine.close()


def pictures(
    bundles: Sequence[Bundle],
    checkpoint: Checkpoint,
    executions: Mapping[str, Execution],
    recording: Recording,
    settings: Settings,
) -> list[Picture]:
    """The recorded run, by PyTorch and by every bundle on every engine that runs it, interleaved.

    The first bundle is the one the recording belongs to. Pipelines that do not fit the memory
    together are timed in groups; one that may not fit alone is left out, and that is said.
    """
    fitting = []
    for way in _ways(bundles, checkpoint, executions, settings.device):
        if way.bytes <= settings.memory:
            fitting.append(way)
        else:
            settings.report(
                f"whole pictures without {way.name}: all graphs at once may need "
                f"{way.bytes / 1e9:.0f} GB; allow it with --memory"
            )
    measured: list[Picture] = []
    for group in in_groups(fitting, lambda way: way.bytes, settings.memory):
        measured += _measure_group(group, recording, settings)
    return measured


def _ways(
    bundles: Sequence[Bundle],
    checkpoint: Checkpoint,
    executions: Mapping[str, Execution],
    device: str,
) -> Iterator[_Way]:
    first = bundles[0]
    if device == "cpu":  # where the recording was made
        text = first.manifest.text_graphs["stage_b"] is not None
        plans = plan_graphs(checkpoint, "nchw", text=text)
        yield _Way("PyTorch fp32, export form", first, lambda: TorchGraphs(plans))
    for bundle in bundles:
        label = "" if bundle is first else f"{bundle.folder.name}: "
        for name, execution in executions.items():
            if bundle.manifest.backend in ENGINES[execution.engine or ""].backends:
                yield _Way(f"{label}{name}", bundle, partial(BundleGraphs, bundle, execution))


def _measure_group(ways: Sequence[_Way], recording: Recording, settings: Settings) -> list[Picture]:
    with contextlib.ExitStack() as stack:
        runs = {}
        for way in ways:
            clock = Clock()
            graphs, tokenizers = TimedGraphs(way.graphs(), clock), load_tokenizers(way.bundle)
            pipeline = stack.enter_context(Pipeline(way.bundle.manifest, graphs, tokenizers))
            runs[way.name] = _Run(pipeline, clock, recording)
            runs[way.name]()  # loads, compiles, warms up
            runs[way.name].forget()
        title = "timing whole pictures, rounds"
        seconds = interleaved(runs, settings.repeats, settings.progress, title)
    return [run.picture(name, seconds[name]) for name, run in runs.items()]


class _Run:
    """A pipeline making the recorded picture; keeps what each run says about itself."""

    def __init__(self, pipeline: Pipeline, clock: Clock, recording: Recording) -> None:
        self._pipeline, self._clock, self._recording = pipeline, clock, recording
        self._results: list[Result] = []
        self._outside: list[float] = []

    def __call__(self) -> None:
        recording, self._clock.seconds = self._recording, 0.0
        start = time.perf_counter()
        result = self._pipeline([recording.prompt], recording.negative_prompt, recording.options)
        self._outside.append(1 - self._clock.seconds / (time.perf_counter() - start))
        self._results.append(result)

    def forget(self) -> None:
        self._results.clear()
        self._outside.clear()

    def picture(self, name: str, seconds: Sequence[float]) -> Picture:
        stages = self._results[0].usage
        expected = self._recording.tensors["stage_a.image"]
        return Picture(
            contender=name,
            seconds=spread(seconds),
            stages={
                stage: statistics.median(r.usage[stage].seconds for r in self._results)
                for stage in stages
            },
            outside=statistics.median(self._outside),
            picture_db=psnr_db(self._results[-1].image, expected, peak=1),
        )
