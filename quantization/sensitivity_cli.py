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
    prompts_of,
    reporter,
)
from quantization.plan_file import write_plan
from quantization.recipes import PRESETS, Plan, searchable
from quantization.search import Found, judged_runs, search
from quantization.sensitivity import GROUPS
from runtimes.atomic import atomic_folder, check_new
from runtimes.bundle import Bundle
from runtimes.command import guarded, installed
from runtimes.errors import UsageError

PRECISIONS = [name for name, plan in PRESETS.items() if searchable(plan.get("stage_b"))]


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m quantization sensitivity`."""
    found = argparse.ArgumentParser(
        prog="python -m quantization sensitivity",
        description="Quantise one group of a denoiser's weights at a time, rank the groups by the "
        "damage to epsilon over all timesteps, and with --target-db pick a mixed plan.",
    )
    add = found.add_argument
    add("bundle", type=Path, help="fp32 ONNX bundle folder, from 'python -m exporter'")
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
        choices=PRECISIONS,
        default="int8",
        help="what the weights are quantised to (default: int8)",
    )
    add(
        "--target-db",
        type=float,
        help="pick a plan that keeps every timestep above this SQNR and keeps few weights from the "
        "precision: those get int8 weights and float activations",
    )
    add(
        "--group",
        choices=list(GROUPS),
        default="weight",
        help="what is quantised at a time: single weights, or whole blocks, which is faster for "
        "large models (default: weight)",
    )
    add("--runs", type=int, default=RUNS, help=f"full runs to judge on (default: {RUNS})")
    add_calibration_options(found)
    add("--verbose", action="store_true", help="print each group as it is measured")
    add("--quiet", action="store_true", help="print errors only")
    add("--debug", action="store_true", help="show the traceback of an error")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _run(args), debug=args.debug, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    _check(args)
    bundle = fp32_onnx_bundle(args.bundle)
    prompts, judged = held_out(prompts_of(args, bundle), args.runs)
    report = reporter(args)
    calibration = None
    if args.precision == "int8":  # nothing else is calibrated
        check_samples(bundle, args.samples)
        report(f"recording {args.samples} steps of each denoiser")
        calibration = record(bundle, prompts, args.samples, args.seed)
    report(f"recording {len(judged)} runs to judge on")
    plan = {name: recipe for name, recipe in PRESETS[args.precision].items() if recipe is not None}
    found = search(
        bundle,
        plan,
        calibration,
        judged_runs(bundle, judged),
        report if args.verbose else lambda line: None if line.startswith("[") else report(line),
        target_db=args.target_db,
        group=args.group,
        rank=True,
    )
    if not args.quiet:
        for name, own in found.items():
            _print(name, own)
    _write(args, bundle, found, plan | {name: own.recipe for name, own in found.items()})


def _check(args: argparse.Namespace) -> None:
    if not installed("matplotlib"):
        raise UsageError("matplotlib is not installed: pip install 'wuerstchen-export[plot]'")
    check_new(args.output, "--output")


def _print(name: str, found: Found) -> None:
    print(f"{name}: each group alone, most harmful first{'values':>22}{'worst dB':>10}")
    for damage in found.damages:
        print(f"  {damage.group:<52}{damage.values:>12,}{damage.worst_db:>10.1f}")
    print(f"{name}: plans, and what else could be done to all weights")
    for point in found.plane:
        print(
            f"  {point.label:<32}{point.bytes / 1e6:>8.2f} MB{100 * point.kept:>7.1f} % kept"
            f"{point.worst_db:>10.1f} dB"
        )


def _write(
    args: argparse.Namespace, bundle: Bundle, found: Mapping[str, Found], plan: Plan
) -> None:
    from quantization.plot import plot

    value = {
        "model": bundle.manifest.model.id,
        "precision": args.precision,
        "target_db": args.target_db,
        "graphs": {name: dataclasses.asdict(own) for name, own in found.items()},
    }
    names = ["sensitivity.json", "sensitivity.png", *["plan.toml"] * (args.target_db is not None)]
    with atomic_folder(args.output) as folder:
        text = json.dumps(value, indent=1) + "\n"
        (folder / names[0]).write_text(text, encoding="utf-8")
        title = f"{bundle.manifest.model.id}: {args.precision}"
        plot(folder / names[1], found, title, args.target_db)
        if args.target_db is not None:
            write_plan(folder / names[2], args.precision, plan)
    reporter(args)(f"wrote {', '.join(names)} to {args.output}")
