"""A series of pictures of one bundle, and the folder that keeps them: what is there is used again.

A picture is used again when it was made by the same bundle from the same prompt, seed and options
on the same kind of engine; all of that is in the PNG itself. Latents lie beside it.
"""

import dataclasses
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.manifest import DENOISERS, GRAPHS, MANIFEST_NAME
from runtimes.bundle.read import Bundle, sha256
from runtimes.engines.base import Execution, Tensors
from runtimes.errors import RunError, UsageError
from runtimes.images import read_parameters, save_png
from runtimes.plan import Options, check_static, make_plan
from runtimes.start import Start, check_picture_graphs, graphs_of_start
from validation.parity.graphs import graphs_for
from validation.quality.starts import Starts


@dataclass(frozen=True)
class Series:
    """Pictures of one bundle: picture i is prompt i with `seed` + i, alone in its batch.

    `starts`: a picture that each of them starts from.
    """

    bundle: Bundle
    prompts: tuple[str, ...]
    seed: int = 0
    options: Options = field(default_factory=Options)
    execution: Execution = field(default_factory=Execution)
    low_memory: bool = False
    starts: Starts | None = None

    def identity(self) -> dict[str, Any]:
        """What makes two series the same, but for their prompts."""
        model, execution = self.bundle.manifest.model, self.execution
        identity: dict[str, Any] = {
            "bundle": digest_of(self.bundle),
            "model": f"{model.id}@{model.revision}",
            "options": dataclasses.asdict(self.options) | {"seed": self.seed},
            "execution": [execution.engine, execution.device, execution.precision]
            + ([] if execution.threads is None else [execution.threads]),
        }
        if self.starts is not None:
            identity["starts"] = self.starts.identity()
        return json.loads(json.dumps(identity))  # as it reads back: lists for tuples

    def start(self, index: int) -> Start | None:
        """What picture `index` starts from."""
        if self.starts is None:
            return None
        plan = make_plan(self.bundle.manifest.sampling, self.options, 1, None)
        return self.starts.start(index, plan.sizes.picture)


@dataclass(frozen=True)
class Made:
    """A picture (H,W,3), and the last latents (C,h,w) of each denoiser, before they are on disk."""

    pixels: NDArray[np.uint8]
    latents: Tensors
    seconds: float
    placements: dict[str, str]


@dataclass(frozen=True)
class Picture:
    """A picture on disk; `seconds` is the time of its graphs, without loading them."""

    path: Path
    prompt: str
    seed: int
    seconds: float
    placements: dict[str, str]

    def pixels(self) -> NDArray[np.uint8]:
        """(H,W,3)."""
        with Image.open(self.path) as image:
            return np.asarray(image.convert("RGB"))

    def latents(self) -> dict[str, NDArray[np.float32]]:
        """The last latents of each denoiser, (C,h,w)."""
        with np.load(_latents_path(self.path)) as arrays:
            return {name: arrays[name] for name in DENOISERS}


@dataclass(frozen=True)
class Album:
    """The folder that a series' pictures are kept in; a kill loses the one being written."""

    series: Series
    folder: Path

    def path(self, index: int) -> Path:
        """Where picture `index` is, or is to be."""
        return self.folder / f"{index:05}.png"

    def kept(self, index: int, identity: dict[str, Any]) -> Picture | None:
        """Picture `index` if it is whole, None where it is to be made.

        `identity` is the series' (it hashes the manifest: once for all pictures). UsageError when
        a picture there is another one's; it stays as it is.
        """
        path = self.path(index)
        try:
            parameters = read_parameters(path)
            with np.load(_latents_path(path)) as latents:
                whole = set(DENOISERS) <= set(latents.files)
        except (OSError, ValueError, RunError, UnidentifiedImageError, zipfile.BadZipFile):
            return None  # not there, or cut off by a full disk or a power cut
        for key, value in (identity | self._own(index)).items():
            if parameters.get(key) != value:
                raise UsageError(
                    f"{path} was made with another {key} ({parameters.get(key)!r}, now {value!r}); "
                    "choose another folder"
                )
        if not whole:
            return None
        seconds, placements = float(parameters["seconds"]), dict(parameters["placements"])
        return Picture(path, parameters["prompt"], parameters["seed"], seconds, placements)

    def keep(self, index: int, made: Made, identity: dict[str, Any]) -> Picture:
        """Write picture `index` with what made it; the PNG last, for it says that both are there.

        RunError when it cannot be written.
        """
        path, own = self.path(index), self._own(index)
        _save_latents(made.latents, _latents_path(path))
        measured = {"seconds": made.seconds, "placements": made.placements}
        save_png(made.pixels, path, identity | own | measured)
        return Picture(path, own["prompt"], own["seed"], made.seconds, made.placements)

    def count(self) -> int:
        """How many of the series' pictures are there, by their names."""
        return sum(self.path(index).exists() for index in range(len(self.series.prompts)))

    def _own(self, index: int) -> dict[str, Any]:
        return {"prompt": self.series.prompts[index], "seed": self.series.seed + index}


def digest_of(bundle: Bundle) -> str:
    """SHA-256 of the manifest, which has that of every file."""
    return sha256(bundle.folder / MANIFEST_NAME)


def check(series: Series) -> None:
    """UsageError for options, sizes or engines the bundle cannot serve, before any work.

    RunError for a bundle that is not whole.
    """
    manifest = series.bundle.manifest
    for name in GRAPHS:
        if name != "decoder_text_encoder" or name in manifest.text_graphs.values():
            series.bundle.graph(name)
    plan = make_plan(manifest.sampling, series.options, 1, None)
    check_static(manifest, plan, 1)
    if series.starts is not None:
        check_picture_graphs(manifest, graphs_of_start(masked=False))
    graphs_for(series.bundle, series.execution)


def _latents_path(picture: Path) -> Path:
    return picture.with_suffix(".npz")


def _save_latents(latents: Tensors, path: Path) -> None:
    with atomic_file(path) as file:
        np.savez(file, **latents)  # type: ignore[arg-type]
