"""python -m validation: does a bundle compute what its checkpoint does?"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runtimes.bundle import Bundle, open_bundle
from runtimes.command import add_execution_options, execution_of, guarded, installed
from runtimes.errors import UsageError
from runtimes.manifest import GRAPHS
from runtimes.options import Options, check_static, make_plan
from validation.gate import Check, Gate, run_gate
from validation.graphs import graphs_for
from validation.recording import Recording, read_golden
from validation.tolerances import limits_for

_REFERENCE_ONLY = (
    "reference", "prior", "prompt", "negative_prompt", "seed", "steps", "decoder_steps", "height",
    "width",
)  # fmt: skip
_NEEDED = tuple(name for name in GRAPHS if name != "decoder_text_encoder")

PROMPT = "a small green star on the left and a large orange ring at the bottom right"


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m validation`."""
    found = argparse.ArgumentParser(
        prog="python -m validation",
        description="Run every graph and the whole trajectory of a bundle against diffusers on the "
        "same noise, print the differences, and exit with 1 when a limit is passed. "
        "'python -m validation bench' measures times.",
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
    add("--prompt", help="what to run (not with --golden)")
    add("--negative-prompt", help="negative prompt (not with --golden)")
    add("--seed", type=int, help="seed of the noise (not with --golden; default: 0)")
    add("--steps", type=int, help="even Stage C steps (not with --golden)")
    add("--decoder-steps", type=int, help="even Stage B steps (not with --golden)")
    add("--height", type=int, help="picture height in pixels (not with --golden)")
    add("--width", type=int, help="picture width in pixels (not with --golden)")
    add_execution_options(found)
    add("--verbose", action="store_true", help="print every step")
    add("--quiet", action="store_true", help="print errors and failures only")
    add("--json", action="store_true", help="print every measurement as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    return found  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 when every limit holds, 1 when one does not, 2 for bad use."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["bench"]:
        from validation.bench.cli import main as bench

        return bench(words[1:])
    args = parser().parse_args(words)
    return guarded(lambda: _run(args), debug=args.debug, interrupted="nothing was judged")


def _run(args: argparse.Namespace) -> int:
    gate = _measure(args)
    if args.json:
        print(json.dumps(dataclasses.asdict(gate) | {"failures": gate.failures}, indent=1))
    elif not args.quiet:
        _print(gate, verbose=args.verbose)
    if gate.failures:
        found = f"{len(gate.failures)} limits passed, the first at {gate.failures[0]}"
        print(f"error: {args.bundle}: {found}", file=sys.stderr)
        return 1
    return 0


def _measure(args: argparse.Namespace) -> Gate:
    bundle = open_bundle(args.bundle, verify_hashes=True)
    graphs = graphs_for(bundle, execution_of(args))
    names = ("torch", "diffusers", "transformers", "safetensors")
    missing = [name for name in names if not installed(name)]
    if args.golden or (missing and not args.reference):
        given = [name for name in _REFERENCE_ONLY if getattr(args, name) is not None]
        if given:
            raise UsageError(
                f"--{given[0].replace('_', '-')} is for a run against diffusers, which "
                + (
                    "--golden excludes"
                    if args.golden
                    else f"needs {missing[0]}: install [validation]"
                )
            )
        recording = read_golden(bundle.folder)
        _check_before(bundle, recording.options)
        return run_gate(bundle, graphs, recording)
    if missing:
        raise UsageError(
            f"--reference needs {missing[0]}: pip install 'wuerstchen-export[validation]', or "
            "compare with --golden"
        )
    return run_gate(bundle, graphs, _reference(args, bundle))


def _check_before(bundle: Bundle, options: Options) -> None:
    """Everything that can be refused, before the reference runs for minutes."""
    lacking = [name for name in _NEEDED if name not in bundle.manifest.graphs]
    if lacking:
        raise UsageError(f"{bundle.folder} holds no {lacking[0]}: only whole bundles are validated")
    limits_for(bundle.manifest.precision)
    check_static(bundle.manifest, make_plan(bundle.manifest.sampling, options, 1, None), 1)


def _reference(args: argparse.Namespace, bundle: Bundle) -> Recording:
    for name in ("DIFFUSERS", "TRANSFORMERS"):  # their notices at import, not their errors
        os.environ.setdefault(f"{name}_VERBOSITY", "error")
    from exporter.components import open_checkpoint
    from validation.checkpoints import reference_pair
    from validation.reference import record_reference

    options = Options(
        seed=args.seed or 0,
        steps=args.steps,
        decoder_steps=args.decoder_steps,
        height=args.height,
        width=args.width,
    )
    _check_before(bundle, options)
    model = bundle.manifest.model
    source, prior = reference_pair(model, args.reference, args.prior)
    checkpoint = open_checkpoint(source, prior, model.variant or None)
    prompt = PROMPT if args.prompt is None else args.prompt
    return record_reference(
        checkpoint, bundle.manifest, prompt, args.negative_prompt or "", options
    )


def _print(gate: Gate, *, verbose: bool) -> None:
    print(f"compared with: {gate.source}")
    for place in dict.fromkeys(gate.placements.values()):
        names = [name for name, used in gate.placements.items() if used == place]
        print(f"ran on: {place} ({', '.join(names)})")
    print()
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
