"""Reference images: a folder of PNG or JPEG files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from runtimes.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg")


def image_paths(folder: Path) -> tuple[Path, ...]:
    """The images of a folder by name; UsageError for fewer than two."""
    if not folder.is_dir():
        raise UsageError(f"--images {folder} is no folder")
    images = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES))
    if len(images) < 2:
        kinds = ", ".join(SUFFIXES)
        raise UsageError(f"--images {folder} holds {len(images)} images ({kinds}); two at least")
    return images


def check_images(folder: Path, size: tuple[int, int]) -> None:
    """UsageError for an image that is not (height, width) = `size`.

    Features depend on how images are resized; that is not done here, unseen.
    """
    for path in image_paths(folder):
        image = image_size(path)
        if image != size:
            wanted, actual = ("{} x {}".format(*pair) for pair in (size, image))
            raise UsageError(
                f"--images: {path} is {actual} pixels (height x width), the pictures are {wanted}; "
                "bring all images to that size first"
            )


def image_size(path: Path) -> tuple[int, int]:
    """(height, width); UsageError for a file that is no image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"--images: {path} cannot be read as an image: {error}") from None


def pixels_of(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Each image (H,W,3)."""
    for path in image_paths(folder):
        with Image.open(path) as image:
            yield np.asarray(image.convert("RGB"))
