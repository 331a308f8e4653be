"""Outputs that are numbers and say nothing: the same everywhere. A warning and no error.

Weights may be spoilt so that nothing is NaN: by zeros, or by an engine that clamps NaN to a number.
A checkpoint may be meant so, too, which is why the run goes on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.engines.base import Tensors


@dataclass(frozen=True)
class Blank:
    """The first blank output of a graph in a run: which graph, `where` in the run, `what` it is.

    `pictures` are those that it shows in, by their place in the batch; () is all of them.
    """

    graph: str
    where: str
    what: str
    pictures: tuple[int, ...]


def blank_output(graph: str, outputs: Tensors) -> Blank | None:
    """The first output of a graph that runs once, where all its numbers are equal."""
    for name, values in outputs.items():
        if values.size < 2:
            continue
        first = values.flat[0]
        # The last number tells nearly always, and the rest is not looked at.
        if values.flat[-1] == first and (values == first).all():
            return Blank(graph, f"{graph} ({name})", f"gave {first:g} everywhere", ())
    return None


def blank_step(graph: str, where: str, epsilon: NDArray[np.float32], count: int) -> Blank | None:
    """A denoiser's output (B or 2B,C,H,W), where a row is one value in each channel.

    The second half of 2B rows, under guidance, belongs to the same `count` pictures as the first.
    """
    rows = _blank_rows(epsilon)
    pictures = tuple(sorted({row % count for row in rows}))
    return Blank(graph, where, "gave one value all over", pictures) if rows else None


def blank_pictures(pictures: NDArray[np.uint8]) -> Blank | None:
    """Pictures (B,H,W,3) of one colour."""
    rows = _blank_rows(pictures.transpose(0, 3, 1, 2))
    if not rows:
        return None
    black = not any(pictures[row].any() for row in rows)
    what = f"made a picture that is {'black' if black else 'of one colour'} all over"
    return Blank("stage_a", "stage_a", what, rows)


def _blank_rows(values: NDArray[np.generic]) -> tuple[int, ...]:
    """Which rows of (B,C,H,W) have one value in each channel."""
    if values[0, 0].size == 1:
        return ()
    # Two corners differ in nearly every output, and the rest is not looked at: a microsecond.
    return tuple(
        row
        for row in range(len(values))
        if values[row, 0, 0, 0] == values[row, 0, -1, -1]
        and (values[row] == values[row, :, :1, :1]).all()
    )
