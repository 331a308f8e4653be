"""The default command of python -m validation: does a bundle compute what its checkpoint does?"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runtimes.arguments import add_size_options, execution_of, integer, settle_size
from runtimes.bundle.manifest import GRAPHS
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import install_hint, require
from runtimes.errors import UsageError
from runtimes.plan import Options, check_static, make_plan
from runtimes.progress import Progress
from runtimes.prompts import argument_text
from runtimes.recording import Recording, read_golden
from runtimes.tolerances import limits_for
from validation.parity.gate import run_gate
from validation.parity.graphs import graphs_for
from validation.parity.terminal import print_gate
from validation.quality.prompts import prompts_for
from validation.report.collect import naming
from validation.report.command import Request, check_request, entries_of
from validation.report.command import run as run_comparison

# What the reference runs on, and the options that only a run of it can take.
_REFERENCE_PACKAGES = ("torch", "diffusers", "transformers", "safetensors")
_REFERENCE_ONLY = (
    "reference", "prior", "prompt", "negative_prompt", "seed", "steps", "decoder_steps", "height",
    "width",
)  # fmt: skip
_NEEDED = tuple(name for name in GRAPHS if name != "decoder_text_encoder")

REPEATS = 3
PROMPT = "a small green star on the left and a large orange ring at the bottom right"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The bundles, what they are compared with, and where the report goes."""
    add = parser.add_argument
    add(
        "bundles",
        type=Path,
        nargs="+",
        metavar="BUNDLE",
        help="bundle folder, from 'python -m exporter' or 'python -m quantization'",
    )
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="new folder for report.html, a page that needs nothing else, and report.json",
    )
    add(
        "--repeats",
        type=integer,
        help="comparison: timed runs of each bundle, in turn (default: 3)",
    )
    add(
        "--pictures",
        type=integer,
        metavar="N",
        help="comparison: further pictures of each variant to score, by the judge on the demo, "
        "else by CLIP score, FID and Inception score, where their weights are (see 'quality')",
    )
    add(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="comparison: what to make them of, a prompt "
        "a line (default for the demo: held-out scenes)",
    )
    _add_reference_options(parser)
    add("--verbose", action="store_true", help="print every step")


def _add_reference_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
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
    add("--seed", type=integer, help="seed of the noise (not with --golden; default: 0)")
    add("--steps", type=integer, help="even Stage C steps (not with --golden)")
    add("--decoder-steps", type=integer, help="even Stage B steps (not with --golden)")
    add_size_options(parser, "not with --golden")


def run(args: argparse.Namespace) -> int:
    settle_size(args)
    if len(args.bundles) > 1 or args.report is not None:
        return _compare(args)
    for name in ("repeats", "pictures", "prompts"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is for a comparison: give --report, or several bundles")
    bundle = open_bundle(args.bundles[0])
    graphs = graphs_for(bundle, execution_of(args))
    gate = run_gate(bundle, graphs, _recording(args, [bundle]), progress=_progress(args))
    if args.json:
        print(json.dumps(dataclasses.asdict(gate) | {"failures": gate.failures}, indent=1))
    elif not args.quiet:
        print_gate(gate, verbose=args.verbose)
    if gate.failures:
        failed = f"{len(gate.failures)} limits failed, the first at {gate.failures[0]}"
        print(f"error: {bundle.folder}: {failed}", file=sys.stderr)
        return 1
    return 0


def _compare(args: argparse.Namespace) -> int:
    repeats = REPEATS if args.repeats is None else args.repeats
    bundles = [open_bundle(folder) for folder in args.bundles]
    prompts = None
    if args.pictures != 0 and (args.pictures is not None or args.prompts is not None):
        prompts = prompts_for(bundles[0].manifest.model, args.prompts, args.pictures, "--pictures")
    request = Request(args.report, repeats, prompts, args.verbose, args.quiet, args.json)
    check_request(request, bundles)
    entries = entries_of(bundles, execution_of(args))
    return run_comparison(request, entries, _recording(args, bundles), execution_of(args))


def _recording(args: argparse.Namespace, bundles: Sequence[Bundle]) -> Recording:
    """The run that all the bundles, which are of one model, are compared with."""
    if not _takes_golden(args):
        return _reference(args, bundles)
    recording = read_golden(bundles[0])
    _check_before(bundles, recording.options)
    return recording


def _takes_golden(args: argparse.Namespace) -> bool:
    """Whether the recorded run is compared with: when asked for, or where diffusers cannot run.

    A checkpoint named by --reference is never replaced by it. UsageError for options that do not
    go with the decision.
    """
    if not args.golden and args.reference:
        _require_reference("--reference", other=", or compare with --golden")
        return False
    golden: bool = args.golden or bool(install_hint(_REFERENCE_PACKAGES, "validation"))
    if golden:
        _refuse_reference_options(args)
    return golden


def _require_reference(flag: str, *, other: str = "") -> None:
    """UsageError where a package that the run against diffusers takes is not installed."""
    require(_REFERENCE_PACKAGES, "validation", note=f", which {flag} needs", other=other)


def _refuse_reference_options(args: argparse.Namespace) -> None:
    """UsageError for the first option that the recorded run, which is what it is, cannot take."""
    for name in _REFERENCE_ONLY:
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            if not args.golden:
                _require_reference(flag)
            raise UsageError(f"{flag} is for a run against diffusers, which --golden excludes")


def _check_before(bundles: Sequence[Bundle], options: Options) -> None:
    """Everything that can be refused, before the reference runs for minutes."""
    for bundle in bundles:
        manifest = bundle.manifest
        lacking = [name for name in _NEEDED if name not in manifest.graphs]
        if lacking:
            raise UsageError(
                f"{bundle.folder} holds no {lacking[0]}: only whole bundles are validated"
            )
        with naming(bundle.folder.name) if len(bundles) > 1 else contextlib.nullcontext():
            limits_for(manifest.precision)
            check_static(manifest, make_plan(manifest.sampling, options, 1, None), 1)


def _reference(args: argparse.Namespace, bundles: Sequence[Bundle]) -> Recording:
    for name in ("DIFFUSERS", "TRANSFORMERS"):  # their notices at import, not their errors
        os.environ.setdefault(f"{name}_VERBOSITY", "error")
    from exporter.checkpoint.open import open_checkpoint
    from validation.parity.checkpoints import check_architecture, check_no_adapters, reference_pair
    from validation.torchvision_models import let_torchvision_import

    let_torchvision_import()
    from validation.parity.reference import record_reference

    manifest = bundles[0].manifest
    check_no_adapters(bundles[0])
    options = Options(
        seed=args.seed or 0,
        steps=args.steps,
        decoder_steps=args.decoder_steps,
        # Written out, for the defaults of further bundles may differ.
        height=manifest.sampling.height if args.height is None else args.height,
        width=manifest.sampling.width if args.width is None else args.width,
    )
    _check_before(bundles, options)
    source, prior = reference_pair(manifest.model, args.reference, args.prior)
    checkpoint = open_checkpoint(source, prior, manifest.model.variant or None)
    check_architecture(checkpoint, manifest)
    prompt = PROMPT if args.prompt is None else argument_text(args.prompt, "--prompt")
    negative = argument_text(args.negative_prompt or "", "--negative-prompt")
    return record_reference(checkpoint, manifest, prompt, negative, options, _progress(args))


def _progress(args: argparse.Namespace) -> Progress:
    return Progress(quiet=args.quiet or args.json)
