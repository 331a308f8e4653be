"""python -m quantization sensitivity: which weights stand which precision, and a plan from it."""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantization.calibration import RUNS, check_samples, held_out, record
from quantization.cli import (
    add_calibration_options,
    fp32_onnx_bundle,
    progress_of,
    prompts_of,
)
from quantization.plan_file import write_plan
from quantization.recipes import PRESETS, Plan, searchable
from quantization.search import Outcome, judged_runs, search
from quantization.trial import GROUPS
from runtimes.arguments import Parser, a_path, integer, number
from runtimes.bundle.read import Bundle
from runtimes.bundle.write import atomic_folder, check_new
from runtimes.console import require, run_cli

PRECISIONS = [name for name, plan in PRESETS.items() if searchable(plan.get("stage_b"))]


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m quantization sensitivity`."""
    command_line = Parser(
        prog="python -m quantization sensitivity",
        description="Quantise one group of a denoiser's weights at a time, rank the groups by the "
        "damage to epsilon over all timesteps, and with --target-db pick a mixed plan.",
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="fp32 ONNX bundle folder, from 'python -m exporter'")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("sensitivity"),
        help="folder to write sensitivity.json and sensitivity.png to, and plan.toml with "
        "--target-db (default: sensitivity)",
    )
    add(
        "--precision",
        type=str.lower,
        choices=PRECISIONS,
        default="int8",
        help="what the weights are quantised to (default: int8)",
    )
    add(
        "--target-db",
        type=number,
        help="pick a plan that keeps every timestep above this SQNR and keeps few weights from the "
        "precision: those are stored in blocks of int8, and in fp32 where that is not enough",
    )
    add(
        "--group",
        type=str.lower,
        choices=list(GROUPS),
        default="weight",
        help="what is quantised at a time: single weights, or whole blocks, which is faster for "
        "large models (default: weight)",
    )
    add("--runs", type=integer, default=RUNS, help=f"full runs to judge on (default: {RUNS})")
    add_calibration_options(command_line)
    add("--verbose", action="store_true", help="print each group as it is measured")
    add("--quiet", action="store_true", help="print errors only")
    add("--debug", action="store_true", help="show the traceback of an error")
    return command_line


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    _check(args)
    bundle = fp32_onnx_bundle(args.bundle)
    prompts, judged = held_out(prompts_of(args, bundle), args.runs)
    if args.precision == "int8":
        check_samples(bundle, args.samples)
    # First: a place that cannot be written, or is written by another process, is found out then.
    with atomic_folder(args.output, overwrite=False) as folder:
        plan, outcomes = _search(args, bundle, prompts, judged)
        _write(args, bundle, outcomes, plan, folder)
    if not args.quiet:
        for name, outcome in outcomes.items():
            _print(name, outcome)
        print(f"wrote {', '.join(_files(args))} to {args.output}")


def _search(
    args: argparse.Namespace, bundle: Bundle, prompts: Sequence[str], judged: Sequence[str]
) -> tuple[Plan, dict[str, Outcome]]:
    progress = progress_of(args)
    calibration = None
    if args.precision == "int8":  # nothing else is calibrated
        what = "runs to calibrate on"
        calibration = record(bundle, prompts, args.samples, args.seed, progress, what)
    plan = {name: recipe for name, recipe in PRESETS[args.precision].items() if recipe is not None}
    outcomes = search(
        bundle,
        plan,
        calibration,
        judged_runs(bundle, judged, progress),
        progress,
        target_db=args.target_db,
        group=args.group,
        rank=True,
        verbose=args.verbose,
    )
    return plan | {name: outcome.recipe for name, outcome in outcomes.items()}, outcomes


def _check(args: argparse.Namespace) -> None:
    require(("matplotlib",), "plot")
    check_new(args.output, "--output")


def _print(name: str, outcome: Outcome) -> None:
    print(f"{name}: each group alone, most harmful first{'values':>22}{'worst dB':>10}")
    for damage in outcome.damages:
        print(f"  {damage.group:<52}{damage.values:>12,}{damage.worst_db:>10.1f}")
    print(f"{name}: plans, and what else could be done to all weights")
    for point in outcome.plane:
        print(
            f"  {point.label:<32}{point.bytes / 1e6:>8.2f} MB{100 * point.kept:>7.1f} % kept"
            f"{100 * point.skipped:>7.1f} % fp32{point.worst_db:>10.1f} dB"
            f"{point.speed:>7.2f} x fp32's speed"
        )


def _files(args: argparse.Namespace) -> list[str]:
    plan = ["plan.toml"] if args.target_db is not None else []
    return ["sensitivity.json", "sensitivity.png", *plan]


def _write(
    args: argparse.Namespace,
    bundle: Bundle,
    outcomes: Mapping[str, Outcome],
    plan: Plan,
    folder: Path,
) -> None:
    from quantization.plot import plot

    value = {
        "model": bundle.manifest.model.id,
        "precision": args.precision,
        "target_db": args.target_db,
        "graphs": {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()},
    }
    names = _files(args)
    (folder / names[0]).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    title = f"{bundle.manifest.model.id}: {args.precision}"
    plot(folder / names[1], outcomes, title, args.target_db)
    if args.target_db is not None:
        write_plan(folder / names[2], args.precision, plan)
