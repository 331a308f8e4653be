"""python -m quantization sensitivity: which weights stand which precision, and a plan from it."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from quantization.calibration import DENOISERS, record
from quantization.cli import add_calibration_options, prompts_of, require_packages
from quantization.plan_file import RECIPES, write_plan
from quantization.recipes import PRESETS, Int8, IntegerWeights, Plan
from quantization.sensitivity import Damage, Trial, damages, decibels, evaluation_of, pick
from runtimes.bundle import Bundle, open_bundle
from runtimes.command import guarded
from runtimes.errors import UsageError

EVALUATION_SEED = 1 << 20  # far from any seed one calibrates with


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m quantization sensitivity`."""
    found = argparse.ArgumentParser(
        prog="python -m quantization sensitivity",
        description="Quantise one weight of a denoiser at a time, rank the weights by the damage "
        "to epsilon over all timesteps, and with --target-db pick a mixed plan.",
    )
    add = found.add_argument
    add("bundle", type=Path, help="fp32 ONNX bundle folder, from 'python -m exporter'")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("sensitivity"),
        help="folder to write sensitivity.json to, and plan.toml with --target-db "
        "(default: sensitivity)",
    )
    add(
        "--precision",
        choices=["int8", "int4-weights", "int8-weights"],
        default="int8",
        help="what the weights are quantised to (default: int8)",
    )
    add(
        "--target-db",
        type=float,
        help="pick the plan that keeps every timestep above this SQNR and keeps the fewest weights "
        "from the precision: those get int8 weights and float activations",
    )
    add("--runs", type=int, default=2, help="full runs to judge on (default: 2)")
    add_calibration_options(found)
    add("--quiet", action="store_true", help="print errors only")
    add("--debug", action="store_true", help="show the traceback of an error")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _run(args), debug=args.debug, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    _check(args)
    bundle = open_bundle(args.bundle, verify_hashes=True)
    if bundle.manifest.backend != "onnx" or bundle.manifest.precision != "fp32":
        raise UsageError(f"{args.bundle} is no fp32 onnx bundle")
    prompts = prompts_of(args, bundle)
    if args.runs > len(prompts):
        raise UsageError(f"--runs {args.runs} needs as many prompts, there are {len(prompts)}")
    report = (lambda line: None) if args.quiet else (lambda line: print(line, flush=True))
    report(f"recording {args.samples} steps of each denoiser")
    calibration = record(bundle, prompts, args.samples, args.seed)
    steps = {name: len(getattr(bundle.manifest.sampling, name).schedule) for name in DENOISERS}
    judged = record(bundle, prompts[: args.runs], args.runs * max(steps.values()), EVALUATION_SEED)
    found, plan = {}, dict(PRESETS[args.precision])
    for name in DENOISERS:
        graph = bundle.path(bundle.graph(name).file)
        evaluation = evaluation_of(graph, judged.feeds[name])
        recipe = RECIPES[args.precision]
        assert isinstance(recipe, Int8 | IntegerWeights)
        trial = Trial(graph, recipe, calibration.feeds[name], evaluation)
        try:
            report(f"{name}, uniform {args.precision}: {decibels(trial.noise().max()):.1f} dB")
            found[name] = damages(trial, report if args.debug else lambda line: None)
            if not args.quiet:
                _print(name, found[name])
            if args.target_db is not None:
                keep, noise = pick(trial, found[name], args.target_db)
                plan[name] = dataclasses.replace(recipe, keep=keep)
                kept = sum(trial.values[weight] for weight in keep) / sum(trial.values.values())
                report(
                    f"{name}, picked: {decibels(noise.max()):.1f} dB with {len(keep)} of "
                    f"{len(trial.values)} weights kept ({100 * kept:.0f} % of the values)"
                )
        finally:
            trial.close()
    _write(args, bundle, found, plan)


def _check(args: argparse.Namespace) -> None:
    require_packages()
    if args.output.exists() and not (args.output.is_dir() and not any(args.output.iterdir())):
        raise UsageError(f"--output {args.output} exists; choose another folder")
    if args.runs < 1:
        raise UsageError(f"--runs is {args.runs}; it must be at least 1")


def _print(name: str, found: Sequence[Damage]) -> None:
    print(f"{name}: each weight alone, most harmful first{'values':>22}{'worst dB':>10}")
    for damage in found:
        print(f"  {damage.weight:<52}{damage.values:>12,}{damage.worst_db:>10.1f}")


def _write(
    args: argparse.Namespace,
    bundle: Bundle,
    found: dict[str, list[Damage]],
    plan: Plan,
) -> None:
    args.output.mkdir(parents=True, exist_ok=True)
    value = {
        "model": bundle.manifest.model.id,
        "precision": args.precision,
        "graphs": {name: [dataclasses.asdict(d) for d in own] for name, own in found.items()},
    }
    text = json.dumps(value, indent=1) + "\n"
    (args.output / "sensitivity.json").write_text(text, encoding="utf-8")
    if args.target_db is not None:
        write_plan(args.output / "plan.toml", args.precision, plan)
    if not args.quiet:
        names = "sensitivity.json" + (" and plan.toml" if args.target_db is not None else "")
        print(f"wrote {names} to {args.output}")
