"""Interleaved timing: every contender of a group once a round, medians over the rounds."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from runtimes.engines.base import Tensors
from runtimes.errors import one_line
from runtimes.progress import SILENT, Progress
from validation.bench.cases import Case
from validation.bench.contenders import Contender
from validation.bench.ready import Ready
from validation.bench.settings import Settings
from validation.parity.metrics import difference

# Engines' threads spin for a while after a run, and would slow down whoever comes next.
PAUSE, SETTLED = 0.1, 0.1
REASON = 200  # characters of an exporter's error, which may be pages long
Item = TypeVar("Item")


@dataclass(frozen=True)
class Spread:
    """Median, fastest and slowest seconds."""

    median: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class Timing:
    """One contender on one graph: seconds, its relative error, and how much faster it is.

    `speedup` is against the yardstick of its own group of interleaved runs, which is the public
    module where `public`, else the export form; `precision` is what heavy operations computed in,
    `flops` those of the form that ran, `notes` what else the engine says it did.
    """

    graph: str
    contender: str
    precision: str
    seconds: Spread
    speedup: float
    relative_error: float
    flops: int
    group: int
    public: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    name: str
    ready: Ready
    error: float


def measure(case: Case, contenders: Sequence[Contender], settings: Settings) -> list[Timing]:
    """Time the contenders of a case in groups that fit the memory, the yardstick in each.

    A contender's first run warms it up and gives its error.
    """
    first, *others = [contender for contender in contenders if contender.takes(case)]
    budget = settings.memory - case.weight_bytes - case.activation_bytes
    groups = in_groups(others, lambda contender: _bytes(contender, case), budget) or [[]]
    compared: list[Timing] = []
    seconds: list[float] = []
    with first.prepare(case) as ready:
        yardstick = _Entry(first.name, ready, _error(ready, case))
        for number, group in enumerate(groups):
            if len(groups) > 1:
                names = ", ".join(contender.name for contender in group)
                settings.report(f"group {number + 1} of {len(groups)}: {names}")
            eager_seconds, timings = _measure_group(case, yardstick, group, number, settings)
            seconds += eager_seconds
            compared += timings
            # At full size a graph takes most of an hour: what is known so far outlives a stop.
            eager = statistics.median(eager_seconds)
            for timing in (_timing(case, yardstick, eager_seconds, eager, number), *timings):
                settings.report(_line(timing))
            gc.collect()  # what engines and exporters left behind, before the next are prepared
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return [_timing(case, yardstick, seconds, statistics.median(seconds), 0), *compared]


def _measure_group(
    case: Case,
    yardstick: _Entry,
    group: Sequence[Contender],
    number: int,
    settings: Settings,
) -> tuple[list[float], list[Timing]]:
    """The yardstick's seconds among this group, and the timings of all others."""
    with contextlib.ExitStack() as stack:
        entries = []
        for contender in group:
            try:
                # A contender that fails is closed at once; the others stay open for all rounds.
                with contextlib.ExitStack() as preparing:
                    ready = preparing.enter_context(contender.prepare(case))
                    entries.append(_Entry(contender.name, ready, _error(ready, case)))
                    stack.enter_context(preparing.pop_all())
            except Exception as error:
                if not contender.peer:
                    raise
                reason = one_line(error)[:REASON]
                settings.report(f"{case.name} without {contender.name}: {reason}")
        runs = {entry.name: entry.ready.run for entry in (yardstick, *entries)}
        title = f"timing {case.name}, rounds"
        seconds = interleaved(runs, settings.repeats, settings.progress, title)
        eager_seconds = seconds[yardstick.name]
        median = statistics.median(eager_seconds)
        return eager_seconds, [_timing(case, e, seconds[e.name], median, number) for e in entries]


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    progress: Progress = SILENT,
    what: str = "rounds",
) -> dict[str, list[float]]:
    """Seconds of every run in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1, repeats + 1):
        for name, run in runs.items():
            seconds[name].append(_timed(run))
        progress.step(what, number, repeats)
    return seconds


def in_groups(
    items: Sequence[Item], cost: Callable[[Item], float], budget: float
) -> list[list[Item]]:
    """Items in order, in groups whose costs stay within the budget; one item may be above it."""
    groups: list[list[Item]] = []
    left = 0.0
    for item in items:
        if not groups or cost(item) > left:
            groups.append([])
            left = max(budget, 0.0)
        groups[-1].append(item)
        left -= cost(item)
    return groups


def _bytes(contender: Contender, case: Case) -> float:
    """What a contender may hold besides PyTorch, which gives its activations back."""
    return contender.copies * case.weight_bytes + (contender.copies > 0) * case.activation_bytes


def spread(seconds: Sequence[float]) -> Spread:
    """Of at least one run."""
    return Spread(statistics.median(seconds), min(seconds), max(seconds))


def _line(timing: Timing) -> str:
    milliseconds = f"{1e3 * timing.seconds.median:.0f} ms"
    rates = f"{timing.speedup:.2f}x, error {timing.relative_error:.1e}"
    return f"{timing.graph}: {timing.contender} {milliseconds} ({rates})"


def _timing(
    case: Case, entry: _Entry, seconds: Sequence[float], yardstick: float, group: int
) -> Timing:
    middle = spread(seconds)
    return Timing(
        graph=case.name,
        contender=entry.name,
        precision=entry.ready.precision(),
        seconds=middle,
        speedup=yardstick / middle.median,
        relative_error=entry.error,
        flops=entry.ready.flops,
        group=group,
        public=case.public,
        notes=entry.ready.notes(),
    )


def _timed(run: Callable[[], object]) -> float:
    """Seconds of a run; one that is over before caches and clocks have settled is run again."""
    time.sleep(PAUSE)
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        if seconds > SETTLED:
            break
    return seconds


def _error(ready: Ready, case: Case) -> float:
    outputs: Tensors = ready.run()
    return max(difference(outputs[name], value).relative for name, value in case.expected.items())
