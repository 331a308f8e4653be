"""Line charts and scatter plots as inline SVG, coloured by the page's style sheet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from validation.report.marks import colour, mark
from validation.report.markup import Html, join, tag

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 14, 30, 44
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


@dataclass(frozen=True)
class Axes:
    """Where data values lie in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Drawing coordinates; values beyond the axes stay at their edge."""
        across = _share(x, self.x) * (WIDTH - _LEFT - _RIGHT)
        down = (1 - _share(y, self.y)) * (HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _TOP + down


def line_chart(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> Html:
    """One line per series over steps 1, 2, ...; dashed lines at the limits.

    Beside lossy variants, those of fp32 are far above: the axis ends before, and a line says so.
    """
    last = max(point.x for one in series for point in one.points)
    axes = Axes((1, max(last, 2)), _decibels(series, limits=True))
    shown = [one for one in series if min(point.y for point in one.points) <= axes.y[1]]
    ticks = [value for value in _ticks(1, last) if value == int(value)] or [1.0]
    inside = [*_limit_lines(axes, shown), *[_line(axes, one) for one in shown]]
    above = [_above(one) for one in series if one not in shown]
    return join(_chart(title, x_name, y_name, axes, ticks, inside), *above)


def scatter(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> Html:
    """One labelled mark per series, on an x axis from 0; what is above the axis is at its top."""
    axes = Axes((0, 1.12 * max(one.points[0].x for one in series)), _decibels(series, limits=False))
    return _chart(title, x_name, y_name, axes, _ticks(*axes.x), _labelled(axes, series))


def _share(value: float, span: tuple[float, float]) -> float:
    return min(max((value - span[0]) / (span[1] - span[0]), 0), 1)


def _decibels(series: Sequence[Series], *, limits: bool) -> tuple[float, float]:
    """The y axis: multiples of ten around the lossy series, or around all if none is lossy."""
    chosen = [one for one in series if one.lossy] or series
    values = [p.y for one in chosen for p in one.points]
    values += [one.limit for one in chosen] if limits else []
    found = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = math.floor((min(found) - 2) / 10) * 10, math.ceil((max(found) + 2) / 10) * 10
    return float(max(low, 0)), float(max(high, low + _LEAST_SPAN))


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round values between two."""
    rough = (high - low) / 6 or 1
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _chart(
    title: str, x_name: str, y_name: str, axes: Axes, ticks: Sequence[float], inside: Sequence[Html]
) -> Html:
    return tag(
        "svg",
        tag("title", title),
        tag("text", y_name, x=4, y=16, class_="axis"),
        *[_y_tick(axes, value) for value in _ticks(*axes.y)],
        *[_x_tick(axes, value) for value in ticks],
        tag("text", x_name, x=WIDTH - _RIGHT, y=HEIGHT - 6, class_="axis end"),
        *inside,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


def _y_tick(axes: Axes, value: float) -> Html:
    y = axes.at(axes.x[0], value)[1]
    return join(
        tag("line", x1=_LEFT, y1=y, x2=WIDTH - _RIGHT, y2=y, class_="grid"),
        tag("text", f"{value:g}", x=_LEFT - 6, y=y + 4, class_="end"),
    )


def _x_tick(axes: Axes, value: float) -> Html:
    x = axes.at(value, axes.y[0])[0]
    return tag("text", f"{value:g}", x=x, y=HEIGHT - _BOTTOM + 18, class_="middle")


def _limit_lines(axes: Axes, series: Sequence[Series]) -> Iterator[Html]:
    """A dashed line per limit; names of limits that are close to each other stand side by side."""
    x, before = 0.0, -math.inf
    for limit in sorted({one.limit for one in series if one.limit <= axes.y[1]}, reverse=True):
        y = axes.at(axes.x[0], limit)[1]
        x = x + 88 if y - before < _LINE and x < 176 else _LEFT + 6
        before = y
        names = ", ".join(one.name for one in series if one.limit == limit)
        yield tag(
            "g",
            tag("title", f"limit of {names}"),
            tag("line", x1=_LEFT, y1=y, x2=WIDTH - _RIGHT, y2=y, class_="limit"),
            tag("text", f"limit {limit:.0f}", x=x, y=y - 3, class_="limit"),
        )


def _line(axes: Axes, series: Series) -> Html:
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


def _above(series: Series) -> Html:
    least = min(point.y for point in series.points)
    text = f"{series.name} is above: {least:.1f} dB or more (limit {series.limit:.0f})"
    return tag("p", text, class_="above")


def _labelled(axes: Axes, series: Sequence[Series]) -> list[Html]:
    """Marks with their names, each where it covers no other mark or name."""
    places = {one.index: axes.at(one.points[0].x, one.points[0].y) for one in series}
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in places.values()]
    found = []
    for one in series:
        point, (x, y) = one.points[0], places[one.index]
        text = one.name if len(one.name) <= _LONGEST else f"{one.name[: _LONGEST - 1]}…"
        text += "" if point.y <= axes.y[1] else f" ({point.y:.0f} dB)"
        box = _free(x, y, _LETTER * len(text), taken)
        taken.append(box)
        right = box[0] > x
        edge, middle = (box[0] if right else box[2]), (box[1] + box[3]) / 2
        found.append(
            tag(
                "g",
                tag("title", f"{one.name}, {point.note}"),
                tag("line", x1=x, y1=y, x2=edge, y2=middle, class_=f"lead {colour(one.index)}"),
                mark(one.index, x, y, passed=point.passed, size=6),
                tag("text", text, x=edge + (3 if right else -3), y=middle + 4,
                    class_=None if right else "end"),
            )
        )  # fmt: skip
    return found


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
        box[0] >= _LEFT
        and box[2] <= WIDTH
        and box[1] >= _TOP - _LINE
        and box[3] <= HEIGHT - _BOTTOM
    )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
