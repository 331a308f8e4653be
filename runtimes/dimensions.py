"""The named dimensions of a graph's tensors: how a manifest spells them, and what they come to.

A dimension is a number, or a name for what may change from run to run, alone, times or over a whole
number: 77, 'batch', '4*height', 'height/4'. Names and spelling are part of the bundle's format.
"""

import re
from collections.abc import Mapping

from runtimes.bundle.manifest import Tensor
from runtimes.sizes import Sizes

BATCH = "batch"
HEIGHT, WIDTH = "height", "width"  # of the latents that a graph takes
# Of the image embedding, Stage C's latents, where a graph takes both.
EMBEDDING_HEIGHT, EMBEDDING_WIDTH = "embedding_height", "embedding_width"

_SPELLING = re.compile(r"(?:(\d+)\*)?([a-z_]+)(?:/(\d+))?")


def times(factor: int, name: str) -> str:
    """A multiple of a named size."""
    return f"{factor}*{name}"


def over(name: str, divisor: int) -> str:
    """A fraction of a named size, which is a multiple of `divisor`."""
    return f"{name}/{divisor}" if divisor > 1 else name


def parse_dimension(dimension: str) -> tuple[int, str, int]:
    """Factor, name and divisor: '4*height' -> (4, 'height', 1), 'height/4' -> (1, 'height', 4).

    Raises ValueError for another spelling.
    """
    match = _SPELLING.fullmatch(dimension)
    if match is None:
        raise ValueError(f"'{dimension}' is no dimension such as 'batch', '4*height' or 'height/4'")
    return int(match[1] or 1), match[2], int(match[3] or 1)


def shape_at(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A tensor's shape where its named dimensions have the given sizes; KeyError for an unknown."""

    def number(dimension: int | str) -> int:
        if isinstance(dimension, int):
            return dimension
        factor, name, divisor = parse_dimension(dimension)
        return sizes[name] * factor // divisor

    return tuple(number(dimension) for dimension in tensor.shape)


def sizes_at(graph: str, rows: int, picture: Sizes) -> dict[str, int]:
    """Every named size in a run of a graph with `rows` rows of its batch, for one picture size."""
    height, width = picture.latent(graph)
    return {
        BATCH: rows,
        HEIGHT: height,
        WIDTH: width,
        EMBEDDING_HEIGHT: picture.stage_c[0],
        EMBEDDING_WIDTH: picture.stage_c[1],
    }
