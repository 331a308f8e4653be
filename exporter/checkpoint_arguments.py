"""Which checkpoint a command line asks for: options, packages, folders."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.arguments import add_size_options
from runtimes.console import require
from runtimes.errors import UsageError

if TYPE_CHECKING:  # a missing package must be named before anything imports it
    from exporter.checkpoint.find import Source


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """The checkpoint and the picture it is to make."""
    parser.add_argument(
        "-m",
        "--model",
        metavar="DIR_OR_ID",
        help="diffusers folder or hub id of decoder and VQGAN, or a folder with the "
        "prior in it too (default: the demo checkpoint)",
    )
    parser.add_argument(
        "--prior",
        metavar="DIR_OR_ID",
        help="diffusers folder or hub id of the prior (default: the one the model "
        "card of --model names)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of --model on the hub")
    parser.add_argument("--prior-revision", help="branch, tag or commit of --prior on the hub")
    for flag, what, name in (
        ("--compressor", "semantic compressor, pictures to latents", "effnet_encoder.safetensors"),
        ("--preview", "previewer, Stage C's latents to pictures", "previewer.safetensors"),
    ):
        parser.add_argument(
            flag,
            type=Path,
            metavar="FILE",
            help=f"safetensors file of a {what} (default: {name} in the prior's folder, if any)",
        )
    parser.add_argument("--variant", help="weight files of a variant, such as fp16")
    parser.add_argument(
        "--stage-b-text",
        type=str.lower,
        choices=["keep", "drop"],
        default="keep",
        help="drop: Stage B without text, and without its text encoder (not exact; see README)",
    )
    add_size_options(parser, "default: the checkpoint's", "default picture")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """What is printed."""
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def require_export_packages() -> None:
    """One clear line where the export extra is not installed."""
    require(("huggingface_hub", "onnx", "onnx_ir", "onnxscript", "safetensors", "torch"), "export")


def find_sources(args: argparse.Namespace, *, weights: bool = True) -> "tuple[Source, Source]":
    """The two checkpoint folders of the command line; the demo's without --model."""
    from exporter.checkpoint.find import demo_pair, find_pair

    for name in ("height", "width"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}; it must be at least 1 pixel")
    if args.model is not None:
        revisions = (args.revision, args.prior_revision)
        return find_pair(args.model, args.prior, revisions, args.variant, weights=weights)
    for name in ("prior", "revision", "prior_revision"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} needs --model")
    return demo_pair()
