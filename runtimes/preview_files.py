"""Previews of a command line's pictures, as PNG files in a folder."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.arguments import positive
from runtimes.bundle.atomic_file import check_writable
from runtimes.bundle.manifest import Manifest
from runtimes.errors import UsageError, reason_of
from runtimes.images import DIGITS, save_png
from runtimes.previews import GRAPH, OnPreview, preview_kind

_CELL = 8  # pixels of a cell in files: what the graph makes, and what a linear map is enlarged to


@dataclass(frozen=True)
class PreviewFiles:
    """Where a run's previews go: FOLDER/PICTURE-STEP.png, of each `every`-th step and the last.

    `kind` is what makes them, 'graph' or 'linear'; `digits` those of a picture's number.
    """

    folder: Path
    every: int
    kind: str
    digits: int

    def of(self, pictures: Sequence[tuple[int, dict[str, Any]]]) -> OnPreview:
        """For a batch: the number of each picture in the run, and what its files say of it."""

        def save(step: int, total: int, shown: NDArray[np.uint8]) -> None:
            # Not strict: a batch of fixed size may have spare pictures at its end.
            for (index, about), pixels in zip(pictures, shown, strict=False):
                name = f"{index:0{self.digits}}-{step:0{len(str(total))}}.png"
                said = about | {"preview": self.kind, "step": step, "steps": total}
                save_png(enlarged(pixels, self.kind), self.folder / name, said)

        return save

    def __str__(self) -> str:
        each = "each step" if self.every == 1 else f"each {self.every} steps and the last"
        rough = f", by a linear map, for the bundle has no graph '{GRAPH}'"
        return f"previews of {each} are in {self.folder}{rough if self.kind == 'linear' else ''}"

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {"folder": str(self.folder), "every": self.every, "kind": self.kind}


def enlarged(pixels: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """A preview (h,w,3) as it is shown: a linear map's cells are as large as the graph's."""
    if kind == "graph":
        return pixels
    height, width = (_CELL * side for side in pixels.shape[:2])
    bicubic = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((width, height), bicubic))


def add_preview_options(command_line: argparse.ArgumentParser) -> None:
    """`--previews` and `--preview-every`."""
    command_line.add_argument(
        "--previews",
        type=folder,
        metavar="DIR",
        help="write small pictures of what Stage C has made so far: DIR/000-05.png is the first "
        "picture after step 5. DIR is made if it is missing",
    )
    command_line.add_argument(
        "--preview-every",
        type=positive,
        metavar="N",
        help="previews of every N-th step and of the last (default: 1)",
    )


def folder(text: str) -> Path:
    """A folder's path, which names no file that is there."""
    path = Path(text)
    if not text or (path.exists() and not path.is_dir()):
        raise argparse.ArgumentTypeError(f"'{text}' is no folder")
    return path


def preview_files(
    args: argparse.Namespace, manifest: Manifest, pictures: int
) -> PreviewFiles | None:
    """Where previews go, the folder made; None where none are asked for.

    UsageError for a folder that cannot be written, and for a bundle that can make no previews.
    """
    if args.previews is None:
        if args.preview_every is not None:
            raise UsageError("--preview-every needs --previews DIR")
        return None
    kind = preview_kind(manifest, str(args.bundle))
    try:
        args.previews.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--previews {args.previews}: {reason_of(error)}") from None
    check_writable(args.previews / "preview.png", "--previews")
    digits = max(DIGITS, len(str(pictures - 1)))
    return PreviewFiles(args.previews, args.preview_every or 1, kind, digits)
