"""Pictures a second without Ray and with 1, 2, ... workers, and what a picture takes on its way.

    python -m exporter my-bundle
    python examples/measurements/scale_throughput.py my-bundle --count 40 --repeats 5

All run on one thread and take turns, repeat by repeat, each into an empty folder: what else the
machine does meets all of them. 'steady' leaves the start of the cluster and of its workers out: it
counts from as many pictures on disk as there are workers to the last. A worker's memory is what
ends with it (USS).
"""

import argparse
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import psutil

from runtimes.arguments import Parser, a_path, integer, positive
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import run_cli
from runtimes.engines.base import Execution
from runtimes.errors import UsageError
from runtimes.progress import Progress
from runtimes.ray_cluster import OWN, Cluster
from runtimes.ray_pool import spread
from runtimes.spread import Spread
from validation.machine import machine
from validation.quality.filling import fill
from validation.quality.making import make, open_pipeline
from validation.quality.measure import Request, measure
from validation.quality.prompts import prompts_for
from validation.quality.series import Album

WORKER = "ray::MapWorker"
LEAST = 10  # pictures that a rate is taken of
ITEMS = 2000  # of nothing, to see what the pool itself takes
LOOK = 0.25  # seconds between two looks at the workers' memory


@dataclass(frozen=True)
class Run:
    """One run of so many workers (0: none, in this process); bytes are the largest worker's."""

    workers: int
    seconds: float
    steady: float  # pictures a second, once every worker may have made one
    worker_bytes: int


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = Parser(
        prog="python examples/measurements/scale_throughput.py", description=__doc__.split("\n")[0]
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="bundle folder, from 'python -m exporter'")
    add("--prompts", type=Path, metavar="FILE", help="prompts (default: the demo's scenes)")
    add("--count", type=positive, default=40, help="pictures a run, 10 at least (default: 40)")
    add("--repeats", type=positive, default=5, help="runs of each kind, in turns (default: 5)")
    add("--workers", type=integer, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--quiet", action="store_true", help="print the tables only")
    add("--debug", action="store_true", help="show the traceback of an error")
    return command_line


def run(args: argparse.Namespace) -> None:
    """Measure, and print two tables in Markdown."""
    if args.count < max(LEAST, *args.workers):
        raise UsageError(f"--count {args.count} is too small: {LEAST} pictures, one a worker")
    bundle = open_bundle(args.bundle)
    prompts = prompts_for(bundle.manifest.model, args.prompts, args.count)
    request = Request(Path(), prompts, execution=Execution(threads=1))
    progress, runs = Progress(quiet=args.quiet), []
    for _ in range(args.repeats):
        for workers in args.workers:
            with tempfile.TemporaryDirectory() as folder:
                album = Album(request.series(bundle), Path(folder) / "pictures")
                runs.append(timed(album, workers))
            progress.step("runs", len(runs), args.repeats * len(args.workers))
    print(f"{machine()}; {bundle.folder.name}, {args.count} pictures a run, median of "
          f"{args.repeats} (least .. most)\n")  # fmt: skip
    print_runs(runs, args.count)
    print()
    print_way(bundle, request)
    print(f"- items a second through the pool, where making takes no time: {items_a_second():.0f}")


def timed(album: Album, workers: int) -> Run:
    """Make all pictures of an album."""
    times: list[float] = []
    cluster = Cluster(OWN, workers) if workers else None
    start = time.perf_counter()
    with watched() as largest:
        fill([album], Spread(None, cluster), lambda *about: times.append(time.perf_counter()))
    seconds = time.perf_counter() - start
    first = max(workers, 1)  # each worker's first picture includes loading
    steady = (len(times) - first) / (times[-1] - times[first - 1])
    return Run(workers, seconds, steady, max(largest))


@contextmanager
def watched() -> Iterator[list[int]]:
    """The most bytes that a worker of this process's cluster has held, and before them a 0."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "".join(process.cmdline()).startswith(WORKER):
                        seen.append(process.memory_full_info().uss)
                except psutil.Error:  # it has ended
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def items_a_second() -> float:
    """How many items a pool of two workers hands out and takes back, from the first on."""
    times = [time.perf_counter() for _ in spread(nothing, range(ITEMS), Cluster(OWN, 2))]
    return (len(times) - 1) / (times[-1] - times[0])


def nothing() -> Callable[[int], int]:
    """An opener of what makes nothing."""
    return lambda item: item


def print_runs(runs: list[Run], count: int) -> None:
    """A line a number of workers."""
    print("| workers | pictures/s, steady | pictures/s, with the start | MB a worker |")
    print("|---|--:|--:|--:|")
    for workers in dict.fromkeys(one.workers for one in runs):
        those = [one for one in runs if one.workers == workers]
        steady = spread_of([one.steady for one in those])
        whole = spread_of([count / one.seconds for one in those])
        memory = max(one.worker_bytes for one in those) / 1e6
        name = str(workers) if workers else "none (here)"
        print(f"| {name} | {steady} | {whole} | {f'{memory:.0f}' if workers else ''} |")


def spread_of(values: list[float]) -> str:
    """'2.04 (1.98 .. 2.11)'."""
    return f"{median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


def print_way(bundle: Bundle, request: Request) -> None:
    """What a picture takes outside its graphs: bytes, and this process's seconds."""
    series, count = request.series(bundle), len(request.prompts.texts)
    with open_pipeline(series) as pipeline:
        made = [make(pipeline, series, index) for index in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        album, identity = Album(series, Path(folder) / "pictures"), series.identity()
        album.folder.mkdir()
        start = time.perf_counter()
        for index, one in enumerate(made):
            album.keep(index, one, identity)
        kept = time.perf_counter()
        for index in range(count):
            album.kept(index, identity)
        found = time.perf_counter()
        size = sum(path.stat().st_size for path in album.folder.iterdir())
        half = replace(request.prompts, texts=request.prompts.texts[: count // 2])
        if half.scenes is not None:
            half = replace(half, scenes=half.scenes[: count // 2])
        here = replace(request, folder=Path(folder))
        measure(bundle, here)  # networks are loaded, references drawn
        times = [time.perf_counter()]
        for prompts in (half, request.prompts):
            measure(bundle, replace(here, prompts=prompts))
            times.append(time.perf_counter())
    for what, value in (
        ("bytes a picture through the object store", f"{len(pickle.dumps(made[0])):,}"),
        ("bytes a picture on disk (PNG and latents)", f"{size / count:,.0f}"),
        ("ms a picture to write, both files synced", f"{1e3 * (kept - start) / count:.1f}"),
        ("ms a picture to find it there", f"{1e3 * (found - kept) / count:.1f}"),
        (f"s to measure {count // 2} pictures that are there", f"{times[1] - times[0]:.2f}"),
        (f"s to measure {count}", f"{times[2] - times[1]:.2f}"),
    ):
        print(f"- {what}: {value}")


if __name__ == "__main__":
    sys.exit(run_cli(parser(), run, None, interrupted="nothing was measured"))
