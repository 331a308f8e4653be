"""Thousands of pictures from one pipeline: what they leave behind in memory and open files."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtimes.memory import process_memory
from runtimes.pipeline import Pipeline
from runtimes.plan import Options

_SAMPLES = 50  # of memory, over the run
_SETTLED = 5  # the share 1/5 of a run after which memory is looked at: caches fill up first
_OPEN = Path("/proc/self/fd")


@dataclass(frozen=True)
class Load:
    """What `pictures` left behind; memory is the process's own, without pages of files.

    `mb_per_thousand`: MB by which memory grew a thousand pictures, as a straight line through the
    samples has it; `spread_mb` is the most that a sample lies off the line. `before` and `after`
    count open descriptors, -1 where the system does not say (not Linux).
    """

    pictures: int
    seconds: float
    mb_per_thousand: float
    spread_mb: float
    before: int
    after: int


def load(pipeline: Pipeline, count: int, options: Options | None = None) -> Load:
    """Make `count` pictures, 10 or more, one by one, each with a seed of its own."""
    options, start = options or Options(), time.monotonic()
    _picture(pipeline, options, 0)  # opens every graph
    before = _descriptors()
    samples = [*_sampled(pipeline, count, options)]
    slope, spread = _line(samples[len(samples) // _SETTLED :])
    seconds = time.monotonic() - start
    return Load(count, seconds, 1e3 * slope, spread, before, _descriptors())


def _sampled(pipeline: Pipeline, count: int, options: Options) -> Iterator[tuple[int, float]]:
    """Pictures so far and MB of memory, now and then."""
    every = max(1, count // _SAMPLES)
    for number in range(1, count + 1):
        _picture(pipeline, options, number)
        if number % every == 0:
            yield number, process_memory("RssAnon") / 1e6


def _picture(pipeline: Pipeline, options: Options, seed: int) -> None:
    pipeline(f"picture {seed}", "", replace(options, seed=seed))


def _line(samples: list[tuple[int, float]]) -> tuple[float, float]:
    """MB per picture, and the most that a sample is off that line, in MB."""
    pictures, memory = np.array(samples, np.float64).T
    line = np.polynomial.Polynomial.fit(pictures, memory, 1).convert()
    slope = float(line.coef[1]) if len(line.coef) > 1 else 0.0
    return slope, float(np.abs(memory - line(pictures)).max())


def _descriptors() -> int:
    return len(os.listdir(_OPEN)) if _OPEN.is_dir() else -1
