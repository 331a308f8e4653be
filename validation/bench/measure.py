"""Interleaved timing: every contender once a round, medians over the rounds."""

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes.engine import Tensors
from validation.bench.cases import Case
from validation.bench.contenders import Contender, Run
from validation.metrics import difference

# Engines' threads spin for a while after a run, and would slow down whoever comes next.
PAUSE, SETTLED = 0.1, 0.1


@dataclass(frozen=True)
class Timing:
    """One contender on one graph: median, fastest and slowest seconds, and its relative error."""

    graph: str
    contender: str
    median: float
    fastest: float
    slowest: float
    relative_error: float


def measure(case: Case, contenders: Sequence[Contender], repeats: int) -> list[Timing]:
    """Time all contenders on a case; the first run of each warms up and gives the error."""
    with contextlib.ExitStack() as stack:
        runs = {c.name: stack.enter_context(c.prepare(case)) for c in contenders}
        errors = {name: _error(run(), case.expected) for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                seconds[name].append(_timed(run))
    return [
        Timing(case.name, name, statistics.median(found), min(found), max(found), errors[name])
        for name, found in seconds.items()
    ]


def _timed(run: Run) -> float:
    """Seconds of a run; one that is over before caches and clocks have settled is run again."""
    time.sleep(PAUSE)
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        if seconds > SETTLED:
            break
    return seconds


def _error(found: Tensors, expected: Tensors) -> float:
    return max(difference(found[name], values).relative for name, values in expected.items())


def machine() -> str:
    """The CPU's name, how many cores this process may use, and what they compute in."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
        flags = next((x.split(":", 1)[1] for x in lines if x.startswith("flags")), "")
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
    has = [flag for flag in known if flag in flags.split()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {', '.join(has) or 'no known vector extensions'}"
