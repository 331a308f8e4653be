"""Pictures to PNG files, with the parameters that made them inside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runtimes.bundle.write import atomic_file
from runtimes.errors import RunError

METADATA_KEY = "wuerstchen"


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(B,3,H,W) in 0..1 to (B,H,W,3) in 0..255, rounded as diffusers does."""
    return np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def save_png(picture: NDArray[np.uint8], path: Path, parameters: dict[str, Any]) -> None:
    """Write (H,W,3) as PNG; `parameters` go into a text chunk as JSON.

    All or nothing: an older picture stays where this one cannot be written (RunError).
    """
    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(parameters, ensure_ascii=False))
    with atomic_file(path) as file:
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
