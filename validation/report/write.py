"""The report's folder: report.html and report.json, both or nothing."""

from collections.abc import Sequence
from pathlib import Path

from runtimes.bundle.read import Bundle
from runtimes.bundle.write import check_new
from runtimes.console import installed
from runtimes.errors import UsageError
from validation.report.collect import Comparison
from validation.report.data import to_json
from validation.report.page import page


def check_folder(output: Path, bundles: Sequence[Bundle]) -> None:
    """UsageError when a report cannot go there or be written at all: before any work."""
    if not installed("jinja2"):
        raise UsageError(
            "--report needs jinja2: pip install 'wuerstchen-export[validation]', or jinja2 alone"
        )
    check_new(output, "--report")
    for bundle in bundles:
        if output.resolve().is_relative_to(bundle.folder):
            raise UsageError(
                f"--report {output} is inside the bundle {bundle.folder}, which holds nothing but "
                "its own files; give another folder"
            )


def write(comparison: Comparison, folder: Path) -> None:
    """Write both files into `folder`."""
    (folder / "report.html").write_text(page(comparison), encoding="utf-8")
    (folder / "report.json").write_text(to_json(comparison.report), encoding="utf-8")
