"""The SVG writer: elements as text, axes from values to drawing coordinates, round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WITHOUT_CHILDREN = ("line", "path", "polyline", "rect")


class Svg(str):
    """Markup that goes into a drawing, or through Jinja2's autoescape, as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """What autoescape asks of text that is markup already."""
        return self


def tag(element: str, /, *children: str, **attributes: str | float | None) -> Svg:
    """One element. `class_` is the class; '_' in other names is '-'; None is left out.

    Children that are no `Svg` are escaped, attributes always.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if element in _WITHOUT_CHILDREN:
        return Svg(f"<{element}{written}/>")
    return Svg(f"<{element}{written}>{join(*children)}</{element}>")


def join(*children: str) -> Svg:
    """Elements and text one after the other; what is no `Svg` is escaped."""
    parts = (c if isinstance(c, Svg) else escape(c, quote=False) for c in children)
    return Svg("".join(parts))


def _attribute(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value), quote=True)


@dataclass(frozen=True)
class Area:
    """The part of a drawing that values lie in, in drawing units; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Axes:
    """Where values lie in the drawing: the least and the greatest of each axis.

    `logarithmic`: x by its logarithm; its range is in values all the same.
    """

    area: Area
    x: tuple[float, float]
    y: tuple[float, float]
    logarithmic: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Drawing coordinates; values beyond the axes, infinite ones too, stay at their edge."""
        low, high = self.x
        if self.logarithmic:
            x, low, high = math.log(x), math.log(low), math.log(high)
        across = _share(x, low, high) * (self.area.right - self.area.left)
        up = _share(y, *self.y) * (self.area.bottom - self.area.top)
        return self.area.left + across, self.area.bottom - up


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0), 1)


def grid(axes: Axes, x_values: Sequence[float], y_values: Sequence[float], *, upright: bool) -> Svg:
    """Lines across at the y values, `upright` ones at the x values too; both are labelled."""
    area, parts = axes.area, []
    for value in y_values:
        y = axes.at(axes.x[0], value)[1]
        parts.append(tag("line", x1=area.left, y1=y, x2=area.right, y2=y, class_="grid"))
        parts.append(tag("text", f"{value:g}", x=area.left - 6, y=y + 4, class_="end"))
    for value in x_values:
        x = axes.at(value, axes.y[0])[0]
        if upright:
            parts.append(tag("line", x1=x, y1=area.top, x2=x, y2=area.bottom, class_="grid"))
        parts.append(tag("text", f"{value:g}", x=x, y=area.bottom + 18, class_="middle"))
    return join(*parts)


def round_values(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between two: steps of 1, 2 or 5 times a power of ten, some `most` of them."""
    rough = (high - low) / most or 1
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def round_logarithmic(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two; where those are too few, round values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) > 2 else round_values(low, high)
