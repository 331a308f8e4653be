"""Pictures from many threads at once, and of many seeds."""

import random
from collections.abc import Generator
from dataclasses import replace

from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from validation.trust import seeds as counted
from validation.trust.attempt import Attempt, Copy
from validation.trust.together import Opened, from_threads, one_by_one

_SHARE = 5  # of the tries one is made: each is a picture
_SHORT = Options(steps=4, decoder_steps=2)


def threads(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """Threads share one pipeline, and every picture is that of a run alone.

    Every other one is without guidance: half the batch, for which engines take other buffers.
    """
    seeds = [chance.randrange(1 << 31) for _ in range(_count(tries))]
    runs = [replace(_SHORT, seed=n, guidance=4.0 * (i % 2)) for i, n in enumerate(seeds)]
    opened = Opened(copy.folder)
    alone, together = one_by_one(opened, runs), from_threads(opened, runs)
    for options, one, other in zip(runs, alone, together, strict=True):
        same = one == other
        why = "" if same else "another picture than alone"
        yield Attempt(f"seed {options.seed}", "survived" if same else "lost", why)


def pictures(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """No seed gives a picture that is black, of one colour or not of numbers."""
    with Pipeline.open(copy.folder) as pipeline:
        first = chance.randrange(1 << 31)
        found = counted.seeds(pipeline, _count(tries), first=first, options=_SHORT)
    blank = {
        **dict.fromkeys(found.black, "a black picture"),
        **dict.fromkeys(found.constant, "a picture of one colour"),
        **dict.fromkeys(found.not_finite, "no numbers"),
    }
    for seed in range(first, first + found.pictures):
        why = blank.get(seed, "")
        yield Attempt(f"seed {seed}", "lost" if why else "survived", why)


def _count(tries: int) -> int:
    return max(2, tries // _SHARE)
