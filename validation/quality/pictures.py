"""Pictures of a bundle, one prompt at a time, kept in a folder and used again.

A kill loses the picture being made and no other. A picture is used again when it was made by the
same bundle from the same prompt, seed and options on the same kind of engine; all of that is in
the PNG itself. Latents lie beside it.
"""

import dataclasses
import json
import zipfile
from collections.abc import Callable
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
from runtimes.pipeline import Pipeline, Result, load_tokenizers
from runtimes.plan import Options, check_static, make_plan
from runtimes.start import Start, check_picture_graphs, graphs_of_start
from validation.parity.graphs import graphs_for
from validation.quality.folder import make_folder
from validation.quality.starts import Starts

OnPicture = Callable[[str, int, int], None]  # what, pictures there, pictures in all


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


def pictures_of(
    series: Series, folder: Path, on_picture: OnPicture = lambda what, done, total: None
) -> list[Picture]:
    """The series' pictures: those that `folder` has, and the rest, made now.

    UsageError when a picture there is another one's; it stays as it is.
    """
    bundle, count = series.bundle, len(series.prompts)
    paths = [folder / f"{index:05}.png" for index in range(count)]
    kept = [_kept(series, index, path) for index, path in enumerate(paths)]
    if None not in kept:
        return [picture for picture in kept if picture is not None]
    make_folder(folder)
    pictures = []
    pipeline = Pipeline(
        bundle.manifest,
        graphs_for(bundle, series.execution),
        load_tokenizers(bundle),
        low_memory=series.low_memory,
    )
    with pipeline:
        for index, path in enumerate(paths):
            pictures.append(kept[index] or _make(pipeline, series, index, path))
            on_picture(folder.name, index + 1, count)
    return pictures


def _make(pipeline: Pipeline, series: Series, index: int, path: Path) -> Picture:
    last: Tensors = {}

    def keep(name: str, tensors: Tensors) -> None:
        graph = name.partition("/")[0]
        if graph in DENOISERS:
            last[graph] = tensors["latents"][0]

    options = dataclasses.replace(series.options, seed=series.seed + index)
    start = _start(series, index)
    result = pipeline([series.prompts[index]], options=options, on_tensors=keep, start=start)
    # Without a step there are no latents after one: the picture's own are where Stage C ends.
    last.setdefault("stage_c", result.latents[0])
    _save_latents(last, _latents_path(path))
    seconds = seconds_of(result)
    placements = {name: str(used) for name, used in result.placements.items()}
    measured = {"seconds": seconds, "placements": placements}
    save_png(result.pictures[0], path, _parameters(series, index) | measured)
    return Picture(path, series.prompts[index], series.seed + index, seconds, placements)


def _start(series: Series, index: int) -> Start | None:
    if series.starts is None:
        return None
    plan = make_plan(series.bundle.manifest.sampling, series.options, 1, None)
    return series.starts.start(index, plan.sizes.picture)


def seconds_of(result: Result) -> float:
    """Seconds in the graphs of a run and between them, without loading."""
    return sum(usage.seconds - usage.load_seconds for usage in result.usage.values())


def _parameters(series: Series, index: int) -> dict[str, Any]:
    return series.identity() | {"prompt": series.prompts[index], "seed": series.seed + index}


def _kept(series: Series, index: int, path: Path) -> Picture | None:
    """The picture at `path` if it is whole, None where it is to be made."""
    try:
        parameters = read_parameters(path)
        with np.load(_latents_path(path)) as latents:
            whole = set(DENOISERS) <= set(latents.files)
    except (OSError, ValueError, RunError, UnidentifiedImageError, zipfile.BadZipFile):
        return None  # not there, or cut off by a full disk or a power cut
    for key, value in _parameters(series, index).items():
        if parameters.get(key) != value:
            raise UsageError(
                f"{path} was made with another {key} ({parameters.get(key)!r}, now {value!r}); "
                "choose another folder"
            )
    if not whole:
        return None
    return Picture(
        path,
        parameters["prompt"],
        parameters["seed"],
        float(parameters["seconds"]),
        dict(parameters["placements"]),
    )


def _latents_path(picture: Path) -> Path:
    return picture.with_suffix(".npz")


def _save_latents(latents: Tensors, path: Path) -> None:
    with atomic_file(path) as file:
        np.savez(file, **latents)  # type: ignore[arg-type]
