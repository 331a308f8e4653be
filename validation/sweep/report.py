"""What a sweep measured: rows, built once, as sweep.json, sweep.svg and a table."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from validation.plots.trade_off import Names, Point, frontier, svg
from validation.quality.judged import ACCURACY, FRECHET
from validation.quality.measure import main_metric
from validation.quality.metric import Metric, interval_text, value_text
from validation.sweep.cells import Finished, Variant

# Shown beside the main figure where there are such.
COLUMNS = {ACCURACY.format("exact"): "exact", FRECHET: "Frechet", "FID": "FID"}
X_NAME = "seconds per picture, median (logarithmic)"


@dataclass(frozen=True)
class Row:
    """One bundle in one cell; `second` is the one a sweep runs beside the first.

    `quality` is the figure that is plotted: the judge's, the CLIP score, or the PSNR between the
    two bundles; None where there is none. `best`: no other row beats it in time and quality.
    """

    cell: Finished
    variant: Variant
    second: bool
    quality: Metric | None
    best: bool = False

    @property
    def grid(self) -> list[str]:
        """Its place in the grid: guidance, Stage C steps, Stage B steps."""
        return _grid(self.cell)

    @property
    def point(self) -> Point | None:
        """Its place in the plot; None where quality or time is not known."""
        quality, seconds, cell = self.quality, self.variant.seconds.value, self.cell
        if quality is None or quality.value is None or seconds is None:
            return None
        what = f"guidance {cell.guidance:g}, {cell.steps} + {cell.decoder_steps} steps"
        return Point(
            x=seconds,
            y=quality.value,
            low=quality.value if quality.low is None else quality.low,
            high=quality.value if quality.high is None else quality.high,
            guidance=cell.guidance,
            steps=cell.steps,
            decoder_steps=cell.decoder_steps,
            second=self.second,
            label=f"{self.variant.bundle}, {what}: {_text(quality)}, {seconds:.3g} s",
        )


def rows_of(cells: Sequence[Finished]) -> list[Row]:
    """A row for every bundle of every cell, in order."""
    rows = [
        Row(cell, variant, index > 0, _quality(cell, variant))
        for cell in cells
        for index, variant in enumerate(cell.variants)
    ]
    best = frontier(points_of(rows))
    return [replace(row, best=row.point in best) for row in rows]


def points_of(rows: Sequence[Row]) -> list[Point]:
    """The rows that can be plotted."""
    return [point for row in rows if (point := row.point) is not None]


def _quality(cell: Finished, variant: Variant) -> Metric | None:
    by_itself = main_metric(variant.metrics)
    # Where only the two bundles' distance is known, it is the second's.
    return by_itself or (main_metric(cell.change) if variant is cell.variants[-1] else None)


def as_json(rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    """`sweep.json`: every cell's figures; `best` as in the rows."""
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cell = cells.setdefault(row.cell.name, asdict(row.cell) | {"variants": []})
        cell["variants"].append(asdict(row.variant) | {"best": row.best})
    return {**about, "cells": list(cells.values())}


def as_svg(rows: Sequence[Row], title: str) -> str:
    """The trade-off plot."""
    quality = _plotted(rows)
    unit = f", {quality.unit}" if quality.unit else ""
    bundles = list(dict.fromkeys(row.variant.bundle for row in rows))
    most = 100.0 if quality.unit == "%" else math.inf
    return svg(points_of(rows), Names(title, X_NAME, f"{quality.name}{unit}", bundles, most))


def print_table(rows: Sequence[Row]) -> None:
    """A line per row; '*' marks the best. Of two bundles, how far apart they are as well."""
    measured = {metric.name for row in rows for metric in row.variant.metrics}
    extra = [name for name in COLUMNS if name in measured]
    head = [*_HEAD, "s / picture", _plotted(rows).name, "95 % interval"]
    lines = [[*head, *(COLUMNS[name] for name in extra), ""], *(_line(row, extra) for row in rows)]
    if not any(row.second for row in rows):
        _print(lines)
        return
    bundles = ["bundle", *(row.variant.bundle for row in rows)]
    _print([[bundle, *line] for bundle, line in zip(bundles, lines, strict=True)])
    _print_changes(rows)


_HEAD = ("guidance", "steps C", "steps B")


def _line(row: Row, extra: Sequence[str]) -> list[str]:
    named = {metric.name: metric for metric in row.variant.metrics}
    return [
        *row.grid,
        f"{row.variant.seconds.value:.3f}",
        "-" if row.quality is None else value_text(row.quality),
        "" if row.quality is None else interval_text(row.quality),
        *(value_text(named[name]) if name in named else "-" for name in extra),
        "*" if row.best else "",
    ]


def _print_changes(rows: Sequence[Row]) -> None:
    first, second = dict.fromkeys(row.variant.bundle for row in rows)
    print(f"\n{second} against {first}, on the same noise")
    cells = [row.cell for row in rows if row.second]
    head = [*_HEAD, *(metric.name for metric in cells[0].change)]
    _print([head, *([*_grid(cell), *map(_text, cell.change)] for cell in cells)])


def _print(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print("  ".join(text.rjust(width) for text, width in cells).rstrip())


def _grid(cell: Finished) -> list[str]:
    return [f"{cell.guidance:g}", str(cell.steps), str(cell.decoder_steps)]


def _plotted(rows: Sequence[Row]) -> Metric:
    return next(row.quality for row in rows if row.quality is not None)


def _text(metric: Metric) -> str:
    """'99.1 % (98.0 .. 99.8)'."""
    unit = f" {metric.unit}" if metric.unit else ""
    spread = f" ({interval_text(metric)})" if interval_text(metric) else ""
    return f"{value_text(metric)}{unit}{spread}"
