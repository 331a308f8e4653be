"""What a sweep found: sweep.json, sweep.svg and a table."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from validation.quality.judged import ACCURACY, FRECHET
from validation.quality.measure import main_metric
from validation.quality.metric import Metric
from validation.quality.table import interval_text, value_text
from validation.sweep.cells import Finished, Variant
from validation.sweep.marks import Point
from validation.sweep.plot import frontier, svg

# Shown beside the main figure where there are such.
COLUMNS = {ACCURACY.format("exact"): "exact", FRECHET: "Frechet", "FID": "FID"}


def quality_of(cell: Finished, variant: Variant) -> Metric | None:
    """The figure that is plotted: the judge's, the CLIP score, or the PSNR between two bundles."""
    own = main_metric(variant.metrics)
    return own or (main_metric(cell.change) if variant is cell.variants[-1] else None)


def points_of(cells: Sequence[Finished]) -> list[Point]:
    """A point for every bundle of every cell that has a quality figure."""
    found = []
    for cell in cells:
        for index, variant in enumerate(cell.variants):
            quality, seconds = quality_of(cell, variant), variant.seconds.value
            if quality is None or quality.value is None or seconds is None:
                continue
            value = quality.value
            low = value if quality.low is None else quality.low
            high = value if quality.high is None else quality.high
            label = f"{variant.bundle}, {_what(cell)}: {_text(quality)}, {seconds:.3g} s"
            found.append(
                Point(seconds, value, low, high, cell.guidance, cell.steps, cell.decoder_steps,
                      index > 0, label)
            )  # fmt: skip
    return found


def as_json(cells: Sequence[Finished], about: dict[str, Any]) -> dict[str, Any]:
    """`sweep.json`: every cell's figures; `best` marks what no other beats in time and quality."""
    best = {point.label for point in frontier(points_of(cells))}
    labels = {(p.guidance, p.steps, p.decoder_steps, p.second): p.label for p in points_of(cells)}
    found = []
    for cell in cells:
        value = asdict(cell)
        for index, variant in enumerate(value["variants"]):
            key = (cell.guidance, cell.steps, cell.decoder_steps, index > 0)
            variant["best"] = labels.get(key) in best
        found.append(value)
    return {**about, "cells": found}


def as_svg(cells: Sequence[Finished], title: str) -> str:
    """The trade-off plot."""
    quality = _main(cells)
    unit = f", {quality.unit}" if quality.unit else ""
    names = [variant.bundle for variant in cells[0].variants]
    x_name = "seconds per picture, median (logarithmic)"
    most = 100.0 if quality.unit == "%" else math.inf
    return svg(points_of(cells), title, x_name, f"{quality.name}{unit}", names, most)


def print_table(cells: Sequence[Finished]) -> None:
    """A line per cell and bundle; '*' marks what no other beats in time and quality."""
    quality = _main(cells)
    shown = {metric.name for cell in cells for v in cell.variants for metric in v.metrics}
    extra = [name for name in COLUMNS if name in shown]
    several = len(cells[0].variants) > 1
    head = [*(["bundle"] if several else []), "guidance", "steps C", "steps B", "s / picture"]
    head += [quality.name, "95 % interval", *(COLUMNS[name] for name in extra), ""]
    best = {point.label for point in frontier(points_of(cells))}
    rows = [head]
    for cell in cells:
        for index, variant in enumerate(cell.variants):
            own = quality_of(cell, variant)
            named = {metric.name: metric for metric in variant.metrics}
            point = [p for p in points_of([cell]) if p.second == (index > 0)]
            rows.append(
                [
                    *([variant.bundle] if several else []),
                    f"{cell.guidance:g}",
                    str(cell.steps),
                    str(cell.decoder_steps),
                    f"{variant.seconds.value:.3f}",
                    "-" if own is None else value_text(own),
                    "" if own is None else interval_text(own),
                    *(value_text(named[name]) if name in named else "-" for name in extra),
                    "*" if any(p.label in best for p in point) else "",
                ]
            )
    _print(rows)
    if several:
        _print_changes(cells)


def _print_changes(cells: Sequence[Finished]) -> None:
    first, second = (variant.bundle for variant in cells[0].variants)
    print(f"\n{second} against {first}, on the same noise")
    names = [metric.name for metric in cells[0].change]
    rows = [["guidance", "steps C", "steps B", *names]]
    for cell in cells:
        found = [_text(metric) for metric in cell.change]
        rows.append([f"{cell.guidance:g}", str(cell.steps), str(cell.decoder_steps), *found])
    _print(rows)


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(text.rjust(width) for text, width in cells).rstrip())


def _main(cells: Sequence[Finished]) -> Metric:
    found = [quality_of(cell, variant) for cell in cells for variant in cell.variants]
    return next(metric for metric in found if metric is not None)


def _what(cell: Finished) -> str:
    return f"guidance {cell.guidance:g}, {cell.steps} + {cell.decoder_steps} steps"


def _text(metric: Metric) -> str:
    """'99.1 % (98.0 .. 99.8)'."""
    unit = f" {metric.unit}" if metric.unit else ""
    spread = f" ({interval_text(metric)})" if interval_text(metric) else ""
    return f"{value_text(metric)}{unit}{spread}"
