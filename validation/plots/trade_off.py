"""The sweep's trade-off: quality over time, one mark a cell, in an SVG document on its own.

Colour is guidance, size Stage C's steps, shape Stage B's; a second bundle's marks are hollow. The
dashed line joins the points that no other beats in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from validation.plots.marks import outline
from validation.plots.svg import (
    Area,
    Axes,
    Svg,
    grid,
    join,
    round_logarithmic,
    round_values,
    tag,
)

WIDTH, HEIGHT = 860, 460
_AREA = Area(70, 46, 630, 400)
# Okabe and Ito's palette: told apart by colour-blind readers, on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999")
NEUTRAL = "#888888"
RADII = (4.0, 9.0)
_DISC = 0  # of the shapes
_STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
text { fill: #222222; } .title { font-size: 15px; font-weight: 600; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.axis { stroke: #888888; } .grid { stroke: #dddddd; }
.frontier { fill: none; stroke: #666666; stroke-dasharray: 5 4; }
@media (prefers-color-scheme: dark) {
  svg { background: #16181d; } text { fill: #e6e6e6; }
  .grid { stroke: #33363d; } .frontier { stroke: #aaaaaa; }
}
"""


@dataclass(frozen=True)
class Point:
    """One cell of one bundle: `x` seconds, `y` quality with its interval; `second` of two."""

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
class Names:
    """The words around the plot; `bundles` are theirs, the one with filled marks first.

    No tick of the y axis is above `most`, such as 100 %.
    """

    title: str
    x: str
    y: str
    bundles: Sequence[str]
    most: float = math.inf


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in time and quality, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def svg(points: Sequence[Point], names: Names) -> str:
    """The plot as a document."""
    axes = Axes(
        _AREA,
        _widened_by_factors([point.x for point in points]),
        _widened([value for p in points for value in (p.low, p.high, p.y)], 0.08),
        logarithmic=True,
    )
    looks = looks_of(points)
    line = " ".join("{:.1f},{:.1f}".format(*axes.at(p.x, p.y)) for p in frontier(points))
    return tag(
        "svg",
        tag("title", names.title),
        tag("style", Svg(_STYLE)),
        tag("text", names.title, x=_AREA.left, y=24, class_="title"),
        _frame(axes, names),
        tag("polyline", points=line, class_="frontier"),
        *[_point(axes, looks, point) for point in points],
        _legend(looks, names.bundles, _AREA.right + 32, _AREA.top + 10),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


@dataclass(frozen=True)
class Looks:
    """How values of the grid's axes look: each has its place among those that there are."""

    guidance: tuple[float, ...]
    steps: tuple[int, ...]
    decoder_steps: tuple[int, ...]

    def colour(self, guidance: float) -> str:
        return COLOURS[self.guidance.index(guidance) % len(COLOURS)]

    def radius(self, steps: int) -> float:
        share = self.steps.index(steps) / max(len(self.steps) - 1, 1)
        return RADII[0] + share * (RADII[1] - RADII[0])

    def shape(self, decoder_steps: int) -> int:
        return self.decoder_steps.index(decoder_steps)


def looks_of(points: Sequence[Point]) -> Looks:
    """How these points look."""
    return Looks(
        tuple(sorted({point.guidance for point in points})),
        tuple(sorted({point.steps for point in points})),
        tuple(sorted({point.decoder_steps for point in points})),
    )


def _widened(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or 0.5  # a single value stands in the middle
    return low - room, high + room


def _widened_by_factors(values: Sequence[float]) -> tuple[float, float]:
    low, high = _widened([math.log(value) for value in values], 0.05)
    return math.exp(low), math.exp(high)


def _frame(axes: Axes, names: Names) -> Svg:
    heights = [value for value in round_values(*axes.y, most=10) if value <= names.most]
    area = axes.area
    turned = f"translate(20 {(area.top + area.bottom) / 2:g}) rotate(-90)"
    middle = (area.left + area.right) / 2
    return join(
        grid(axes, round_logarithmic(*axes.x), heights, upright=True),
        tag("line", x1=area.left, x2=area.right, y1=area.bottom, y2=area.bottom, class_="axis"),
        tag("line", x1=area.left, x2=area.left, y1=area.top, y2=area.bottom, class_="axis"),
        tag("text", names.x, x=middle, y=area.bottom + 42, class_="middle"),
        tag("text", names.y, transform=turned, class_="middle"),
    )


def _point(axes: Axes, looks: Looks, point: Point) -> Svg:
    """A point's mark and its interval; hovering shows its label."""
    colour = looks.colour(point.guidance)
    x, y = axes.at(point.x, point.y)
    top, bottom = (axes.at(point.x, value)[1] for value in (point.high, point.low))
    return tag(
        "g",
        tag("title", point.label),
        tag("line", x1=x, x2=x, y1=top, y2=bottom, stroke=colour, stroke_opacity=0.7),
        _mark(looks.shape(point.decoder_steps), x, y, looks.radius(point.steps), colour,
              hollow=point.second),
    )  # fmt: skip


def _mark(shape: int, x: float, y: float, radius: float, colour: str, *, hollow: bool) -> Svg:
    fill = "none" if hollow else colour
    path = outline(shape, x, y, radius)
    return tag("path", d=path, fill=fill, fill_opacity=0.8, stroke=colour, stroke_width=1.5)


def _legend(looks: Looks, bundles: Sequence[str], x: float, y: float) -> Svg:
    """What colours, sizes and shapes mean, a line each; the bundles' names when there are two."""
    rows = [(f"guidance {g:g}", _DISC, 6.0, looks.colour(g), False) for g in looks.guidance]
    rows += [(f"{n} Stage C steps", _DISC, looks.radius(n), NEUTRAL, False) for n in looks.steps]
    rows += [
        (f"{n} Stage B steps", looks.shape(n), 6.0, NEUTRAL, False) for n in looks.decoder_steps
    ]
    if len(bundles) > 1:
        rows += [(name, _DISC, 6.0, NEUTRAL, index > 0) for index, name in enumerate(bundles)]
    lines = []
    for index, (text, shape, radius, colour, hollow) in enumerate(rows):
        at = y + 20.0 * index
        lines.append(_mark(shape, x, at - 4, radius, colour, hollow=hollow))
        lines.append(tag("text", text, x=x + 18, y=at))
    return join(*lines)
