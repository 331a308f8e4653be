"""python -m quantization: a bundle to a smaller one."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from quantization.backends import BACKENDS, require_packages
from quantization.calibration import default_prompts
from quantization.plan_file import read_plan
from quantization.quantize import Request, quantize
from quantization.recipes import MIXED_BITS, PRESETS, TARGETS, Int8, Int8Dynamic, MixedBits
from runtimes.arguments import Parser, a_path, integer, number
from runtimes.bundle.manifest import Island, Manifest
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import guarded, run_cli, subcommand
from runtimes.engines.onnxruntime_device import cpu_flags
from runtimes.errors import UsageError
from runtimes.progress import Progress
from runtimes.prompts import read_prompts

SAMPLES = 64
COMMANDS = {
    "sensitivity": "quantization.sensitivity_cli:main",
    "ranges": "quantization.ranges_cli:main",
}


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m quantization`."""
    command_line = Parser(
        prog="python -m quantization",
        description="Make a quantised bundle of an exported one. What was quantised, and what "
        "was not and why, is printed and kept in the new bundle's manifest. "
        "'python -m quantization sensitivity' finds out which weights stand it, "
        "'python -m quantization ranges' how large the values get that fp16 has to hold.",
    )
    add = command_line.add_argument
    add(
        "bundle",
        type=a_path,
        help="bundle folder, from 'python -m exporter': fp32, or fp16 of Core ML",
    )
    add("output", type=a_path, help="bundle folder to write")
    add(
        "--precision",
        type=str.lower,
        choices=list(PRESETS),
        help="fp16 (ONNX: full runs say what has to stay fp32); fp16-weights stores weights in "
        "fp16 and computes in fp32; int8-weights and int4-weights store weights in 8 or 4 bits; "
        "int8 also computes the denoisers' products in 8 bits, with ranges from calibration, or "
        "with int8-dynamic measured as it runs; palette8, palette6 and palette4 (Core ML) store "
        "the denoisers' weights as indices into tables of 256, 64 or 16 values",
    )
    add(
        "--plan",
        type=Path,
        metavar="FILE",
        help="TOML file with a recipe per graph and exceptions per weight, such as "
        "'python -m quantization sensitivity' writes (instead of --precision)",
    )
    add(
        "--average-bits",
        type=number,
        metavar="BITS",
        help="choose the form of each of the denoisers' weights at the least damage, so that they "
        "take so many bits on average, tables and scales included (instead of --precision; ONNX: "
        "integers of 2, 4 and 8 bits, Core ML: palettes of 1 to 8, both: fp16)",
    )
    add(
        "--twin",
        type=a_path,
        metavar="BUNDLE",
        help="Core ML: the fp32 ONNX bundle of the same model, which --average-bits measures on",
    )
    add(
        "--save-plan",
        type=Path,
        metavar="FILE",
        help="write the plan that was carried out, with what was chosen, for --plan",
    )
    add(
        "--target-db",
        type=number,
        metavar="DB",
        help="ONNX: keep few weights from the precision, so that every step of each denoiser stays "
        "above this SQNR; fp16: what every graph has to reach (default: "
        + ", ".join(f"{name} {db:g}" for name, db in TARGETS.items())
        + "; 0: none kept, fp16 not measured)",
    )
    add_calibration_options(command_line)
    add(
        "--overwrite",
        action="store_true",
        help="replace an existing bundle, when the new one is whole",
    )
    add("--verbose", action="store_true", help="list every weight")
    add("--quiet", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the record of every weight as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    return command_line


def add_calibration_options(command_line: argparse.ArgumentParser) -> None:
    """What int8 measures activations on."""
    add = command_line.add_argument
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="prompts to calibrate and judge on, one a line (default: a list of the program's own)",
    )
    add(
        "--samples",
        type=integer,
        default=SAMPLES,
        help=f"int8: steps of each denoiser to calibrate on, spread over all timesteps "
        f"(default: {SAMPLES})",
    )
    add("--seed", type=integer, default=0, help="int8: seed of the calibration runs (default: 0)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] and words[0] in COMMANDS:  # these look into ONNX graphs
        code = guarded(require_onnx, debug=False, interrupted="nothing was measured")
        other = None if code else subcommand(words, COMMANDS)
        return code if other is None else other(words[1:])
    return run_cli(parser(), _run, words, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    _check_source(args)
    if args.plan is not None and args.target_db is not None:
        raise UsageError("--target-db picks a plan: give it with --precision, not with --plan")
    precision, target = args.precision, args.target_db
    if args.plan is not None:
        precision, plan = read_plan(args.plan)
    elif args.average_bits is not None:
        precision, plan = MixedBits().name, MIXED_BITS
    else:
        plan = PRESETS[precision]
    bundle = open_bundle(args.bundle)
    if target is None and args.plan is None and bundle.manifest.backend == "onnx":
        target = TARGETS.get(precision)
    if any(isinstance(recipe, Int8 | Int8Dynamic) for recipe in plan.values()):
        _warn_without_vnni()
    request = Request(
        precision=precision,
        plan=plan,
        prompts=prompts_of(args, bundle),
        samples=args.samples,
        seed=args.seed,
        target_db=target,
        source=_source(args),
        overwrite=args.overwrite,
        average_bits=args.average_bits,
        twin=None if args.twin is None else open_bundle(args.twin),
        plan_file=args.save_plan,
    )
    manifest = quantize(bundle, args.output, request, progress_of(args))
    if args.json:
        print(json.dumps(dataclasses.asdict(manifest)["quantization"], indent=1))
    elif not args.quiet:
        _print(manifest, verbose=args.verbose)
        print(f"wrote {args.output}")


def _check_source(args: argparse.Namespace) -> None:
    """UsageError unless just one option says what to do, and the others go with it."""
    ways = {
        "--precision": args.precision,
        "--plan": args.plan,
        "--average-bits": args.average_bits,
    }
    given = [name for name, value in ways.items() if value is not None]
    if not given:
        raise UsageError("give --precision, --average-bits or --plan")
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} each say what every weight gets: give one")
    if args.average_bits is not None and args.target_db is not None:
        raise UsageError("--target-db picks exceptions of a precision: --average-bits has none")
    if args.twin is not None and args.average_bits is None:
        raise UsageError("--twin is what --average-bits measures on: give both or none")


def _source(args: argparse.Namespace) -> str:
    """Where the plan is from, for messages."""
    if args.plan is not None:
        return f"--plan {args.plan}"
    return "--precision" if args.average_bits is None else "--average-bits"


def require_onnx() -> None:
    """UsageError where what measures ONNX bundles is not installed."""
    require_packages(BACKENDS["onnx"])


def fp32_onnx_bundle(folder: Path) -> Bundle:
    """A bundle whose graphs can be measured from inside."""
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    if (manifest.backend, manifest.precision) != ("onnx", "fp32"):
        what = f"{manifest.backend} {manifest.precision}"
        raise UsageError(f"{folder} is a {what} bundle; give the fp32 onnx bundle of the model")
    if any(graph.is_ort for graph in manifest.graphs.values()):
        raise UsageError(f"{folder} has graphs in ORT format; give the bundle it was made of")
    return bundle


def progress_of(args: argparse.Namespace) -> Progress:
    """Nothing under --quiet and --json."""
    return Progress(quiet=args.quiet or getattr(args, "json", False))


def _warn_without_vnni() -> None:
    """Without int8 dot products, sums of pairs of products saturate in 16 bits.

    Measured on the demo with ONEDNN_MAX_CPU_ISA=AVX512_CORE: docs/quantization.md.
    """
    flags = cpu_flags()
    if flags and not flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}:
        print(
            "warning: this CPU has no int8 dot product (VNNI, AMX, Arm dotprod): on such a one "
            "OpenVINO's sums saturate, and the demo's worst step fell from 30.8 to 28.0 dB; "
            "int8-weights does not suffer from it",
            file=sys.stderr,
        )


def prompts_of(args: argparse.Namespace, bundle: Bundle) -> list[str]:
    """The prompts of --calibration, or the list for this bundle's model."""
    if args.calibration is not None:
        return read_prompts(args.calibration, "--calibration", distinct=True)
    return default_prompts(bundle.manifest.model)


def _print_islands(islands: Sequence[Island], *, verbose: bool) -> None:
    """What stays fp32 for its range: the first few, or all of it."""
    if islands:
        print(f"  {len(islands)} nodes in fp32 for their range:")
    for island in islands if verbose else islands[:3]:
        print(f"    {island.node} ({island.op}): {island.reason}")
    if len(islands) > 3 and not verbose:
        print(f"    and {len(islands) - 3} more: --verbose, or the manifest")


def _print(manifest: Manifest, *, verbose: bool) -> None:
    print(f"{'graph':<22}{'recipe':<14}{'quantised':>10}{'in float':>10}{'MB':>9}{'of before':>10}")
    for name, record in manifest.quantization.items():
        done = [weight for weight in record.weights if not weight.reason]
        share = record.bytes_after / record.bytes_before
        print(
            f"{name:<22}{record.recipe:<14}{len(done):>10}{len(record.weights) - len(done):>10}"
            f"{record.bytes_after / 1e6:>9.2f}{share:>10.2f}"
            + (f"   worst step {record.worst_db:.1f} dB" if record.worst_db else "")
            + (f", {record.average_bits:.2f} bits a weight" if record.average_bits else "")
        )
        if record.kernels:
            ran = ", ".join(f"{count} {name}" for name, count in record.kernels.items())
            print(f"  products on ONNX Runtime: {ran}")
        _print_islands(record.islands, verbose=verbose)
        reasons = [weight.reason for weight in record.weights if weight.reason]
        for reason in dict.fromkeys(reasons):
            print(f"  {reasons.count(reason)} in float: {reason}")
        for weight in record.weights if verbose else ():
            kernel = f", {weight.kernel}" if weight.kernel else ""
            print(f"  {weight.name}: {weight.stored}{kernel}")
