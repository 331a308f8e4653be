"""Batches of pictures on a Ray cluster, as `runtimes.batches.run_batches` makes them here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtimes.batches import Job
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import Bundle, open_bundle, sha256
from runtimes.engines.base import Execution
from runtimes.errors import RunError, UsageError
from runtimes.pipeline import Pipeline, Result
from runtimes.plan import Options, fixed_batch
from runtimes.progress import Progress
from runtimes.ray_cluster import Cluster
from runtimes.ray_pool import spread
from runtimes.start import Start

Batch = tuple[Job, ...]


@dataclass(frozen=True)
class Opener:
    """What a worker takes to make batches of one run, but for their prompts and seeds.

    `digest` is the SHA-256 of the manifest in `folder`; `low_memory` None: as the bundle says.
    """

    folder: Path
    digest: str
    execution: Execution
    options: Options
    start: Start | None = None
    low_memory: bool | None = None
    memory_check: bool = True

    def pipeline(self) -> Pipeline:
        """The bundle, open; RunError where it is another one by now, or there."""
        return pipeline_of(
            same_bundle(self.folder, self.digest),
            self.execution,
            low_memory=self.low_memory,
            memory_check=self.memory_check,
        )

    def __call__(self) -> Callable[[Batch], Result]:
        """What makes one batch after another."""
        pipeline = self.pipeline()

        def make(batch: Batch) -> Result:
            result = pipeline(
                [job.prompt for job in batch],
                [job.negative for job in batch],
                replace(self.options, seed=[job.seed for job in batch]),
                start=self.start,
            )
            # The pictures are what is kept; fp32 ones are four times as much to send.
            return replace(result, image=result.image[:0], latents=result.latents[:0])

        return make


def pipeline_of(
    bundle: Bundle, execution: Execution, *, low_memory: bool | None, memory_check: bool
) -> Pipeline:
    """A bundle on the engine, device and terms of `execution`."""
    return Pipeline.open(
        bundle,
        device=execution.device,
        engine=execution.engine,
        precision=execution.precision,
        cache_dir=execution.cache,
        threads=execution.threads,
        low_memory=low_memory,
        memory_check=memory_check,
    )


def same_bundle(folder: Path, digest: str) -> Bundle:
    """The bundle in a folder, opened here; RunError where its manifest's SHA-256 is another."""
    bundle = open_bundle(folder)
    if sha256(bundle.folder / MANIFEST_NAME) != digest:
        raise RunError(
            f"{folder} is not the bundle that the run began with; put that back, or begin anew "
            "with another --output"
        )
    return bundle


def run_on_ray(
    opener: Opener, jobs: Sequence[Job], size: int, cluster: Cluster, progress: Progress
) -> Iterator[tuple[Batch, Result]]:
    """Make the pictures, `size` at a time; each batch and its result as it is finished."""
    batches = [tuple(jobs[start : start + size]) for start in range(0, len(jobs), size)]
    done = 0
    for batch, result in spread(opener, batches, cluster):
        yield batch, result
        done += len(batch)
        progress.step("pictures", done, len(jobs))


def check_for_ray(bundle: Bundle, previews: Path | None) -> None:
    """UsageError for what a run on Ray does not do."""
    if previews is not None:
        raise UsageError("--previews shows one process's pictures: leave it out with --ray")
    if fixed_batch(bundle.manifest) not in (None, 1):
        raise UsageError(
            "--ray makes pictures in batches of any size: this bundle was exported for one of "
            f"{fixed_batch(bundle.manifest)}; export one without --static"
        )
