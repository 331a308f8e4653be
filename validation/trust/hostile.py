"""What a stranger could write into a graph, as a way to spoil a sound one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """A way to spoil the graph at a path, and words of what it has to be refused with.

    `spoil` is given the path of the graph, and the name of the file beside it that holds weights.
    """

    what: str
    spoil: Callable[[Path, str], object]
    words: str


# Numbers that stand for no place in a file.
FAR = 1 << 62
DIGITS = "9" * 5000
CUT = 20  # bytes that a cut file lacks
