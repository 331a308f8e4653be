"""python -m quantization ranges: what fp16's 65504 has to hold, node by node."""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from quantization.cli import fp32_onnx_bundle, progress_of, prompts_of
from quantization.ranges import LARGEST_FP16, Range, normal_ranges, ranges
from runtimes.arguments import Parser, a_path, add_size_options, integer, settle_size
from runtimes.bundle.atomic_file import atomic_file, check_writable
from runtimes.console import run_cli
from runtimes.errors import UsageError
from runtimes.plan import Options

Report = Callable[[str], None]


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m quantization ranges`."""
    command_line = Parser(
        prog="python -m quantization ranges",
        description="Run every graph on full runs and record the largest absolute value of every "
        "node, beside the type that its place in the graph gives it in fp16. Exit code 1 says that "
        "an fp16 node passes 65504: 'python -m quantization --precision fp16' keeps it in fp32.",
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="fp32 ONNX bundle folder, from 'python -m exporter'")
    add("--calibration", type=Path, metavar="FILE", help="prompts, one a line (default: own list)")
    add(
        "--normal-inputs",
        action="store_true",
        help="feed each graph standard normal inputs instead of running prompts: for graphs with "
        "random weights, whose runs leave every range",
    )
    add("--runs", type=integer, default=2, help="prompts to run (default: 2)")
    add("--seed", type=integer, default=0, help="seed of the first run (default: 0)")
    add("--steps", type=integer, help="even Stage C steps (default: the bundle's schedule)")
    add("--decoder-steps", type=integer, help="even Stage B steps (default: the bundle's schedule)")
    add_size_options(command_line)
    add("-o", "--output", type=Path, metavar="FILE", help="JSON file to write with every node")
    add("--top", type=integer, default=3, help="nodes to print per graph and type (default: 3)")
    add("--quiet", action="store_true", help="print errors only")
    add("--debug", action="store_true", help="show the traceback of an error")
    return command_line


def main(argv: Sequence[str]) -> int:
    """Run the command line; 1 when a node that fp16 has by its structure would overflow."""
    return run_cli(parser(), _run, argv, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> int:
    settle_size(args)
    if args.output is not None:
        if args.output.exists():
            raise UsageError(f"--output {args.output} exists; choose another file")
        check_writable(args.output, "--output")
    bundle = fp32_onnx_bundle(args.bundle)
    prompts = prompts_of(args, bundle)
    if not 1 <= args.runs <= len(prompts):
        raise UsageError(f"--runs is {args.runs}; there are {len(prompts)} prompts")
    options = Options(
        seed=args.seed,
        steps=args.steps,
        decoder_steps=args.decoder_steps,
        height=args.height,
        width=args.width,
    )
    if args.normal_inputs:
        measured = normal_ranges(bundle, options, progress_of(args))
    else:
        measured = ranges(bundle, prompts[: args.runs], options, progress_of(args))
    report: Report = (lambda line: None) if args.quiet else print
    for graph in bundle.manifest.graphs:
        _report(graph, [r for r in measured if r.graph == graph], args.top, report)
    if args.output is not None:
        nodes = [dataclasses.asdict(r) for r in measured]
        about = {
            "model": bundle.manifest.model.id,
            "runs": 0 if args.normal_inputs else args.runs,
            "nodes": nodes,
        }
        with atomic_file(args.output) as file:
            file.write((json.dumps(about, indent=1) + "\n").encode())
        report(f"wrote {args.output}")
    # Not `>`: a NaN does not fit either.
    over = [r for r in measured if r.precision == "fp16" and not r.largest <= LARGEST_FP16]
    if over:
        report(f"{len(over)} nodes do not fit fp16, the first: {over[0].graph} {over[0].node}")
    return 1 if over else 0


def _report(graph: str, measured: list[Range], top: int, report: Report) -> None:
    """Print a graph's nodes per type, those with the largest values first."""
    for precision in ("fp16", "fp32"):
        nodes = sorted((r for r in measured if r.precision == precision), key=lambda r: -r.largest)
        if not nodes:
            continue
        over = sum(r.largest > LARGEST_FP16 for r in nodes)
        report(f"{graph}: {len(nodes)} nodes in {precision}, {over} over {LARGEST_FP16:.0f}")
        for r in nodes[:top]:
            room = "infinite in fp16" if r.headroom < 1 else f"{math.floor(r.headroom)} x headroom"
            report(f"  {r.node:<28}{r.op:<20}{r.largest:>12.4g}  {room}")
