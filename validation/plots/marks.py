"""The marks of all plots: shapes, so that colour is not all that tells them apart."""

from collections.abc import Callable

from validation.plots.svg import Svg, tag

COLOURS = 8  # of the report's style sheet; with five shapes, forty variants look different


def mark(index: int, x: float, y: float, *, passed: bool = True, size: float = 4) -> Svg:
    """The mark of the report's variant at place `index`; a cross where it fails a limit."""
    path = outline(index, x, y, size) if passed else _cross(x, y, size)
    state = "" if passed else " failed"
    return tag("path", d=path, class_=f"mark {colour(index)}{state}")


def swatch(index: int) -> Svg:
    """The mark to stand beside the variant's name, which says it already."""
    drawn = mark(index, 7, 7, size=5)
    return tag("svg", drawn, viewBox="0 0 14 14", class_="swatch", aria_hidden="true")


def colour(index: int) -> str:
    """The style sheet's class of a variant's colour."""
    return f"s{index % COLOURS + 1}"


def outline(shape: int, x: float, y: float, radius: float) -> str:
    """The path of a shape around (x, y); there are five, which repeat."""
    return _SHAPES[shape % len(_SHAPES)](x, y, radius)


# The factors make shapes of one radius look equally large.
def _disc(x: float, y: float, r: float) -> str:
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"


def _square(x: float, y: float, r: float) -> str:
    return f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z"


def _triangle(x: float, y: float, r: float) -> str:
    return f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z"


def _diamond(x: float, y: float, r: float) -> str:
    s = 1.3 * r
    return f"M{x:.1f} {y - s:.1f}l{s:.1f} {s:.1f}l{-s:.1f} {s:.1f}l{-s:.1f} {-s:.1f}z"


def _turned(x: float, y: float, r: float) -> str:
    return f"M{x:.1f} {y + 1.2 * r:.1f}l{1.2 * r:.1f} {-2.1 * r:.1f}h{-2.4 * r:.1f}z"


def _cross(x: float, y: float, r: float) -> str:
    return f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}"


_SHAPES: tuple[Callable[[float, float, float], str], ...] = (
    _disc,
    _square,
    _triangle,
    _diamond,
    _turned,
)
