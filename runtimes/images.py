"""Pictures to PNG files: their names, and the parameters that made them inside."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runtimes.bundle.atomic_file import atomic_file, check_writable
from runtimes.bundle.host import PICTURE
from runtimes.errors import RunError, UsageError

METADATA_KEY = "wuerstchen"
DIGITS = 3  # at least, so that the names of one run sort as its pictures do


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(B,3,H,W) in 0..1 to (B,H,W,3) in 0..255, rounded as diffusers does."""
    return np.rint(images.transpose(0, 2, 3, 1) * PICTURE.scale).astype(np.uint8)


def save_png(picture: NDArray[np.uint8], path: Path, parameters: dict[str, Any]) -> None:
    """Write (H,W,3) as PNG; `parameters` go into a text chunk as JSON.

    All or nothing: an older picture stays where this one cannot be written (RunError).
    """
    with atomic_file(path) as file:
        _write(picture, file, parameters)


def png_bytes(picture: NDArray[np.uint8], parameters: dict[str, Any] | None = None) -> bytes:
    """(H,W,3) as a PNG file's bytes, with `parameters` as `save_png` has them, or without any."""
    file = io.BytesIO()
    _write(picture, file, parameters)
    return file.getvalue()


def _write(picture: NDArray[np.uint8], file: BinaryIO, parameters: dict[str, Any] | None) -> None:
    info = PngInfo()
    if parameters is not None:
        info.add_itxt(METADATA_KEY, json.dumps(parameters, ensure_ascii=False))
    Image.fromarray(picture).save(file, format="PNG", pnginfo=info)


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters a picture was made with; RunError when it carries none."""
    with Image.open(path) as image:
        image.load()
        text = getattr(image, "text", {}).get(METADATA_KEY)
    if text is None:
        raise RunError(f"{path} carries no '{METADATA_KEY}' parameters")
    parameters: dict[str, Any] = json.loads(text)
    return parameters


def picture_paths(output: Path, count: int) -> list[Path]:
    """`output` for one picture, else out-000.png, out-001.png, ...; UsageError where that fails."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output}: pictures are PNG files, end the name in .png")
    digits = max(DIGITS, len(str(count - 1)))
    names = [f"{output.stem}-{index:0{digits}}{output.suffix}" for index in range(count)]
    paths = [output] if count == 1 else [output.with_name(name) for name in names]
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: the folder {output.absolute().parent} does not exist")
    for path in (output, *paths):
        if path.is_dir():
            raise UsageError(f"--output {output}: {path} is a folder; give another file name")
    check_writable(paths[-1], "--output")
    return paths


def is_there(path: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether `path` holds, whole, the picture that `parameters` make.

    A file that is cut off is none. UsageError for another picture, which nobody may lose.
    """
    try:
        there = read_parameters(path)
    except RunError as error:
        raise UsageError(f"--skip-existing: {error}; choose another --output") from None
    except (OSError, ValueError, SyntaxError):  # Pillow's, for files that are cut off
        return False
    for key, value in json.loads(json.dumps(parameters)).items():
        if there.get(key) != value:
            raise UsageError(
                f"--skip-existing: {path} was made with another {key} ({there.get(key)!r}, now "
                f"{value!r}); choose another --output, or leave --skip-existing out to replace it"
            )
    return True
