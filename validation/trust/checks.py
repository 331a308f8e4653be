"""What a bundle is put through, in the order of the table."""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass

from validation.trust import files, graphs, manifests, runs, writing
from validation.trust.attempt import Attempt, Copy


@dataclass(frozen=True)
class Check:
    """A fault, as the table calls it, and the attempts at it: of a copy, by chance, so many.

    `runs`: whether it makes pictures.
    """

    fault: str
    attempts: Callable[[Copy, random.Random, int], Generator[Attempt]]
    runs: bool = False


CHECKS = {
    "flips": Check("one bit of a file flipped", files.flips),
    "cuts": Check("a file cut or longer", files.cuts),
    "swaps": Check("two files exchanged", files.swaps),
    "places": Check("a file missing, a link, a pipe or a stranger", files.places),
    "manifest": Check("a value of the manifest replaced", manifests.values),
    "graphs": Check("a graph that asks for more, resealed", graphs.spoiled),
    "kills": Check("killed while the bundle is replaced", writing.kills),
    "disk": Check("a disk that fails while the bundle is replaced", writing.disk_faults),
    "threads": Check("threads that make pictures at once", runs.threads, runs=True),
    "seeds": Check("seeds that give no picture", runs.pictures, runs=True),
}
