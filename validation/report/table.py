"""The comparison on a terminal: a line per variant, then what to ship."""

from runtimes.bundle.manifest import DENOISERS
from validation.parity.terminal import print_checks
from validation.report import text
from validation.report.data import Report, Variant

_HEAD = ("variant", "limits", "MB", "s", "loading s", "peak MB", "C dB", "B dB", "PSNR dB", "in")


def print_report(report: Report, *, verbose: bool) -> None:
    """Sizes, times and the denoisers' worst steps side by side; `verbose` adds every check."""
    used = report.reference
    print(f"compared with: {used.source}, {used.prompt!r}, seed {used.seed}")
    print(f"{report.environment.machine}; medians of {report.repeats}\n")
    rows = [_HEAD, *(_row(variant) for variant in report.variants)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        first, second, *rest = ((text, width) for text, width in cells)
        line = [first[0].ljust(first[1]), second[0].ljust(second[1])]
        print("  ".join([*line, *(text.rjust(width) for text, width in rest)]).rstrip())
    for variant in report.variants:
        if verbose:
            _print_checks(variant)
        if variant.cost_note:
            print(f"\n{variant.name}: {variant.cost_note}")
    print(f"\n{report.verdict.text}")


def _row(variant: Variant) -> tuple[str, ...]:
    cost = variant.cost
    times = ("-", "-", "-") if cost is None else (
        text.seconds(cost.seconds.median),
        text.seconds(cost.load_seconds.median),
        text.megabytes(cost.peak_bytes),
    )  # fmt: skip
    worst = [text.decibels(text.worst_db(variant, graph)) for graph in DENOISERS]
    return (
        variant.name,
        "hold" if variant.passed else "FAILED",
        text.megabytes(variant.size),
        *times,
        *worst,
        text.decibels(variant.picture_db),
        text.computes_in(variant),
    )


def _print_checks(variant: Variant) -> None:
    print(f"\n{variant.name}")
    print_checks([*variant.graphs, *variant.steps, *variant.trajectory])
