"""Pictures and difference maps as data URIs."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.images import to_uint8

# A map is at full scale where a channel is off by a sixteenth of its range: 16 of 255 levels is
# what anyone sees, and a single level can still be told from none.
AMPLIFIED = 16
# From nothing to full scale, dark to bright in even steps of lightness.
_SCALE = np.array(
    [(12, 10, 24), (74, 20, 98), (153, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 190)],
    np.float32,
)


def picture_uri(image: NDArray[np.float32]) -> str:
    """A picture (3,H,W) in 0..1 as PNG."""
    return _png(to_uint8(image[None])[0])


def difference_uri(image: NDArray[np.float32], reference: NDArray[np.float32]) -> str:
    """Where two pictures (3,H,W) differ: each pixel's worst channel, amplified, as PNG."""
    return _png(difference_map(image, reference))


def difference_map(image: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H,W,3): the colour of AMPLIFIED times the largest absolute difference of the channels."""
    values = np.abs(image - reference).max(axis=0) * AMPLIFIED
    return _coloured(np.minimum(values, 1))


def scale_uri() -> str:
    """The colours of a difference map from none to full scale, left to right."""
    return _png(_coloured(np.linspace(0, 1, 64, dtype=np.float32)[None]))


def _coloured(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    places = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(values, places, _SCALE[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
