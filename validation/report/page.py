"""report.html: one page that needs nothing else, the verdict first.

The words and the tables are in page.html.j2, the colours in page.css; here is what they show.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from validation.parity.gate import Check
from validation.plots.charts import Point, Series, line_chart, scatter
from validation.plots.marks import swatch
from validation.plots.svg import Svg
from validation.quality.metric import Metric
from validation.report import text
from validation.report.collect import Comparison
from validation.report.data import STAGES, Report, Variant
from validation.report.pictures import AMPLIFIED, difference_uri, picture_uri, scale_uri

_FOLDER = Path(__file__).parent
_IN_A_ROW = 7  # pictures, on a desktop
_PIXELATED = 256  # sides up to this are shown larger than they are
_STAGE_NAMES = {"stage_c": "Stage C", "stage_b": "Stage B"}
_CHECKED = {"steps": ("by itself", "epsilon, each step by itself"),
            "trajectory": ("whole run", "latents in the whole run")}  # fmt: skip
_SUMMARY = (
    "Variant", "Limits", "Size, MB", "Time, s", "Loading, s", "Peak memory, MB",
    "Stage C worst step, dB", "Stage B worst step, dB", "Picture PSNR, dB", "Denoisers compute in",
)  # fmt: skip


def page(comparison: Comparison) -> str:
    """The whole page as text."""
    # Imported here: a comparison without a page does not need it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (text.decibels, text.megabytes, text.seconds, text.spread, text.levels, text.moment)
    environment.filters |= {function.__name__: function for function in filters} | {"units": _units}
    environment.globals |= {
        function.__name__: function
        for function in (swatch, text.worst_db, text.computes_in, text.engines)
    }
    return environment.get_template("page.html.j2").render(_context(comparison))


def _context(comparison: Comparison) -> dict[str, Any]:
    """What the template names beside its filters."""
    report = comparison.report
    count, variants = len(report.variants), report.variants
    limits = [limit.what.capitalize() for limit in variants[0].limits]
    return {
        "report": report,
        "title": f"{report.model.id}: " + ("one variant" if count == 1 else f"{count} variants"),
        "style": Svg((_FOLDER / "page.css").read_text(encoding="utf-8")),  # markup, not text
        "tone": _tone(report),
        "failing": [variant for variant in variants if variant.failure],
        "summary_heads": [(name, 2 <= place < 9) for place, name in enumerate(_SUMMARY)],
        "limit_heads": [
            ("Variant", False), *((f"{name}, dB", True) for name in limits), ("Verdict", False)
        ],
        "cost_heads": [("Variant", False), *((stage, True) for stage in [*STAGES] * 3)],
        "stages": list(STAGES),
        "pictures": _pictures(comparison),
        "quality": _quality(variants),
        "note": _note,
        "trade_off": _trade_off(variants),
        "curves": _curves(variants),
        "steps": _steps(variants),
        "parity": _parity(variants),
        "parts": [*STAGES, "loading"],
        "bars": _bars(variants),
        "placed": list(dict.fromkeys(name for v in variants for name in v.placements)),
    }  # fmt: skip


def _tone(report: Report) -> str:
    """The verdict's colour: nothing passes, everything does, or some do."""
    if report.verdict.smallest is None:
        return "no"
    return "ok" if all(variant.passed for variant in report.variants) else "mixed"


def _units(line: str) -> str:
    """Numbers and their units stay on one line."""
    return re.sub(r"(\d) (MB|dB|s)\b", "\\1\N{NO-BREAK SPACE}\\2", line)


@dataclass(frozen=True)
class _Pictures:
    """Data URIs of the reference's picture, the difference maps' scale, and a pair a variant.

    `size` is the class of small pictures as an attribute, `columns` how many stand in a row.
    """

    reference: str
    scale: str
    pairs: list[tuple[str, str]]
    size: Svg
    columns: int
    amplified: int = AMPLIFIED


def _pictures(comparison: Comparison) -> _Pictures:
    expected, count = comparison.reference, len(comparison.pictures) + 1
    rows = math.ceil(count / _IN_A_ROW)
    return _Pictures(
        reference=picture_uri(expected),
        scale=scale_uri(),
        pairs=[
            (picture_uri(image), difference_uri(image, expected)) for image in comparison.pictures
        ],
        size=Svg(' class="small"' if max(expected.shape[1:]) <= _PIXELATED else ""),
        columns=math.ceil(count / rows),  # as even as it goes
    )


def _quality(variants: Sequence[Variant]) -> list[tuple[str, list[Metric | None]]]:
    """Each figure with its unit, and every variant's; None where it has no such figure."""
    known = dict.fromkeys((m.name, m.unit) for variant in variants for m in variant.quality)
    by_name = [{metric.name: metric for metric in variant.quality} for variant in variants]
    return [
        (f"{name}, {unit}" if unit else name, [metrics.get(name) for metrics in by_name])
        for name, unit in known
    ]


def _note(metric: Metric) -> str:
    """A figure's interval and its note."""
    known = metric.low is not None and metric.high is not None
    between = f"{metric.low:.4g} to {metric.high:.4g}" if known else ""
    return "; ".join(part for part in (between, metric.note) if part)


def _parity(variants: Sequence[Variant]) -> list[tuple[str, list[Check | None]]]:
    """Each graph, and every variant's check of it; None where a variant has no such graph."""
    by_name = [{check.graph: check for check in variant.graphs} for variant in variants]
    graphs = dict.fromkeys(name for checks in by_name for name in checks)
    return [(graph, [checks.get(graph) for checks in by_name]) for graph in graphs]


def _steps(variants: Sequence[Variant]) -> list[tuple[str, tuple[Check, ...]]]:
    """The charts' numbers: every step of all variants, by itself and then in the whole run."""
    return [
        (kind, checks)
        for name, (kind, _) in _CHECKED.items()
        for checks in zip(*(getattr(variant, name) for variant in variants), strict=True)
    ]


def _trade_off(variants: Sequence[Variant]) -> list[Svg]:
    """The picture's PSNR by size on disk and, where anything was timed, by time."""
    by_size = [
        _dot(index, variant, variant.size / 1e6, f"{text.megabytes(variant.size)} MB")
        for index, variant in enumerate(variants)
    ]
    by_time = [
        _dot(index, variant, cost.seconds.median, f"{text.seconds(cost.seconds.median)} s")
        for index, variant in enumerate(variants)
        if (cost := variant.cost)
    ]
    y_name = "Picture PSNR, dB"
    charts = [scatter("Picture PSNR by size on disk", "Size on disk, MB", y_name, by_size)]
    if by_time:
        charts.append(scatter("Picture PSNR by time", "Time of one picture, s", y_name, by_time))
    return charts


def _dot(index: int, variant: Variant, x: float, x_text: str) -> Series:
    note = f"{text.decibels(variant.picture_db)} dB, {x_text}"
    point = Point(x, variant.picture_db, note, variant.passed)
    return Series(index, variant.name, (point,), variant.picture_limit_db)


def _curves(variants: Sequence[Variant]) -> list[tuple[str, Svg]]:
    """Four charts with their titles: SQNR by step of both denoisers, in both kinds of run."""
    charts = []
    for graph, stage in _STAGE_NAMES.items():
        for name, (_, what) in _CHECKED.items():
            series = [_curve(index, v, name, graph) for index, v in enumerate(variants)]
            title = f"{stage}: SQNR of {what}"
            charts.append((title, line_chart(title, "Step", "SQNR, dB", series)))
    return charts


def _curve(index: int, variant: Variant, name: str, graph: str) -> Series:
    checks = [check for check in getattr(variant, name) if check.graph == graph]
    points = tuple(
        Point(
            check.step, check.sqnr_db, f"{check.what}: {text.decibels(check.sqnr_db)} dB",
            check.passed,
        )
        for check in checks
    )  # fmt: skip
    return Series(index, variant.name, points, checks[0].limit_db)


@dataclass(frozen=True)
class _Bar:
    """A variant's seconds: in words, and each part with its share of the longest bar in percent."""

    index: int
    name: str
    total: str
    pieces: list[tuple[str, float]]

    @property
    def notes(self) -> list[str]:
        return [note for note, _ in self.pieces]


def _bars(variants: Sequence[Variant]) -> list[_Bar]:
    """Seconds of a picture as a bar per timed variant, split by stage, loading last."""
    timed = [(index, v.name, v.cost) for index, v in enumerate(variants) if v.cost]
    longest = max((c.seconds.median + c.load_seconds.median for _, _, c in timed), default=0)
    bars = []
    for index, name, cost in timed:
        parts = [(stage.stage, stage.seconds.median) for stage in cost.stages]
        parts.append(("loading", cost.load_seconds.median))
        pieces = [(f"{part}: {text.seconds(s)} s", 100 * s / longest) for part, s in parts]
        loading = text.seconds(cost.load_seconds.median)
        total = f"{text.seconds(cost.seconds.median)} s + {loading} s loading"
        bars.append(_Bar(index, name, total, pieces))
    return bars
