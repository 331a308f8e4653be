"""Pictures of many seeds: how many of them are black, of one colour, or no numbers at all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from quantization.calibration import default_prompts
from runtimes.blank import blank_pictures
from runtimes.pipeline import Pipeline
from runtimes.plan import Options, fixed_batch
from runtimes.sampler import NotFinite

BATCH = 8
Seeds = tuple[int, ...]


@dataclass(frozen=True)
class Counted:
    """What came of `pictures` seeds; the seeds of those that cannot be meant.

    `black` are all 0, `constant` of one other colour, `not_finite` stopped with NaN or Inf.
    """

    pictures: int
    black: Seeds = ()
    constant: Seeds = ()
    not_finite: Seeds = ()

    @property
    def sound(self) -> bool:
        """Whether every picture shows something."""
        return not (self.black or self.constant or self.not_finite)

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(
            self.pictures + other.pictures,
            self.black + other.black,
            self.constant + other.constant,
            self.not_finite + other.not_finite,
        )


def seeds(
    pipeline: Pipeline,
    count: int,
    *,
    first: int = 0,
    options: Options | None = None,
    on_batch: Callable[[Counted], None] = lambda so_far: None,
) -> Counted:
    """Make a picture of each of `count` seeds, from `first` on, over the shipped prompts in turn.

    `options` are those of every picture, but for the seed. `on_batch` hears of all so far.
    UsageError where graphs of fixed shape take another number at a time than is left in the end.
    """
    counted, prompts = Counted(0), default_prompts(pipeline.manifest.model)
    size = fixed_batch(pipeline.manifest) or BATCH
    for batch in _batches(range(first, first + count), size):
        counted += _counted(pipeline, batch, prompts, options or Options())
        on_batch(counted)
    return counted


def _batches(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _counted(
    pipeline: Pipeline, batch: Sequence[int], prompts: Sequence[str], options: Options
) -> Counted:
    """One batch; where it is not finite, picture by picture, for the others may well be."""
    texts = [prompts[seed % len(prompts)] for seed in batch]
    try:
        pictures = pipeline(texts, "", replace(options, seed=list(batch))).pictures
    except NotFinite:
        if len(batch) == 1:
            return Counted(1, not_finite=(batch[0],))
        alone = (_counted(pipeline, [seed], prompts, options) for seed in batch)
        return sum(alone, Counted(0))
    blank = blank_pictures(pictures)
    rows = blank.pictures if blank else ()
    dark = {row for row in rows if not pictures[row].any()}
    return Counted(
        len(batch),
        black=tuple(batch[row] for row in rows if row in dark),
        constant=tuple(batch[row] for row in rows if row not in dark),
    )
