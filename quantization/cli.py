"""python -m quantization: a bundle to a smaller one."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from quantization.calibration import default_prompts, read_prompts
from quantization.plan_file import read_plan
from quantization.quantize import Request, quantize
from quantization.recipes import PRESETS
from runtimes.bundle import Bundle, open_bundle
from runtimes.command import guarded, installed
from runtimes.errors import UsageError
from runtimes.manifest import Manifest

SAMPLES = 64


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m quantization`."""
    found = argparse.ArgumentParser(
        prog="python -m quantization",
        description="Make a quantised bundle of an fp32 ONNX bundle. What was quantised, and what "
        "was not and why, is printed and kept in the new bundle's manifest. "
        "'python -m quantization sensitivity' finds out which weights stand it.",
    )
    add = found.add_argument
    add("bundle", type=Path, help="fp32 ONNX bundle folder, from 'python -m exporter'")
    add("output", type=Path, help="bundle folder to write")
    add(
        "--precision",
        choices=list(PRESETS),
        help="int8-weights and int4-weights store weights in 8 or 4 bits; int8 also computes the "
        "denoisers' convolutions in 8 bits, which needs calibration",
    )
    add(
        "--plan",
        type=Path,
        metavar="FILE",
        help="TOML file with a recipe per graph and exceptions per weight, such as "
        "'python -m quantization sensitivity' writes (instead of --precision)",
    )
    add_calibration_options(found)
    add(
        "--overwrite",
        action="store_true",
        help="replace an existing bundle, when the new one is whole",
    )
    add("--verbose", action="store_true", help="list every weight")
    add("--quiet", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the record of every weight as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    return found


def add_calibration_options(found: argparse.ArgumentParser) -> None:
    """What int8 measures activations on."""
    add = found.add_argument
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="int8: prompts to calibrate on, one a line (default: a list of the program's own)",
    )
    add(
        "--samples",
        type=int,
        default=SAMPLES,
        help=f"int8: steps of each denoiser to calibrate on, spread over all timesteps "
        f"(default: {SAMPLES})",
    )
    add("--seed", type=int, default=0, help="int8: seed of the calibration runs (default: 0)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["sensitivity"]:
        from quantization.sensitivity_cli import main as sensitivity

        return sensitivity(words[1:])
    args = parser().parse_args(words)
    return guarded(lambda: _run(args), debug=args.debug, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    if (args.precision is None) == (args.plan is None):
        raise UsageError("give --precision or --plan")
    require_packages()
    precision = args.precision
    if args.plan is not None:
        precision, plan = read_plan(args.plan)
    else:
        plan = PRESETS[precision]
    bundle = open_bundle(args.bundle, verify_hashes=True)
    prompts = prompts_of(args, bundle)
    request = Request(precision, plan, prompts, args.samples, args.seed, args.overwrite)
    silent = args.quiet or args.json
    report = (lambda line: None) if silent else (lambda line: print(line, flush=True))
    manifest = quantize(bundle, args.output, request, report)
    if args.json:
        print(json.dumps(dataclasses.asdict(manifest)["quantization"], indent=1))
    elif not args.quiet:
        _print(manifest, verbose=args.verbose)
        print(f"wrote {args.output}")


def require_packages() -> None:
    """UsageError where the quantization extra is not installed."""
    needed = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
    missing = [name for name in needed if not installed(name)]
    if missing:
        raise UsageError(
            f"{missing[0]} is not installed: pip install 'wuerstchen-export[quantization,cpu]'"
        )


def prompts_of(args: argparse.Namespace, bundle: Bundle) -> list[str]:
    """The prompts of --calibration, or the list for this bundle's model."""
    if args.calibration is not None:
        return read_prompts(args.calibration)
    return default_prompts(bundle.manifest.model)


def _print(manifest: Manifest, *, verbose: bool) -> None:
    print(f"{'graph':<22}{'recipe':<14}{'quantised':>10}{'in float':>10}{'MB':>9}{'of fp32':>9}")
    for name, record in manifest.quantization.items():
        done = [weight for weight in record.weights if not weight.reason]
        share = record.bytes_after / record.bytes_before
        print(
            f"{name:<22}{record.recipe:<14}{len(done):>10}{len(record.weights) - len(done):>10}"
            f"{record.bytes_after / 1e6:>9.2f}{share:>9.2f}"
        )
        reasons = [weight.reason for weight in record.weights if weight.reason]
        for reason in dict.fromkeys(reasons):
            print(f"  {reasons.count(reason)} in float: {reason}")
        for weight in record.weights if verbose else ():
            print(f"  {weight.name}: {weight.stored}")
