"""From picture size to latent sizes, and which sizes the stages can make."""

import math
from collections.abc import Iterator

from runtimes.bundle.host import Sizes
from runtimes.bundle.manifest import Sampling
from runtimes.errors import UsageError

__all__ = ["Sizes", "nearest_valid", "sizes", "valid_sides"]


def sizes(height: int, width: int, sampling: Sampling) -> Sizes:
    """Latent sizes of a picture asked for as height x width pixels.

    The picture made may differ a little from what was asked for, as in diffusers: sizes go
    through two roundings. Raises UsageError where Stage B's down and up path does not close,
    naming the nearest sizes at which it does.
    """
    sides = [
        _side(pixels, name, sampling) for pixels, name in ((height, "height"), (width, "width"))
    ]
    (ch, bh, ph), (cw, bw, pw) = sides
    return Sizes((ch, cw), (bh, bw), (ph, pw))


def _side(pixels: int, name: str, sampling: Sampling) -> tuple[int, int, int]:
    if pixels < 1:
        raise UsageError(f"--{name} is {pixels}; it must be at least 1 pixel")
    cells = math.ceil(pixels / sampling.resolution_multiple)
    latent = int(cells * sampling.latent_dim_scale)
    if latent % sampling.stage_b_multiple or latent == 0:
        raise UsageError(
            f"--{name} {pixels} gives Stage B a latent side of {latent}, no multiple of "
            f"{sampling.stage_b_multiple}; {_nearest(name, nearest_valid(cells, sampling))}"
        )
    return cells, latent, latent * sampling.stage_a_scale


def _nearest(name: str, valid: list[int]) -> str:
    match valid:
        case []:
            return f"no {name} is valid: this checkpoint's stages do not fit together"
        case [size]:
            return f"the nearest valid {name} is {size}"
        case _:
            return f"the nearest valid {name}s are {' and '.join(map(str, valid))}"


def pixels_for(cells: int, sampling: Sampling) -> int:
    """The largest picture side to ask for, in pixels, that has so many cells of Stage C."""
    pixels = math.floor(cells * sampling.resolution_multiple)
    # The product of two floats may be a hair above the whole number that it stands for.
    return pixels - (math.ceil(pixels / sampling.resolution_multiple) > cells)


def valid_sides(sampling: Sampling, most: int) -> Iterator[int]:
    """The picture sides up to `most` pixels that come out as they were asked for, ascending."""
    for cells in range(1, math.ceil(most / sampling.resolution_multiple) + 1):
        latent = int(cells * sampling.latent_dim_scale)
        made = latent * sampling.stage_a_scale
        asked_as = math.ceil(made / sampling.resolution_multiple)
        if (
            latent
            and latent % sampling.stage_b_multiple == 0
            and asked_as == cells
            and made <= most
        ):
            yield made


def nearest_valid(cells: int, sampling: Sampling) -> list[int]:
    """The closest valid picture sides, in pixels, below and above `cells` of Stage C."""

    def closes(n: int) -> bool:
        latent = int(n * sampling.latent_dim_scale)
        return latent > 0 and latent % sampling.stage_b_multiple == 0

    # A multiple of Stage B's side is met within this many cells of Stage C, whatever the ratio.
    reach = 64 * sampling.stage_b_multiple
    below = next((n for n in range(cells - 1, 0, -1) if closes(n)), None)
    above = next((n for n in range(cells + 1, cells + reach) if closes(n)), None)
    return [int(n * sampling.resolution_multiple) for n in (below, above) if n is not None]
