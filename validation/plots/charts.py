"""The report's line charts and scatter plots, coloured by the page's style sheet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from validation.plots.marks import colour, mark
from validation.plots.svg import Area, Axes, Svg, grid, join, round_values, tag

WIDTH, HEIGHT = 480, 300
_AREA = Area(42, 30, WIDTH - 14, HEIGHT - 44)
_LINE, _LETTER = 16.0, 8.6  # a label's height, and a letter's width, on the safe side
_LONGEST = 22  # letters of a name beside its mark; hovering shows it all
# Limits of fp32 are above, those of every lossy precision below: docs/report.md.
_LOSSY_DB = 55.0

_LEAST_SPAN = 30  # dB, so that small differences look small

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A value at (x, y); `note` is shown on hovering."""

    x: float
    y: float
    note: str
    passed: bool = True


@dataclass(frozen=True)
class Series:
    """One variant's points, y in dB; `index` is its place in the report, `limit` the least y."""

    index: int
    name: str
    points: tuple[Point, ...]
    limit: float

    @property
    def lossy(self) -> bool:
        return self.limit < _LOSSY_DB


def line_chart(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> Svg:
    """One line per series over steps 1, 2, ...; dashed lines at the limits.

    Beside lossy variants, those of fp32 are far above: the axis ends before, and a line says so.
    """
    last = max(point.x for curve in series for point in curve.points)
    axes = Axes(_AREA, (1, max(last, 2)), _y_range(series, limits=True))
    shown = [curve for curve in series if min(point.y for point in curve.points) <= axes.y[1]]
    ticks = [value for value in round_values(1, last) if value == int(value)] or [1.0]
    inside = [*_limit_lines(axes, shown), *[_line(axes, curve) for curve in shown]]
    above = [_above(curve) for curve in series if curve not in shown]
    return join(_chart(title, x_name, y_name, axes, ticks, inside), *above)


def scatter(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> Svg:
    """One labelled mark per series, on an x axis from 0; what is above the axis is at its top."""
    axes = Axes(
        _AREA,
        (0, 1.12 * max(curve.points[0].x for curve in series)),
        _y_range(series, limits=False),
    )
    return _chart(title, x_name, y_name, axes, round_values(*axes.x), _labelled(axes, series))


def _y_range(series: Sequence[Series], *, limits: bool) -> tuple[float, float]:
    """The y axis: multiples of ten around the lossy series, or around all if none is lossy."""
    chosen = [curve for curve in series if curve.lossy] or series
    values = [p.y for curve in chosen for p in curve.points]
    values += [curve.limit for curve in chosen] if limits else []
    # A spoilt variant's NaN is -inf dB, which no axis reaches.
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = math.floor((min(finite) - 2) / 10) * 10, math.ceil((max(finite) + 2) / 10) * 10
    return float(max(low, 0)), float(max(high, low + _LEAST_SPAN))


def _chart(
    title: str, x_name: str, y_name: str, axes: Axes, ticks: Sequence[float], inside: Sequence[Svg]
) -> Svg:
    return tag(
        "svg",
        tag("title", title),
        tag("text", y_name, x=4, y=16, class_="axis"),
        grid(axes, ticks, round_values(*axes.y), upright=False),
        tag("text", x_name, x=_AREA.right, y=HEIGHT - 6, class_="axis end"),
        *inside,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


def _limit_lines(axes: Axes, series: Sequence[Series]) -> Iterator[Svg]:
    """A dashed line per limit; names of limits that are close to each other stand side by side."""
    x, before = 0.0, -math.inf
    for limit in sorted(
        {curve.limit for curve in series if curve.limit <= axes.y[1]}, reverse=True
    ):
        y = axes.at(axes.x[0], limit)[1]
        x = x + 88 if y - before < _LINE and x < 176 else _AREA.left + 6
        before = y
        names = ", ".join(curve.name for curve in series if curve.limit == limit)
        yield tag(
            "g",
            tag("title", f"limit of {names}"),
            tag("line", x1=_AREA.left, y1=y, x2=_AREA.right, y2=y, class_="limit"),
            tag("text", f"limit {limit:.0f}", x=x, y=y - 3, class_="limit"),
        )


def _line(axes: Axes, series: Series) -> Svg:
    places = [axes.at(point.x, point.y) for point in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = [
        tag(
            "g",
            tag("title", f"{series.name}, {point.note}"),
            mark(series.index, *place, passed=point.passed, size=2.5 if point.passed else 4),
        )
        for point, place in zip(series.points, places, strict=True)
    ]
    return tag("g", tag("polyline", points=path, class_=f"line {colour(series.index)}"), *marks)


def _above(series: Series) -> Svg:
    least = min(point.y for point in series.points)
    text = f"{series.name} is above: {least:.1f} dB or more (limit {series.limit:.0f})"
    return tag("p", text, class_="above")


def _labelled(axes: Axes, series: Sequence[Series]) -> list[Svg]:
    """Marks with their names, each where it covers no other mark or name."""
    places = [axes.at(curve.points[0].x, curve.points[0].y) for curve in series]
    # All marks count before the first label is placed; each label counts for the next.
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    drawn = []
    for curve, (x, y) in zip(series, places, strict=True):
        text = _label(curve, axes)
        box = _free(x, y, _LETTER * len(text), taken)
        taken.append(box)
        drawn.append(_labelled_mark(curve, text, x, y, box))
    return drawn


def _label(curve: Series, axes: Axes) -> str:
    """The name, not too long; with its figure where the mark stands below its value."""
    name = curve.name if len(curve.name) <= _LONGEST else f"{curve.name[: _LONGEST - 1]}…"
    above = curve.points[0].y > axes.y[1]
    return f"{name} ({curve.points[0].y:.0f} dB)" if above else name


def _labelled_mark(curve: Series, text: str, x: float, y: float, box: Box) -> Svg:
    """The mark at (x, y) and a line that leads to its label in `box`."""
    right = box[0] > x
    edge, middle = (box[0] if right else box[2]), (box[1] + box[3]) / 2
    gap, end = (3, None) if right else (-3, "end")
    return tag(
        "g",
        tag("title", f"{curve.name}, {curve.points[0].note}"),
        tag("line", x1=x, y1=y, x2=edge, y2=middle, class_=f"lead {colour(curve.index)}"),
        mark(curve.index, x, y, passed=curve.points[0].passed, size=6),
        tag("text", text, x=edge + gap, y=middle + 4, class_=end),
    )


def _free(x: float, y: float, width: float, taken: Sequence[Box]) -> Box:
    """A place for a label of this width near (x, y): the nearest that overlaps nothing."""
    boxes = [_beside(x, y + down, width, right=right) for down, right in _PLACES]
    inside = [box for box in boxes if _inside(box)] or boxes
    free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
    return (free or inside)[0]


_DOWN = (0, -_LINE, _LINE, -2 * _LINE, 2 * _LINE, -3 * _LINE, 3 * _LINE, 4 * _LINE, -4 * _LINE)
_PLACES = list(product(_DOWN, (True, False)))


def _beside(x: float, y: float, width: float, *, right: bool) -> Box:
    left = x + 10 if right else x - 10 - width
    return left, y - _LINE / 2, left + width, y + _LINE / 2


def _inside(box: Box) -> bool:
    return (
        box[0] >= _AREA.left
        and box[2] <= WIDTH
        and box[1] >= _AREA.top - _LINE
        and box[3] <= _AREA.bottom
    )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
