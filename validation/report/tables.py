"""The page's tables: each scrolls in a box of its own, so that the page never does sideways."""

from collections.abc import Container, Sequence

from validation.report import text
from validation.report.data import STAGES, Cost, Limit, Report, Variant
from validation.report.marks import swatch
from validation.report.markup import Html, join, tag

NONE = "\N{EN DASH}"
_GRAPH_TITLE = "Each graph on the reference's inputs"


def summary(report: Report) -> Html:
    """One row per variant: does it pass, what does it cost, how far is it off."""
    head = (
        "Variant", "Limits", "Size, MB", "Time, s", "Loading, s", "Peak memory, MB",
        "Stage C worst step, dB", "Stage B worst step, dB", "Picture PSNR, dB",
        "Denoisers compute in",
    )  # fmt: skip
    rows = [
        [
            named(index, variant, tag("small", f"{variant.backend}, {variant.precision}")),
            _verdict(variant),
            number(text.megabytes(variant.size), best=variant.name == report.verdict.smallest),
            *_totals(variant.cost, best=variant.name == report.verdict.fastest),
            *[number(text.decibels(text.worst_db(variant, g))) for g in ("stage_c", "stage_b")],
            number(text.decibels(variant.picture_db)),
            words(text.computes_in(variant)),
        ]
        for index, variant in enumerate(report.variants)
    ]
    return table("All variants", [headings(head, numeric=range(2, 9))], rows)


def limits(report: Report) -> Html:
    """Per variant: of each kind of limit, the value nearest to it."""
    kinds = [limit.what for limit in report.variants[0].limits]
    rows = [
        [named(index, variant), *[_nearest(limit) for limit in variant.limits], _verdict(variant)]
        for index, variant in enumerate(report.variants)
    ]
    head = headings(
        ("Variant", *[f"{kind.capitalize()}, dB" for kind in kinds], "Verdict"), numeric=range(1, 4)
    )
    return table("The verdict per limit", [head], rows)


def _nearest(limit: Limit) -> Html:
    sign = "at least" if limit.passed else "less than"
    where = "" if limit.worst == limit.what else f", {limit.worst}"
    about = tag("small", f"{sign} {limit.least_db:.0f}{where}")
    return number(text.decibels(limit.found_db), about, failed=not limit.passed)


def parity(report: Report) -> Html:
    """Relative error and SQNR of every graph's outputs; denoisers' worst step."""
    graphs = list(dict.fromkeys(check.graph for v in report.variants for check in v.graphs))
    rows = []
    for graph in graphs:
        cells = []
        for variant in report.variants:
            check = next((check for check in variant.graphs if check.graph == graph), None)
            if check is None:
                cells.append(number("none"))
                continue
            value = join(f"{check.relative:.1e} ", tag("small", text.decibels(check.sqnr_db)))
            cells.append(number(value, failed=not check.passed))
        rows.append([row_head(tag("code", graph)), *cells])
    return table(
        f"{_GRAPH_TITLE}: relative error and SQNR in dB", [_variants("Graph", report)], rows
    )


def steps(report: Report) -> Html:
    """The charts' numbers: SQNR of every step, each by itself and in the whole run."""
    rows = []
    for kind, of in (("by itself", "steps"), ("whole run", "trajectory")):
        for position, check in enumerate(getattr(report.variants[0], of)):
            found = [getattr(variant, of)[position] for variant in report.variants]
            cells = [number(text.decibels(c.sqnr_db), failed=not c.passed) for c in found]
            name = row_head(
                tag("code", f"{check.graph} {check.step} "), tag("span", kind, class_="soft")
            )
            rows.append([name, *cells])
    return table("SQNR of every step in dB", [_variants("Step", report)], rows)


def costs(report: Report) -> Html:
    """Seconds, megabytes on disk and in memory of each stage."""
    groups = ("Time, s", "On disk, MB", "In memory, MB")
    top = [tag("td"), *[tag("th", g, colspan=len(STAGES), scope="colgroup") for g in groups]]
    head = headings(("Variant", *(list(STAGES) * len(groups))), numeric=range(1, 13))
    rows = []
    for index, variant in enumerate(report.variants):
        times = peaks = [number(NONE)] * len(STAGES)
        if variant.cost:
            times = [number(text.seconds(c.seconds.median)) for c in variant.cost.stages]
            peaks = [number(text.megabytes(c.peak_bytes)) for c in variant.cost.stages]
        sizes = [number(text.megabytes(variant.bytes[stage])) for stage in STAGES]
        rows.append([named(index, variant), *times, *sizes, *peaks])
    return table("Each stage's time, size and memory", [top, head], rows, class_="groups")


def quality(report: Report) -> Html:
    """The further figures a comparison was given, with their intervals."""
    known = dict.fromkeys((m.name, m.unit) for v in report.variants for m in v.quality)
    rows = []
    for name, unit in known:
        cells = []
        for variant in report.variants:
            found = next((m for m in variant.quality if m.name == name), None)
            if found is None or found.value is None:
                note = found.note if found else "not measured"
                cells.append(number(tag("small", note, class_="long")))
                continue
            between = "" if found.low is None or found.high is None else (
                f"{found.low:.4g} to {found.high:.4g}"
            )  # fmt: skip
            note = "; ".join(part for part in (between, found.note) if part)
            cells.append(number(join(f"{found.value:.4g} ", tag("small", note, class_="long"))))
        rows.append([row_head(f"{name}, {unit}" if unit else name), *cells])
    return table("Quality, with 95 % intervals", [_variants("Figure", report)], rows)


def placements(report: Report) -> Html:
    """What each graph is stored in, and what it really ran in."""
    rows = [[row_head("engine, device"), *[_engines(variant) for variant in report.variants]]]
    for graph in dict.fromkeys(name for v in report.variants for name in v.placements):
        cells = [
            words(f"{variant.stored[graph]} \N{RIGHTWARDS ARROW} {place.precision}")
            if (place := variant.placements.get(graph))
            else words(NONE)
            for variant in report.variants
        ]
        rows.append([row_head(tag("code", graph)), *cells])
    title = "What each graph is stored in, and what it really computed in"
    return table(title, [_variants("Graph", report, numeric=False)], rows)


def _engines(variant: Variant) -> Html:
    pairs = text.engines(variant).items()
    names = [join(engine, tag("small", device)) for engine, device in pairs]
    return tag("td", *names, class_="long")


def named(index: int, variant: Variant, *more: str) -> Html:
    """A row's head: the variant's mark and name."""
    return row_head(swatch(index), tag("span", variant.name, class_="name"), *more)


def row_head(*inside: str) -> Html:
    return tag("th", *inside, scope="row")


def words(*inside: str) -> Html:
    return tag("td", *inside)


def number(*inside: str, best: bool = False, failed: bool = False) -> Html:
    state = " best" if best else " bad" if failed else ""
    mark = [tag("span", "✕ ", class_="cross", title="passes its limit not")] if failed else []
    return tag("td", *mark, *inside, class_=f"num{state}")


def headings(names: Sequence[str], numeric: Container[int]) -> list[Html]:
    """Column heads; those of numbers stand at the right, above them."""
    return [
        tag("th", name, scope="col", class_="num" if place in numeric else None)
        for place, name in enumerate(names)
    ]


def table(
    title: str,
    head: Sequence[Sequence[Html]],
    rows: Sequence[Sequence[Html]],
    class_: str | None = None,
) -> Html:
    """A table in its own scroll box, its title for screen readers."""
    top = tag("thead", *[tag("tr", *cells) for cells in head])
    body = tag("tbody", *[tag("tr", *cells) for cells in rows])
    inside = tag("table", tag("caption", title), top, body, class_=class_)
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=title)


def _variants(first: str, report: Report, *, numeric: bool = True) -> list[Html]:
    """A column head per variant."""
    marked = [
        join(swatch(index), tag("span", variant.name, class_="name"))
        for index, variant in enumerate(report.variants)
    ]
    return headings([first, *marked], range(1, len(marked) + 1 if numeric else 1))


def _verdict(variant: Variant) -> Html:
    if variant.failure is None:
        return tag("td", _pill(True))
    where = variant.failure
    at = where.graph if where.step is None else f"{where.graph}, step {where.step}"
    return tag("td", _pill(False), tag("small", f"first at {at}"))


def _pill(passed: bool) -> Html:
    return tag(
        "span", "✓ holds" if passed else "✕ fails", class_="pill ok" if passed else "pill no"
    )


def _totals(cost: Cost | None, *, best: bool) -> list[Html]:
    if cost is None:
        return [number(NONE)] * 3
    time = join(f"{text.seconds(cost.seconds.median)} ", tag("small", text.spread(cost.seconds)))
    loading = number(text.seconds(cost.load_seconds.median))
    return [number(time, best=best), loading, number(text.megabytes(cost.peak_bytes))]
