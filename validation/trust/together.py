"""The same pictures one after the other, from many threads at once, and from many processes."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from runtimes.pipeline import Pipeline
from runtimes.plan import Options

THREADS, PROCESSES = 8, 4
PROMPT = "a large red circle"


@dataclass(frozen=True)
class Opened:
    """How a bundle is opened, by every process alike."""

    bundle: Path
    engine: str | None = None
    low_memory: bool = False

    def pipeline(self) -> Pipeline:
        """The bundle, ready to make pictures."""
        return Pipeline.open(
            self.bundle, engine=self.engine, low_memory=self.low_memory, memory_check=False
        )


def one_by_one(opened: Opened, runs: Sequence[Options]) -> list[str]:
    """A digest of each run's picture, as fp32 numbers."""
    with opened.pipeline() as pipeline:
        return [_digest(pipeline, options) for options in runs]


def from_threads(opened: Opened, runs: Sequence[Options], threads: int = THREADS) -> list[str]:
    """The same where the runs are shared among threads that use one pipeline at once."""
    with opened.pipeline() as pipeline, ThreadPoolExecutor(threads) as pool:
        return [*pool.map(lambda options: _digest(pipeline, options), runs)]


def from_processes(
    opened: Opened, runs: Sequence[Options], processes: int = PROCESSES
) -> list[list[str]]:
    """The same from each of several processes that use one bundle at once."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        every = [pool.submit(one_by_one, opened, runs) for _ in range(processes)]
        return [future.result() for future in every]


def _digest(pipeline: Pipeline, options: Options) -> str:
    return hashlib.sha256(pipeline(PROMPT, "", options).image.tobytes()).hexdigest()
