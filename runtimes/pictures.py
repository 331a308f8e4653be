"""Picture files as runs read them: opened as a viewer shows them, fitted to a size, resized.

There is one filter, bilinear with antialiasing, of float values: what Pillow computes in mode "F"
and PyTorch as `interpolate(mode="bilinear", antialias=True)`.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from runtimes.errors import UsageError, one_line, reason_of

Array = NDArray[np.float32]
# How a picture of other proportions gets its size: cut at two sides, white at two, or distorted.
FITS = ("crop", "pad", "stretch")
# What people have. Pillow reads more, some of it by starting other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP")
_MOST_BYTES = 500_000_000  # more than as many pixels as Pillow takes have in any of these
_WHITE = 255.0
_SIXTEEN_BITS = 65_535


@dataclass(frozen=True)
class PictureFile:
    """A picture as it is shown: upright, on white, without alpha.

    `image` has mode RGB, or F where the file has 16 bits of grey, both 0..255. `sha256` is the
    file's.
    """

    path: Path
    sha256: str
    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, upright."""
        return self.image.height, self.image.width


def read_picture(path: Path, option: str) -> PictureFile:
    """The picture in a file, of several frames the first; colour profiles are not applied.

    `option` is what messages call it. Raises UsageError for a file that cannot be read, is no
    picture, ends too soon, or has more pixels than Pillow's limit against decompression bombs.
    """
    data = _bytes(path, option)
    try:
        with warnings.catch_warnings():
            # Pillow warns of pictures beyond its limit, and refuses those of twice as many pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # of metadata, on stderr
            image = _shown(_opened(data))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UsageError(
            f"{option} {path} has more pixels than the {Image.MAX_IMAGE_PIXELS:,} that are read; "
            "make it smaller first"
        ) from None
    except UnidentifiedImageError:
        raise UsageError(
            f"{option} {path} is no picture of a kind that is read here; save it as PNG or JPEG "
            f"({', '.join(FORMATS)} are read)"
        ) from None
    except MemoryError:
        raise UsageError(f"{option} {path} is larger than the memory that is free") from None
    except Exception as error:  # whatever the parsers of a dozen formats make of a damaged file
        raise UsageError(f"{option} {path} is damaged: {one_line(error)}") from None
    return PictureFile(path, hashlib.sha256(data).hexdigest(), image)


def fit(picture: PictureFile, how: str, height: int, width: int) -> Array:
    """The picture at `height` x `width` pixels: fp32 (3,H,W) in 0..1.

    `how` is one of FITS. 'crop' scales it to cover the size and cuts off what is too much at both
    ends alike; 'pad' scales it to fit inside, and the rest is white; 'stretch' changes its
    proportions.
    """
    bilinear = Image.Resampling.BILINEAR
    bands = picture.image.split()
    planes = [_placed(band.convert("F"), how, height, width, bilinear) for band in bands]
    pixels = np.stack(planes * (3 // len(planes))) / np.float32(_WHITE)
    return np.clip(pixels, 0, 1)


def read_mask(path: Path, option: str, picture: PictureFile) -> PictureFile:
    """A mask for a picture, read as grey: white is to be made anew, black to be kept.

    Mode F, 0 below the middle grey and 255 from there on. Raises as `read_picture`, and UsageError
    for another size than the picture's.
    """
    mask = read_picture(path, option)
    if mask.size != picture.size:
        raise UsageError(
            f"{option} {path} has {mask.size[0]} x {mask.size[1]} pixels (height x width) and "
            f"{picture.path} has {picture.size[0]} x {picture.size[1]}; give a mask of that size"
        )
    grey = np.asarray(mask.image if mask.image.mode == "F" else mask.image.convert("L"))
    white = np.where(grey >= _WHITE / 2, np.float32(_WHITE), np.float32(0))
    return PictureFile(path, mask.sha256, Image.fromarray(white))


def fit_mask(mask: PictureFile, how: str, height: int, width: int) -> NDArray[np.bool_]:
    """(H,W), fitted as its picture: a pixel is True where any of the mask's pixels in it is white.

    What 'pad' adds is white, too: it is no part of the picture that could be kept.
    """
    # Each of the mask's pixels counts in one of the result: thin lines are not lost.
    return _placed(mask.image, how, height, width, Image.Resampling.BOX) > 0


def resized(pixels: Array, height: int, width: int) -> Array:
    """(...,H,W) at another size, every plane by itself; values of any range, fp32."""
    planes = pixels.reshape(-1, *pixels.shape[-2:]).astype(np.float32, copy=False)
    size, bilinear = (width, height), Image.Resampling.BILINEAR
    parts = [np.asarray(Image.fromarray(plane).resize(size, bilinear)) for plane in planes]
    return np.stack(parts).reshape(*pixels.shape[:-2], height, width)


def _bytes(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:  # a pipe is one, too
            data = file.read(_MOST_BYTES + 1)
    except IsADirectoryError:
        raise UsageError(f"{option} {path} is a folder; give a picture in it") from None
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {reason_of(error)}") from None
    if not data:
        raise UsageError(f"{option} {path} is empty")
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{option} {path} has more than {_MOST_BYTES // 1_000_000} MB")
    return data


def _opened(data: bytes) -> Image.Image:
    Image.init()  # or formats that this Pillow was built without are an error of their own
    image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    # What another thread does with warnings may have undone that Pillow's is an error.
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    image.load()
    return image


def _shown(image: Image.Image) -> Image.Image:
    """Upright, on white, in RGB or, of 16 bits of grey, F in 0..255."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # I;16 and its orders of bytes; I in older versions
        values = np.asarray(upright).astype(np.float32)
        return Image.fromarray(values * np.float32(_WHITE / _SIXTEEN_BITS))
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _placed(
    band: Image.Image, how: str, height: int, width: int, resample: Image.Resampling
) -> Array:
    """A band of mode F at the size asked for, (H,W); white where there is no picture."""
    if how not in FITS:
        raise UsageError(f"a picture cannot be fitted by '{how}'; there are {', '.join(FITS)}")
    if how == "crop":
        box = _cover(band.size, (width, height))
        return np.asarray(band.resize((width, height), resample, box=box))
    if how == "stretch":
        return np.asarray(band.resize((width, height), resample))
    inner = _inside(band.size, (width, height))
    plane = np.full((height, width), _WHITE, np.float32)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    plane[top : top + inner[1], left : left + inner[0]] = np.asarray(band.resize(inner, resample))
    return plane


def _cover(have: tuple[int, int], want: tuple[int, int]) -> tuple[float, float, float, float]:
    """The middle of a picture that has the proportions wanted: left, top, right, bottom."""
    scale = max(wanted / side for side, wanted in zip(have, want, strict=True))
    # Not beyond the picture by a rounding.
    sides = [min(wanted / scale, side) for side, wanted in zip(have, want, strict=True)]
    left, top = ((side - part) / 2 for side, part in zip(have, sides, strict=True))
    return left, top, left + sides[0], top + sides[1]


def _inside(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """The size with a picture's proportions, to the pixel, that fits into what is wanted."""
    scale = min(wanted / side for side, wanted in zip(have, want, strict=True))
    width, height = (max(1, round(side * scale)) for side in have)
    return width, height
