"""Pictures that pictures are made from: a folder's, or drawings of the demo's held-out scenes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.bundle.manifest import Model
from runtimes.errors import UsageError
from runtimes.pictures import PictureFile, fit, read_picture
from runtimes.start import Start, check_strength
from validation.demo.drawing import draw
from validation.quality.images import SUFFIXES
from validation.quality.prompts import Prompts

FIT = "crop"  # to the pictures' size, as the runtimes do it by default
_STREAM = b"starts"  # of the random numbers of the drawings


@dataclass(frozen=True)
class Starts:
    """A picture for each prompt, and the share of Stage C's steps that run from it."""

    strength: float
    source: str
    files: tuple[PictureFile, ...]

    def identity(self) -> dict[str, Any]:
        """What makes two sets of starts the same."""
        digest = hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()
        return {"strength": self.strength, "fit": FIT, "sha256": digest}

    def start(self, index: int, size: tuple[int, int]) -> Start:
        """What the run of prompt `index` starts from, at the size (height, width) it makes."""
        return Start(fit(self.files[index], FIT, *size)[None], self.strength)

    def pixels(self, index: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """The same picture (H,W,3) in 0..1."""
        return fit(self.files[index], FIT, *size).transpose(1, 2, 0)


def starts_for(
    model: Model, prompts: Prompts, strength: float | None, folder: Path | None
) -> Starts | None:
    """What the command line asks for; None without --strength.

    UsageError for a strength out of range, a folder that has not a picture for each prompt, and
    none where there are no scenes to draw.
    """
    if strength is None:
        if folder is not None:
            raise UsageError("--starts is of runs from pictures: give --strength")
        return None
    check_strength(strength)
    if folder is not None:
        return Starts(strength, folder.name, _files(folder, len(prompts.texts)))
    if not model.is_demo or prompts.scenes is None:
        raise UsageError(
            "give --starts DIR, a picture for each prompt: there are no scenes to draw"
        )
    rngs = [np.random.default_rng([index, *_STREAM]) for index in range(len(prompts.scenes))]
    drawn = [draw(scene, rng) for scene, rng in zip(prompts.scenes, rngs, strict=True)]
    return Starts(strength, "drawings of the scenes", tuple(map(_drawn, drawn)))


def _files(folder: Path, count: int) -> tuple[PictureFile, ...]:
    if not folder.is_dir():
        raise UsageError(f"--starts {folder} is no folder")
    paths: Sequence[Path] = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if len(paths) < count:
        raise UsageError(f"--starts {folder} holds {len(paths)} pictures for {count} prompts")
    return tuple(read_picture(path, "--starts") for path in paths[:count])


def _drawn(pixels: NDArray[np.uint8]) -> PictureFile:
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return PictureFile(Path(), digest, Image.fromarray(pixels))
