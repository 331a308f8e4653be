"""Many pictures: what each is made of, how many are made at a time, and what came of them.

A picture has its own seed and its own noise, so that it does not depend on which others are made
with it, nor on how many.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtimes.blank import Blank
from runtimes.engines.base import Placement
from runtimes.errors import UsageError
from runtimes.memory import Usage
from runtimes.pipeline import Pipeline, Result
from runtimes.plan import Options, Plan, fixed_batch, negatives_for
from runtimes.preview_files import PreviewFiles
from runtimes.progress import Progress
from runtimes.sampler import CHECK_BUNDLE
from runtimes.start import Start

# Pictures at a time by default, at most: an interrupted batch is lost, and memory grows with it.
MOST = 8
UNKNOWN = 4  # where nobody says how much memory is free, as on a GPU


@dataclass(frozen=True)
class Job:
    """One picture to make, number `index` of its run."""

    index: int
    prompt: str
    negative: str
    seed: int
    path: Path


def seeds_for(seeds: Sequence[int], prompts: int, images: int) -> list[int]:
    """A seed for each of `images` pictures of each of `prompts` prompts.

    One seed S: picture i of the run has S + i. One a prompt: its k-th picture has the prompt's
    seed + k. UsageError for another number of seeds than one, one a prompt, or one a picture.
    """
    count = prompts * images
    # First: as many seeds as pictures are meant one by one, also where there is one picture.
    if len(seeds) == count:
        return list(seeds)
    if len(seeds) == 1:
        return [seeds[0] + index for index in range(count)]
    if len(seeds) == prompts:
        return [seed + number for seed in seeds for number in range(images)]
    each = f" of {images} images each" if images > 1 else ""
    raise UsageError(
        f"{len(seeds)} seeds for {prompts} prompts{each}; give one, or one per prompt"
        + (", or one per picture" if images > 1 else "")
    )


def jobs_for(
    prompts: Sequence[str],
    negatives: Sequence[str],
    seeds: Sequence[int],
    images: int,
    paths: Sequence[Path],
) -> list[Job]:
    """All pictures, prompt by prompt; `negatives` are none, one, or one a prompt."""
    single = negatives[0] if negatives else ""
    against = negatives_for(single if len(negatives) < 2 else negatives, len(prompts))
    pairs = [pair for pair in zip(prompts, against, strict=True) for _ in range(images)]
    rows = zip(pairs, seeds_for(seeds, len(prompts), images), paths, strict=True)
    return [Job(index, *pair, seed, path) for index, (pair, seed, path) in enumerate(rows)]


def batch_size(
    pipeline: Pipeline, options: Options, asked: int | None, start: Start | None = None
) -> int:
    """How many pictures to make at a time.

    What is `asked`; of graphs of fixed shape their own batch; else what fits into the memory that
    is free, up to MOST, or UNKNOWN where that is not known.
    """
    fixed = fixed_batch(pipeline.manifest)
    if fixed is not None:
        if asked not in (None, fixed):
            raise UsageError(
                f"--batch-size {asked}: this bundle was exported for a batch of {fixed}; leave it "
                "out, or export without --static"
            )
        return fixed
    return asked or pipeline.largest_batch(options, MOST, start) or UNKNOWN


def run_batches(
    pipeline: Pipeline,
    jobs: Sequence[Job],
    size: int,
    options: Options,
    progress: Progress,
    start: Start | None = None,
    previews: PreviewFiles | None = None,
) -> Iterator[tuple[Sequence[Job], Result]]:
    """Make the pictures, `size` at a time; each batch and its result as it is finished.

    All start from the one picture of `start`, where there is one. `progress` shows every stage's
    steps, or pictures where there are several batches; `previews` is where those of Stage C go.
    """
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    for number, batch in enumerate(batches):
        several = progress.runs("pictures", number * size, len(jobs), len(batch))
        # Graphs of fixed shape take whole batches: the last job fills up, and is made once.
        spare = [batch[-1]] * (size - len(batch) if fixed_batch(pipeline.manifest) else 0)
        full = [*batch, *spare]
        result = pipeline(
            [job.prompt for job in full],
            [job.negative for job in full],
            replace(options, seed=[job.seed for job in full]),
            on_step=progress.step if len(batches) == 1 else several,
            start=start,
            on_preview=None if previews is None else previews.of(_about(batch)),
            preview_every=1 if previews is None else previews.every,
        )
        yield batch, result


def _about(batch: Sequence[Job]) -> list[tuple[int, dict[str, Any]]]:
    """The pictures' numbers, and what their previews say of themselves."""
    return [(job.index, {"prompt": job.prompt, "seed": [job.seed]}) for job in batch]


@dataclass
class Summary:
    """What several batches say together: stages' times in sum, their memory at its most.

    `blanks` are outputs that cannot be meant, each with the pictures it shows in; `low_memory`:
    whether one graph was held at a time.
    """

    usage: dict[str, Usage] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    truncated: dict[str, str] = field(default_factory=dict)
    blanks: list[tuple[Blank, list[Path]]] = field(default_factory=list)
    low_memory: bool = False

    def add(self, batch: Sequence[Job], result: Result, warn: Callable[[str], None]) -> None:
        """Count a batch in; `warn` hears of each blank output, and once of each cut-off prompt."""
        for name, used in result.usage.items():
            so_far = self.usage.get(name, Usage())
            self.usage[name] = Usage(
                so_far.seconds + used.seconds,
                so_far.load_seconds + used.load_seconds,
                max(so_far.peak_bytes, used.peak_bytes),
            )
        self.placements |= result.placements
        for prompt, lost in result.truncated:
            if prompt not in self.truncated:
                warn(f"{prompt[:40]!r}...: too long, cut off before {lost!r}")
            self.truncated[prompt] = lost
        for blank in result.blanks:
            self.blanks.append((blank, _shown_in(blank, batch)))
            warn(_in_words(*self.blanks[-1]))


def _shown_in(blank: Blank, batch: Sequence[Job]) -> list[Path]:
    """The pictures of a batch that a blank output shows in; those that fill it up have no job."""
    rows = blank.pictures or range(len(batch))
    return [batch[row].path for row in rows if row < len(batch)]


def _in_words(blank: Blank, paths: Sequence[Path]) -> str:
    names = ", ".join(map(str, paths))
    return f"{names}: {blank.where} {blank.what}; {CHECK_BUNDLE}"


def as_json(
    summary: Summary, jobs: Sequence[Job], skipped: Sequence[Job], plan: Plan
) -> dict[str, Any]:
    """The result of a run for machines: `jobs` were made in it, `skipped` before."""
    return {
        "pictures": [str(job.path) for job in jobs],
        "seeds": [job.seed for job in jobs],
        "skipped": [str(job.path) for job in skipped],
        "height": plan.sizes.picture[0],
        "width": plan.sizes.picture[1],
        "low_memory": summary.low_memory,
        "truncated": summary.truncated,
        "blank": [
            {"graph": blank.graph, "where": blank.where, "what": blank.what}
            | {"pictures": [str(path) for path in paths]}
            for blank, paths in summary.blanks
        ],
        "stages": stages_as_json(summary),
    }


def stages_as_json(summary: Summary) -> dict[str, Any]:
    """Time, memory and placement of each graph that ran."""
    return {
        name: dataclasses.asdict(usage) | dataclasses.asdict(summary.placements[name])
        for name, usage in summary.usage.items()
    }


def print_summary(
    summary: Summary, jobs: Sequence[Job], plan: Plan, asked: tuple[int | None, int | None]
) -> None:
    """The result of a run for people: a line a stage, a line a picture; `asked` is its size."""
    height, width = plan.sizes.picture
    if summary.usage:
        print_stages(summary)
    if any(want not in (None, have) for want, have in zip(asked, (height, width), strict=True)):
        print(f"the latents of the size asked for make a picture of {height} x {width} pixels")
    for job in jobs:
        print(f"wrote {job.path} ({height} x {width}, seed {job.seed})")
    for blank, paths in summary.blanks:
        print(f"warning: {_in_words(blank, paths)}")


def print_stages(summary: Summary) -> None:
    """Time, memory and placement of each graph that ran, a line each."""
    print(f"{'stage':<20}{'seconds':>9}{'of it loading':>15}{'peak MB':>9}  ran on")
    for name, usage in summary.usage.items():
        peak = usage.peak_bytes / 1e6
        print(
            f"{name:<20}{usage.seconds:>9.3f}{usage.load_seconds:>15.3f}{peak:>9.0f}"
            f"  {summary.placements[name]}"
        )
    seconds = sum(usage.seconds for usage in summary.usage.values())
    loading = sum(usage.load_seconds for usage in summary.usage.values())
    print(f"{'all':<20}{seconds:>9.3f}{loading:>15.3f}")
