"""The trade-off as a picture: quality over time, one mark a cell, in an SVG on its own.

The dashed line joins the cells that no other beats in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from validation.report.markup import Html, join, tag
from validation.sweep.marks import Point, legend, marks_for

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 630, 46, 400  # of the plotting area
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
class Axes:
    """Where values lie in the drawing: `x` the logarithms of seconds, `y` quality."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, seconds: float, quality: float) -> tuple[float, float]:
        """Drawing coordinates."""
        across = (math.log(seconds) - self.x[0]) / (self.x[1] - self.x[0])
        up = (quality - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in time and quality, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def svg(
    points: Sequence[Point],
    title: str,
    x_name: str,
    y_name: str,
    names: Sequence[str],
    most: float = math.inf,
) -> str:
    """The plot as a document; `names` are the bundles', filled marks first.

    No value of the y axis is above `most`, such as 100 %.
    """
    axes = Axes(
        _widened([math.log(point.x) for point in points], 0.05),
        _widened([value for p in points for value in (p.low, p.high, p.y)], 0.08),
    )
    marks = marks_for(points)
    line = " ".join("{:.1f},{:.1f}".format(*axes.at(p.x, p.y)) for p in frontier(points))
    return tag(
        "svg",
        tag("title", title),
        tag("style", _STYLE),
        tag("text", title, x=LEFT, y=24, class_="title"),
        _frame(axes, x_name, y_name, most),
        tag("polyline", points=line, class_="frontier"),
        *[
            tag(
                "g",
                tag("title", point.label),
                _interval(axes, point, marks.colour(point.guidance)),
                marks.of(point, *axes.at(point.x, point.y)),
            )
            for point in points
        ],
        legend(marks, names, RIGHT + 32, TOP + 10),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def round_values(low: float, high: float) -> list[float]:
    """Four to ten round values between two."""
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = max(f * power for f in (1, 2, 2.5, 5) if (high - low) / (f * power) >= 4)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def round_seconds(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two; where that is not enough, round values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [f * 10.0**power for power in powers for f in (1, 2, 5) if low <= f * 10**power <= high]
    return found if len(found) > 2 else round_values(low, high)


def _widened(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or 0.5
    return low - room, high + room


def _frame(axes: Axes, x_name: str, y_name: str, most: float) -> Html:
    found = []
    for value in (v for v in round_values(*axes.y) if v <= most):
        y = axes.at(1, value)[1]
        found.append(tag("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"))
        found.append(tag("text", f"{value:g}", x=LEFT - 8, y=y + 4, class_="end"))
    for value in round_seconds(math.exp(axes.x[0]), math.exp(axes.x[1])):
        x = axes.at(value, 0)[0]
        found.append(tag("line", x1=x, x2=x, y1=TOP, y2=BOTTOM, class_="grid"))
        found.append(tag("text", f"{value:g}", x=x, y=BOTTOM + 18, class_="middle"))
    turned = f"translate(20 {(TOP + BOTTOM) / 2:g}) rotate(-90)"
    return join(
        *found,
        tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="axis"),
        tag("line", x1=LEFT, x2=LEFT, y1=TOP, y2=BOTTOM, class_="axis"),
        tag("text", x_name, x=(LEFT + RIGHT) / 2, y=BOTTOM + 42, class_="middle"),
        tag("text", y_name, transform=turned, class_="middle"),
    )


def _interval(axes: Axes, point: Point, colour: str) -> Html:
    x, top = axes.at(point.x, point.high)
    bottom = axes.at(point.x, point.low)[1]
    return tag("line", x1=x, x2=x, y1=top, y2=bottom, stroke=colour, stroke_opacity=0.7)
