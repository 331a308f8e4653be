"""python -m validation bench: times and errors side by side."""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.bundle import open_bundle
from runtimes.command import guarded, installed
from runtimes.errors import UsageError
from validation.recording import read_golden

if TYPE_CHECKING:
    from validation.bench.cases import Case
    from validation.bench.measure import Timing

PACKAGES = ("torch", "onnxruntime", "openvino")


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m validation bench`."""
    found = argparse.ArgumentParser(
        prog="python -m validation bench",
        description="Time every graph in PyTorch, ONNX Runtime and OpenVINO, interleaved in one "
        "run, each with its relative error against PyTorch fp32.",
    )
    add = found.add_argument
    add("bundle", type=Path, nargs="?", help="ONNX bundle folder, from 'python -m exporter'")
    add("--reference", metavar="DIR_OR_ID", help="checkpoint the bundle was made from")
    add("--prior", metavar="DIR_OR_ID", help="prior of --reference")
    add(
        "--blocks",
        action="store_true",
        help="instead of a bundle: blocks of Stage B and Stage C at the public model's widths and "
        "sizes, with random weights (needs 8 GB)",
    )
    add("--repeats", type=int, default=7, help="timed rounds, after one to warm up (default: 7)")
    add("--markdown", action="store_true", help="print a Markdown table")
    add("--json", action="store_true", help="print every measurement as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _run(args), debug=args.debug, interrupted="nothing was measured")


def _run(args: argparse.Namespace) -> None:
    if (args.bundle is None) != args.blocks:
        raise UsageError("give a bundle to time, or --blocks")
    if args.repeats < 1:
        raise UsageError(f"--repeats is {args.repeats}; it must be at least 1")
    if not installed("torch"):
        raise UsageError("bench needs torch: pip install 'wuerstchen-export[validation]'")
    from validation.bench.cases import block_cases
    from validation.bench.contenders import contenders
    from validation.bench.measure import machine, measure

    found = []
    present = contenders(lambda line: print(line, file=sys.stderr))
    with tempfile.TemporaryDirectory() as folder:
        for case in block_cases(Path(folder)) if args.blocks else _bundle_cases(args):
            print(f"timing {case.name}", file=sys.stderr)
            found += measure(case, present, args.repeats)
    about = f"{machine()}; {_versions()}; {datetime.date.today()}; {args.repeats} rounds, medians"
    if args.json:
        timings = [dataclasses.asdict(timing) for timing in found]
        print(json.dumps({"machine": about, "timings": timings}, indent=1))
    else:
        print(about)
        _print(found, markdown=args.markdown)


def _bundle_cases(args: argparse.Namespace) -> "Iterator[Case]":
    from exporter.components import open_checkpoint
    from exporter.graphs import plan_graphs
    from validation.bench.cases import bundle_cases
    from validation.checkpoints import reference_pair

    bundle = open_bundle(args.bundle)
    manifest = bundle.manifest
    if (manifest.backend, manifest.precision) != ("onnx", "fp32"):
        what = f"{manifest.backend} {manifest.precision}"
        raise UsageError(f"{args.bundle}: bench takes fp32 onnx bundles, this is {what}")
    pair = reference_pair(manifest.model, args.reference, args.prior)
    checkpoint = open_checkpoint(*pair, manifest.model.variant or None)
    text = manifest.text_graphs["stage_b"] is not None
    plans = plan_graphs(checkpoint, "nchw", text=text)
    wanted = [plan for plan in plans if plan.name in manifest.graphs]
    yield from bundle_cases(bundle, wanted, read_golden(bundle.folder))


def _versions() -> str:
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)


def _print(timings: "Sequence[Timing]", *, markdown: bool) -> None:
    """A row per graph, a column per contender: median milliseconds and relative error."""
    graphs = list(dict.fromkeys(timing.graph for timing in timings))
    names = list(dict.fromkeys(timing.contender for timing in timings))
    cells = {(timing.graph, timing.contender): _cell(timing) for timing in timings}
    rows = [["ms, relative error", *names]]
    rows += [[graph, *(cells.get((graph, name), "") for name in names)] for graph in graphs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for index, line in enumerate(rows):
        pairs = list(zip(line, widths, strict=True))
        padded = [pairs[0][0].ljust(pairs[0][1]), *(text.rjust(width) for text, width in pairs[1:])]
        print(f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip())
        if markdown and index == 0:
            print("|---" + "|--:" * len(names) + "|")


def _cell(timing: "Timing") -> str:
    return f"{1e3 * timing.median:.2f}, {timing.relative_error:.0e}"
