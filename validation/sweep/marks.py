"""How a cell looks in the plot: colour is guidance, size Stage C's steps, shape Stage B's.

A second bundle's marks are hollow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from validation.report.markup import Html, join, tag

# Okabe and Ito's palette: told apart by colour-blind readers, on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999")
NEUTRAL = "#888888"
RADII = (4.0, 9.0)
# Corners and their turn, as a share of one: circle, square, triangle, diamond, pentagon.
SHAPES = ((24, 0.0), (4, 0.5), (3, 0.0), (4, 0.0), (5, 0.0))


@dataclass(frozen=True)
class Point:
    """One cell of one bundle: `x` seconds, `y` quality with its interval."""

    x: float
    y: float
    low: float
    high: float
    guidance: float
    steps: int
    decoder_steps: int
    second: bool
    label: str


@dataclass(frozen=True)
class Marks:
    """The values there are on each axis of the grid, in order."""

    guidance: tuple[float, ...]
    steps: tuple[int, ...]
    decoder_steps: tuple[int, ...]

    def of(self, point: Point, x: float, y: float) -> Html:
        """A point's mark at drawing coordinates."""
        colour, shape = self.colour(point.guidance), self.shape(point.decoder_steps)
        return mark(shape, x, y, self.radius(point.steps), colour, hollow=point.second)

    def colour(self, guidance: float) -> str:
        return COLOURS[self.guidance.index(guidance) % len(COLOURS)]

    def radius(self, steps: int) -> float:
        share = self.steps.index(steps) / max(len(self.steps) - 1, 1)
        return RADII[0] + share * (RADII[1] - RADII[0])

    def shape(self, decoder_steps: int) -> int:
        return self.decoder_steps.index(decoder_steps) % len(SHAPES)


def marks_for(points: Sequence[Point]) -> Marks:
    """The marks of these points."""
    return Marks(
        tuple(sorted({point.guidance for point in points})),
        tuple(sorted({point.steps for point in points})),
        tuple(sorted({point.decoder_steps for point in points})),
    )


def mark(shape: int, x: float, y: float, radius: float, colour: str, *, hollow: bool) -> Html:
    """A polygon around (x, y)."""
    corners, turn = SHAPES[shape]
    angles = [2 * math.pi * (corner + turn) / corners - math.pi / 2 for corner in range(corners)]
    spots = [f"{x + radius * math.cos(a):.1f} {y + radius * math.sin(a):.1f}" for a in angles]
    fill = "none" if hollow else colour
    return tag("path", d=f"M{'L'.join(spots)}Z", fill=fill, fill_opacity=0.8, stroke=colour,
               stroke_width=1.5)  # fmt: skip


def legend(marks: Marks, names: Sequence[str], x: float, y: float) -> Html:
    """What colours, sizes and shapes mean, a line each; the bundles' names when there are two."""
    rows = [(f"guidance {g:g}", 0, 6.0, marks.colour(g), False) for g in marks.guidance]
    rows += [
        (f"{steps} Stage C steps", 0, marks.radius(steps), NEUTRAL, False) for steps in marks.steps
    ]
    rows += [
        (f"{steps} Stage B steps", marks.shape(steps), 6.0, NEUTRAL, False)
        for steps in marks.decoder_steps
    ]
    if len(names) > 1:
        rows += [(name, 0, 6.0, NEUTRAL, index > 0) for index, name in enumerate(names)]
    found = []
    for index, (text, shape, radius, colour, hollow) in enumerate(rows):
        at = y + 20.0 * index
        found.append(mark(shape, x, at - 4, radius, colour, hollow=hollow))
        found.append(tag("text", text, x=x + 18, y=at))
    return join(*found)
