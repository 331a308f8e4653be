"""Run one cell: pictures of one or two bundles, their figures and times, kept when finished."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.bundle.read import Bundle
from runtimes.bundle.typed_json import decode
from validation.machine import machine
from validation.quality import judged
from validation.quality.bootstrap import interval_of
from validation.quality.filling import OnPicture, pictures_of
from validation.quality.folder import read_json, write_json
from validation.quality.measure import Measures, Request, picture_metrics
from validation.quality.metric import Metric
from validation.quality.prompts import Prompts
from validation.quality.series import Album, Picture
from validation.quality.similarity import pair_metrics
from validation.sweep.grid import Cell, evaluations

CELL_FILE = "cell.json"


@dataclass(frozen=True)
class Variant:
    """One bundle in one cell: its folder's name, seconds per picture, figures."""

    bundle: str
    seconds: Metric
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Finished:
    """A measured cell. `steps` and `decoder_steps` are evaluations; `change`: second to first."""

    name: str
    guidance: float
    steps: int
    decoder_steps: int
    machine: str
    variants: tuple[Variant, ...]
    change: tuple[Metric, ...]


def run_cell(
    cell: Cell, bundle: Bundle, request: Request, on_picture: OnPicture
) -> tuple[Finished, bool]:
    """The cell's figures, and whether they were there already.

    Its folder in `request.folder` keeps pictures one by one, and the figures once they are all
    there; the same settings find them again.
    """
    in_folder = _in_folder(cell, request)
    path = in_folder.folder / CELL_FILE
    found = _found(bundle, in_folder)
    if found is not None:
        return decode(Finished, found, f"{path}"), True
    finished = _measure(cell, bundle, in_folder, on_picture)
    write_json(path, {"settings": _settings(bundle, in_folder), "found": asdict(finished)})
    return finished, False


def albums_of(cells: Sequence[Cell], bundle: Bundle, request: Request) -> list[Album]:
    """Where the pictures of cells are kept that have no figures yet."""
    places = [_in_folder(cell, request) for cell in cells]
    return [
        album for place in places if _found(bundle, place) is None for album in place.albums(bundle)
    ]


def _in_folder(cell: Cell, request: Request) -> Request:
    return replace(request, folder=request.folder / "cells" / cell.name, options=cell.options)


def _found(bundle: Bundle, request: Request) -> Any:
    """The figures of a cell in its folder, of the same settings; None where there are none."""
    there = read_json(request.folder / CELL_FILE) or {}
    return there.get("found") if there.get("settings") == _settings(bundle, request) else None


def _measure(cell: Cell, bundle: Bundle, request: Request, on_picture: OnPicture) -> Finished:
    pictures, *more = (pictures_of(album, on_picture) for album in request.albums(bundle))
    names = variant_names(bundle, request.against)
    variants = [_variant(names[0], bundle, pictures, request)]
    change: list[Metric] = []
    if request.against is not None:
        variants.append(_variant(names[1], request.against, more[0], request))
        change = _change(pictures, more[0], request.prompts, names[0])
    steps, decoder_steps = evaluations(cell, bundle.manifest.sampling)
    return Finished(
        cell.name, cell.guidance, steps, decoder_steps, machine(), tuple(variants), tuple(change)
    )


def variant_names(bundle: Bundle, against: Bundle | None) -> list[str]:
    """What the bundles are called: their folders' names, or paths where these are the same."""
    folders = [bundle.folder, *([] if against is None else [against.folder])]
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _variant(name: str, bundle: Bundle, pictures: Sequence[Picture], request: Request) -> Variant:
    metrics = picture_metrics(bundle.manifest.model, pictures, request.prompts, request.measures)
    seconds = np.array([picture.seconds for picture in pictures])
    return Variant(
        name,
        Metric(
            "time per picture",
            float(np.median(seconds)),
            *interval_of(seconds, np.median),
            "s",
            f"median of {len(seconds)}, one picture at a time, loading excluded",
        ),
        tuple(metrics),
    )


def _change(
    first: Sequence[Picture], second: Sequence[Picture], prompts: Prompts, name: str
) -> list[Metric]:
    metrics = pair_metrics(second, first, name)
    if prompts.scenes is not None:
        readings = [
            judged.read(picture.pixels() for picture in pictures) for pictures in (first, second)
        ]
        metrics.append(judged.accuracy_change(readings[0], readings[1], prompts.scenes))
    return metrics


def _settings(bundle: Bundle, request: Request) -> dict[str, Any]:
    """All that a cell's figures depend on."""
    against = None if request.against is None else request.series(request.against).identity()
    return {
        "series": request.series(bundle).identity(),
        "against": against,
        "prompts": request.prompts.sha256,
        "measures": _measures(request.measures),
    }


def _measures(measures: Measures) -> list[str | None]:
    paths: list[Path | None] = [measures.images, measures.inception_weights]
    return [*(None if path is None else str(path) for path in paths), measures.clip_model]
