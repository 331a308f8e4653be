"""python -m validation: does a bundle compute what its checkpoint does?"""

import argparse
import dataclasses
import importlib.util
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from runtimes.bundle import Bundle, open_bundle
from runtimes.errors import RunError, UsageError
from runtimes.options import Options
from validation.gate import Check, Gate, run_gate
from validation.recording import Recording, read_golden
from validation.tolerances import limits_for

PROMPT = "a small green star on the left and a large orange ring at the bottom right"


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m validation`."""
    found = argparse.ArgumentParser(
        prog="python -m validation",
        description="Run every graph and the whole trajectory of a bundle against diffusers on the "
        "same noise, print the differences, and exit with 1 when a limit is passed.",
    )
    add = found.add_argument
    add("bundle", type=Path, help="bundle folder, from 'python -m exporter'")
    add(
        "--reference",
        metavar="DIR_OR_ID",
        help="checkpoint to compare with (default: the one the bundle was made from)",
    )
    add("--prior", metavar="DIR_OR_ID", help="prior of --reference, as in the exporter")
    add(
        "--golden",
        action="store_true",
        help="compare with the run recorded in the bundle: needs no PyTorch, no checkpoint "
        "(the default where PyTorch is not installed)",
    )
    add("--prompt", default=PROMPT, help="what to run (not with --golden)")
    add("--negative-prompt", default="", help="negative prompt (not with --golden)")
    add("--seed", type=int, default=0, help="seed of the noise (not with --golden)")
    add("--steps", type=int, help="even Stage C steps (default: the bundle's schedule)")
    add("--decoder-steps", type=int, help="even Stage B steps (default: the bundle's schedule)")
    add("--height", type=int, help="picture height in pixels (default: the bundle's)")
    add("--width", type=int, help="picture width in pixels (default: the bundle's)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--verbose", action="store_true", help="print every step")
    add("--quiet", action="store_true", help="print errors and failures only")
    add("--json", action="store_true", help="print every measurement as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    return found  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 when every limit holds, 1 when one does not, 2 for bad use."""
    args = parser().parse_args(argv)
    try:
        gate = _measure(args)
    except (UsageError, RunError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(dataclasses.asdict(gate) | {"failures": gate.failures}, indent=1))
    elif not args.quiet:
        _print(gate, verbose=args.verbose)
    if gate.failures:
        print(f"error: {args.bundle}: {len(gate.failures)} limits passed, the first at "
              f"{gate.failures[0]}", file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _measure(args: argparse.Namespace) -> Gate:
    bundle = open_bundle(args.bundle, verify_hashes=True)
    limits = limits_for(bundle.manifest.precision)
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
    if args.reference and args.golden:
        raise UsageError("--golden and --reference exclude each other")
    if args.golden or (not has_torch and not args.reference):
        return run_gate(bundle, args.device, read_golden(bundle.folder), limits)
    if not has_torch:
        raise UsageError("--reference needs PyTorch and diffusers: pip install "
                         "'wuerstchen-export[validation]', or compare with --golden")  # fmt: skip
    return run_gate(bundle, args.device, _reference(args, bundle), limits)


def _reference(args: argparse.Namespace, bundle: Bundle) -> Recording:
    from exporter.components import open_checkpoint
    from validation.checkpoints import reference_pair
    from validation.reference import record_reference

    options = Options(
        seed=args.seed,
        steps=args.steps,
        decoder_steps=args.decoder_steps,
        height=args.height,
        width=args.width,
    )
    source, prior = reference_pair(bundle.manifest.model, args.reference, args.prior)
    checkpoint = open_checkpoint(source, prior, None)
    return record_reference(checkpoint, bundle.manifest, args.prompt, args.negative_prompt, options)


def _print(gate: Gate, *, verbose: bool) -> None:
    print(f"compared with: {gate.source}\n")
    print("each graph on the reference's inputs (denoisers: the worst step)")
    _print_checks(gate.graphs)
    if verbose:
        print("\ndenoisers, step by step")
        _print_checks(gate.steps)
    print("\nthe whole run on the same noise: latents after a step"
          + ("" if verbose else " (worst and last; --verbose shows all)"))  # fmt: skip
    _print_checks(gate.trajectory if verbose else _worst_and_last(gate.trajectory))
    verdict = "ok" if gate.picture_db >= gate.picture_limit_db else "FAILED"
    print(f"\npicture: PSNR {gate.picture_db:.1f} dB (limit {gate.picture_limit_db:g}) {verdict}")


def _worst_and_last(checks: Sequence[Check]) -> list[Check]:
    """Per denoiser, the step furthest off and the last one; failures are always among them."""
    found = []
    for graph in ("stage_c", "stage_b"):
        own = [check for check in checks if check.what.startswith(graph)]
        worst = max(own, key=lambda check: check.relative)
        found += [check for check in own if check in (worst, own[-1]) or not check.passed]
    return found


def _print_checks(checks: Sequence[Check]) -> None:
    print(f"{'':<34}{'max abs':>10}{'relative':>10}{'SQNR dB':>9}")
    for check in checks:
        verdict = "ok" if check.passed else f"FAILED: {check.limit}"
        print(
            f"{check.what:<34}{check.max_abs:>10.1e}{check.relative:>10.1e}"
            f"{check.sqnr_db:>9.1f}  {verdict}"
        )
