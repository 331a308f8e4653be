"""The page's figures: pictures side by side, plots, bars."""

import math
from collections.abc import Sequence

from validation.report import text
from validation.report.charts import Point, Series, line_chart, scatter
from validation.report.collect import Comparison
from validation.report.data import STAGES, Report, Variant
from validation.report.marks import swatch
from validation.report.markup import Html, join, tag
from validation.report.pictures import AMPLIFIED, difference_uri, picture_uri, scale_uri

_IN_A_ROW = 7  # on a desktop
_PIXELATED = 256  # sides up to this are shown larger than they are
_STAGE_NAMES = {"stage_c": "Stage C", "stage_b": "Stage B"}


def pictures(comparison: Comparison) -> Html:
    """The reference's picture, then each variant's with where it differs below."""
    report, expected = comparison.report, comparison.reference
    small = "small" if max(expected.shape[1:]) <= _PIXELATED else None
    ends = (tag("span", "0"), tag("span", f"{255 / AMPLIFIED:.0f} of 255 levels or more"))
    figures = [
        tag(
            "figure",
            tag("img", src=picture_uri(expected), alt="The reference's picture", class_=small),
            tag("figcaption", tag("strong", "reference"), tag("span", report.reference.source)),
            tag("img", src=scale_uri(), alt="", class_="scale"),
            tag("div", *ends, class_="ends"),
        )
    ]
    pairs = zip(report.variants, comparison.pictures, strict=True)
    for index, (variant, image) in enumerate(pairs):
        name = variant.name
        off = (
            f"{text.decibels(variant.picture_db)} dB PSNR",
            text.levels(variant.largest_difference),
        )
        about = f"Differences of {name}'s picture, times {AMPLIFIED}: {', '.join(off)}"
        lines = [tag("span", line) for line in off]
        figures.append(
            tag(
                "figure",
                tag("img", src=picture_uri(image), alt=f"{name}'s picture", class_=small),
                tag("figcaption", tag("strong", swatch(index), name), *lines),
                tag("img", src=difference_uri(image, expected), alt=about, class_=small),
            )
        )
    rows = math.ceil(len(figures) / _IN_A_ROW)
    columns = f"--columns: {math.ceil(len(figures) / rows)}"
    return tag("div", *figures, class_="pictures", style=columns)


def trade_off(report: Report) -> Html:
    """The picture's PSNR by size on disk and by time."""
    by_size = [
        _dot(index, variant, variant.size / 1e6, f"{text.megabytes(variant.size)} MB")
        for index, variant in enumerate(report.variants)
    ]
    by_time = [
        _dot(index, variant, cost.seconds.median, f"{text.seconds(cost.seconds.median)} s")
        for index, variant in enumerate(report.variants)
        if (cost := variant.cost)
    ]
    y_name = "Picture PSNR, dB"
    charts = [scatter("Picture PSNR by size on disk", "Size on disk, MB", y_name, by_size)]
    if by_time:
        name = "Time of one picture, s"
        charts.append(scatter("Picture PSNR by time", name, y_name, by_time))
    return tag("div", *[tag("figure", chart) for chart in charts], class_="charts")


def _dot(index: int, variant: Variant, x: float, x_text: str) -> Series:
    note = f"{text.decibels(variant.picture_db)} dB, {x_text}"
    point = Point(x, variant.picture_db, note, variant.passed)
    return Series(index, variant.name, (point,), variant.picture_limit_db)


def curves(report: Report) -> Html:
    """Four charts: SQNR by step of both denoisers, each step by itself and in the whole run."""
    kinds = {"steps": "epsilon, each step by itself", "trajectory": "latents in the whole run"}
    charts = []
    for graph, stage in _STAGE_NAMES.items():
        for of, what in kinds.items():
            series = [_curve(i, v, of, graph) for i, v in enumerate(report.variants)]
            title = f"{stage}: SQNR of {what}"
            chart = line_chart(title, "Step", "SQNR, dB", series)
            charts.append(tag("figure", tag("figcaption", title), chart))
    return join(legend(report), tag("div", *charts, class_="charts"))


def _curve(index: int, variant: Variant, of: str, graph: str) -> Series:
    checks = [check for check in getattr(variant, of) if check.graph == graph]
    points = tuple(
        Point(
            check.step, check.sqnr_db, f"{check.what}: {text.decibels(check.sqnr_db)} dB",
            check.passed,
        )
        for check in checks
    )  # fmt: skip
    return Series(index, variant.name, points, checks[0].limit_db)


def legend(report: Report) -> Html:
    """Every variant's mark and name."""
    names = [tag("li", swatch(i), variant.name) for i, variant in enumerate(report.variants)]
    return tag("ul", *names, class_="key")


def bars(report: Report) -> Html:
    """Seconds of a picture as a bar per variant, split by stage, loading last."""
    timed = [(i, v.name, v.cost) for i, v in enumerate(report.variants) if v.cost]
    whole = max(cost.seconds.median + cost.load_seconds.median for _, _, cost in timed)
    rows = []
    for index, name, cost in timed:
        parts = [(stage.stage, stage.seconds.median) for stage in cost.stages]
        parts.append(("loading", cost.load_seconds.median))
        said = " + ".join(
            (f"{text.seconds(cost.seconds.median)} s", f"{text.seconds(parts[-1][1])} s loading")
        )
        who = tag("div", swatch(index), tag("span", name), tag("small", said), class_="who")
        rows.append(tag("div", who, _bar(parts, whole), class_="row"))
    names = [
        tag("li", tag("span", class_=f"chip p{kind}"), name)
        for kind, name in enumerate([*STAGES, "loading"])
    ]
    return join(tag("ul", *names, class_="key"), tag("div", *rows, class_="bars"))


def _bar(parts: Sequence[tuple[str, float]], whole: float) -> Html:
    notes = [f"{name}: {text.seconds(value)} s" for name, value in parts]
    pieces = [
        tag("span", title=note, class_=f"part p{kind}", style=f"width:{100 * value / whole:.2f}%")
        for kind, (note, (_, value)) in enumerate(zip(notes, parts, strict=True))
    ]
    return tag("div", *pieces, class_="bar", role="img", aria_label=", ".join(notes))
