"""python -m exporter inspect: what a checkpoint would cost, from its configs."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.checkpoint_arguments import (
    add_checkpoint_options,
    add_output_options,
    find_sources,
    require_export_packages,
)
from runtimes.arguments import Parser, settle_size
from runtimes.console import run_cli

if TYPE_CHECKING:
    from exporter.cost import Inspection


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter inspect`."""
    command_line = Parser(
        prog="python -m exporter inspect",
        description="Print parameters, FLOPs, memory and disk of a checkpoint from its configs; "
        "no weights are read, nothing is written.",
    )
    add_checkpoint_options(command_line)
    add_output_options(command_line)
    return command_line


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="nothing was written", intermixed=True)


def _run(args: argparse.Namespace) -> None:
    settle_size(args)
    require_export_packages()
    from exporter.checkpoint.open import open_checkpoint
    from exporter.checkpoint.picture_files import PictureFiles
    from exporter.cost import inspect

    pictures = PictureFiles(args.compressor, args.preview)
    sources = find_sources(args, weights=False)
    checkpoint = open_checkpoint(*sources, args.variant, pictures, weights=False)
    for note in () if args.quiet else checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    inspection = inspect(
        checkpoint,
        args.height or checkpoint.height,
        args.width or checkpoint.width,
        text=args.stage_b_text == "keep",
    )
    if args.json:
        value = dataclasses.asdict(inspection) | {"disk_bytes": inspection.disk_bytes}
        print(json.dumps(value, indent=1))
    else:
        _print(inspection)


def _print(inspection: "Inspection") -> None:
    print(f"{'component':<24}{'parameters':>16}{'fp32 MB':>12}")
    for name, parameters in inspection.components.items():
        print(f"{name:<24}{parameters:>16,}{4 * parameters / 1e6:>12,.1f}")
    pixels = f"{inspection.height} x {inspection.width}"
    print(f"\none picture of {pixels} pixels, default guidance and steps")
    print(f"{'graph':<24}{'parameters':>16}{'GFLOP a run':>14}{'runs':>6}{'peak MB fp32':>14}")
    for graph in inspection.graphs:
        print(
            f"{graph.name:<24}{graph.parameters:>16,}{graph.flops / 1e9:>14,.2f}{graph.runs:>6}"
            f"{graph.peak_bytes / 1e6:>14,.1f}"
        )
    total = sum(graph.flops * graph.runs for graph in inspection.graphs)
    disk = ", ".join(f"{key} {value / 1e6:,.1f} MB" for key, value in inspection.disk_bytes.items())
    print(f"\nTFLOP a picture: {total / 1e12:,.3f}; disk: {disk}")
