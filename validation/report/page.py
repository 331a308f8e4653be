"""report.html: one page that needs nothing else, the verdict first."""

import re
from pathlib import Path

from validation.report import figures, tables, text
from validation.report.collect import Comparison
from validation.report.data import Report
from validation.report.markup import Html, join, tag
from validation.report.pictures import AMPLIFIED

_STYLE = Path(__file__).with_name("page.css")
# Nothing is fetched, and nothing could be.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(comparison: Comparison) -> str:
    """The whole page as text."""
    report = comparison.report
    count = len(report.variants)
    title = f"{report.model.id}: " + ("one variant" if count == 1 else f"{count} variants")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Html(_STYLE.read_text(encoding="utf-8"))),
    )
    main = tag("main", *_sections(comparison))
    body = tag("body", _header(report, title), main, _footer(report))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _sections(comparison: Comparison) -> list[Html]:
    report = comparison.report
    sections = {
        "At a glance": (_glance(report), tables.summary(report), _failures(report)),
        "Pictures on the same noise": (_prompt(report), figures.pictures(comparison)),
        "Quality": (tables.quality(report),),
        "Quality, size and speed": (_note(_TRADE_OFF), figures.trade_off(report)),
        "Step by step": (_note(_CURVES), figures.curves(report), _numbers(report)),
        "Graph by graph": (_note(_GRAPHS), tables.parity(report)),
        "Limits": (_note(_LIMITS), tables.limits(report)),
        "Time and memory per stage": (_note(_COSTS), *_costs(report)),
        "Environment": (_environment(report), tables.placements(report)),
    }
    return [tag("section", tag("h2", name), *parts) for name, parts in sections.items() if parts]


def _header(report: Report, title: str) -> Html:
    verdict = report.verdict
    passed = all(variant.passed for variant in report.variants)
    tone = "no" if verdict.smallest is None else "ok" if passed else "mixed"
    return tag(
        "header",
        tag("p", f"revision {report.model.revision}, reference: {report.reference.source}",
            class_="over"),
        tag("h1", title),
        tag("p", _units(verdict.text), class_=f"verdict {tone}"),
    )  # fmt: skip


def _glance(report: Report) -> Html:
    used, count = report.reference, report.repeats
    runs = "a single run" if count == 1 else f"median, least and greatest of {count}"
    return _note(
        f"Time: one {used.height} x {used.width} picture in a process of its own, once it is "
        f"loaded; {runs}. Size: without the golden run. "
        "SQNR and PSNR: higher is closer to the reference. Bold: the smallest and the fastest "
        "that hold every limit."
    )


def _failures(report: Report) -> Html:
    rows = [
        tag("li", tag("strong", variant.name), f": {_units(variant.failure.text)}.")
        for variant in report.variants
        if variant.failure
    ]
    title = tag("h3", "Where it goes wrong first")
    return join(title, tag("ul", *rows, class_="failures")) if rows else join()


def _prompt(report: Report) -> Html:
    used = report.reference
    negative = f", negative prompt “{used.negative_prompt}”" if used.negative_prompt else ""
    return _note(
        tag("q", used.prompt),
        f"{negative}; seed {used.seed}; {used.steps} steps of Stage C, {used.decoder_steps} of "
        f"Stage B. Below each picture: where it differs, amplified {AMPLIFIED} times.",
    )


def _numbers(report: Report) -> Html:
    return tag("details", tag("summary", "Every step in numbers"), tables.steps(report))


def _costs(report: Report) -> list[Html]:
    drawn = [figures.bars(report)] if any(v.cost for v in report.variants) else []
    notes = [_note(f"{v.name}: {v.cost_note}.") for v in report.variants if v.cost_note]
    return [*drawn, tables.costs(report), *notes]


def _environment(report: Report) -> Html:
    packages = report.environment.packages.items()
    rows = {
        "Machine": report.environment.machine,
        "System": report.environment.system,
        "Packages": ", ".join(f"{name} {version}" for name, version in packages),
        "Measured": text.moment(report.created),
        "Prior": f"{report.model.prior_id}, revision {report.model.prior_revision}",
    }
    folders = [tag("li", tag("code", variant.folder)) for variant in report.variants]
    items = [part for key, value in rows.items() for part in (tag("dt", key), tag("dd", value))]
    return tag("dl", *items, tag("dt", "Bundles"), tag("dd", tag("ul", *folders)))


def _footer(report: Report) -> Html:
    version = report.environment.packages.get("wuerstchen-export", "")
    about = f"wuerstchen-export {version}, {text.moment(report.created)}"
    return tag("footer", tag("p", f"{about}. report.json has the same figures."))


def _note(*parts: str) -> Html:
    return tag("p", *parts, class_="note")


def _units(line: str) -> str:
    """Numbers and their units stay on one line."""
    return re.sub(r"(\d) (MB|dB|s)\b", "\\1\N{NO-BREAK SPACE}\\2", line)


_TRADE_OFF = (
    "Up is closer to the reference, left is cheaper; a cross fails a limit. What has a figure "
    "beside its name lies above the axis. Time is that of a picture once everything is loaded."
)
_CURVES = (
    "Each step by itself starts from the reference's latents; in the whole run on the same noise "
    "errors of earlier steps come along. Dashed: the limits. A cross fails its own."
)
_GRAPHS = (
    "Relative error (L2) of each graph's outputs, the same as SQNR in dB below it. Every graph "
    "runs on the reference's own inputs, so that no error is inherited; of the denoisers this is "
    "the worst step."
)
_LIMITS = (
    "SQNR of graphs and latents, PSNR of the picture. A variant is held to the limits of the least "
    "exact precision it is stored or computes in; shown is the value nearest to the limit, or "
    "furthest beyond."
)
_COSTS = (
    "Each stage with its condition graph; medians. Memory is that of the whole process, Python and "
    "the engine included, while only this stage is loaded; at a glance, while all stay loaded."
)
