"""A comparison from the command line: check everything, compare, write, say which fails."""

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes.bundle.read import Bundle
from runtimes.bundle.write import atomic_folder, check_new
from runtimes.console import require
from runtimes.engines.base import Execution
from runtimes.errors import UsageError
from runtimes.progress import Progress
from runtimes.recording import Recording
from validation.parity.graphs import graphs_for
from validation.quality.filling import pictures_of
from validation.quality.measure import Measures, picture_metrics
from validation.quality.metric import Metric
from validation.quality.prompts import Prompts
from validation.quality.series import Album, Series
from validation.report.collect import Comparison, Entry, compare, naming
from validation.report.data import to_json
from validation.report.page import page
from validation.report.table import print_report


@dataclass(frozen=True)
class Request:
    """What to do with a comparison: where its report goes, how often to time, how to print it.

    `prompts`: what further pictures of every variant are made of, to be scored; None: none are.
    """

    report: Path | None
    repeats: int
    prompts: Prompts | None = None
    verbose: bool = False
    quiet: bool = False
    json: bool = False


def check_request(request: Request, bundles: Sequence[Bundle]) -> None:
    """UsageError for what can be refused before the reference runs."""
    if request.repeats < 1:
        raise UsageError(f"--repeats is {request.repeats}; it must be at least 1")
    if request.report is not None:
        _check_folder(request.report, bundles)
    check_comparable(bundles)


def _check_folder(output: Path, bundles: Sequence[Bundle]) -> None:
    """UsageError when a report cannot go there or be written at all: before any work."""
    other = ", or jinja2 alone"
    require(("jinja2",), "validation", note=", which --report needs", other=other)
    check_new(output, "--report")
    for bundle in bundles:
        if output.resolve().is_relative_to(bundle.folder):
            raise UsageError(
                f"--report {output} is inside the bundle {bundle.folder}, which holds nothing but "
                "its own files; give another folder"
            )


def check_comparable(bundles: Sequence[Bundle]) -> None:
    """UsageError naming two bundles that have no reference in common."""
    first, *others = bundles
    for number, other in enumerate(others, 1):
        pair = f"{first.folder} and {other.folder}"
        if other.folder in [bundle.folder for bundle in bundles[:number]]:
            raise UsageError(f"{other.folder} is given twice; compare different bundles")
        models = [_model(bundle) for bundle in (first, other)]
        if models[0] != models[1]:
            raise UsageError(
                f"{pair} are of different models ({models[0]} and {models[1]}); compare bundles "
                "of one model and revision"
            )
        text = [bundle.manifest.text_graphs["stage_b"] is not None for bundle in (first, other)]
        if text[0] != text[1]:
            free = first if not text[0] else other
            raise UsageError(
                f"{pair} have different references: {free.folder.name} runs Stage B without text; "
                "compare each kind by itself"
            )


def entries_of(bundles: Sequence[Bundle], execution: Execution) -> list[Entry]:
    """The bundles with names that tell them apart: the folder's, or the path where two are alike.

    Raises UsageError naming the bundle that cannot run as asked.
    """
    entries = []
    for bundle in bundles:
        alike = [other for other in bundles if other.folder.name == bundle.folder.name]
        name = bundle.folder.name if len(alike) == 1 else str(bundle.folder)
        with naming(name):
            entries.append(Entry(name, bundle, graphs_for(bundle, execution)))
    return entries


def run(
    request: Request, entries: Sequence[Entry], recording: Recording, execution: Execution
) -> int:
    """Compare, print and write: 1 when a variant fails a limit, else 0."""
    progress = Progress(quiet=request.quiet or request.json)
    with contextlib.ExitStack() as stack:
        folder = None
        if request.report is not None:
            # Before the work: a place that cannot be written is found out first.
            folder = stack.enter_context(atomic_folder(request.report, overwrite=False))
        scores = _scores(request.prompts, entries, execution, progress)
        comparison = compare(entries, recording, execution, request.repeats, progress, scores)
        if folder is not None:
            write_report(comparison, folder)
    return _say(request, comparison)


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write report.html and report.json into `folder`."""
    (folder / "report.html").write_text(page(comparison), encoding="utf-8")
    (folder / "report.json").write_text(to_json(comparison.report), encoding="utf-8")


def _scores(
    prompts: Prompts | None, entries: Sequence[Entry], execution: Execution, progress: Progress
) -> dict[str, tuple[Metric, ...]]:
    """What each variant's pictures of the prompts score by themselves, seeds 0, 1, ..."""
    scores: dict[str, tuple[Metric, ...]] = {}
    if prompts is None:
        return scores
    for entry in entries:
        progress.line(f"scoring pictures of {entry.name}")
        with tempfile.TemporaryDirectory() as folder, naming(entry.name):
            series = Series(entry.bundle, prompts.texts, execution=execution)
            pictures = pictures_of(Album(series, Path(folder) / "pictures"), progress.step)
            scored = picture_metrics(entry.bundle.manifest.model, pictures, prompts, Measures())
            scores[entry.name] = tuple(scored)
    return scores


def _say(request: Request, comparison: Comparison) -> int:
    report = comparison.report
    if request.json:
        print(to_json(report), end="")
    elif not request.quiet:
        print_report(report, verbose=request.verbose)
        if request.report is not None:
            print(f"wrote {request.report / 'report.html'} and report.json")
    failed = [variant for variant in report.variants if variant.failure]
    for variant in failed:
        if variant.failure:
            print(f"error: {variant.name}: {variant.failure.text}", file=sys.stderr)
    return 1 if failed else 0


def _model(bundle: Bundle) -> str:
    model, adapters = bundle.manifest.model, bundle.manifest.adapters
    names = "".join(f" and {a.id}@{a.sha256[:8]} at {a.scale:g}" for a in adapters)
    return f"{model.id}@{model.revision} with {model.prior_id}@{model.prior_revision}{names}"
