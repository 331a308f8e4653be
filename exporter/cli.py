"""python -m exporter: checkpoint to bundle."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.checkpoint_arguments import (
    add_checkpoint_options,
    add_output_options,
    find_sources,
    require_export_packages,
)
from exporter.golden import SHORT_STEPS, GoldenSteps
from runtimes.arguments import Parser, integer, settle_size, size
from runtimes.bundle.manifest import ALL_GRAPHS
from runtimes.console import guarded, require, run_cli, subcommand
from runtimes.errors import UsageError

if TYPE_CHECKING:
    from exporter.options import ExportOptions

COMMANDS = {
    "inspect": "exporter.inspect_cli:main",
    "mobile": "exporter.mobile.cli:main",
    "sign": "exporter.signing:main_sign",
    "triton": "exporter.triton.cli:main",
    "verify": "exporter.signing:main_verify",
}
DEFAULT_OUTPUT = "wuerstchen-bundle"
_INTERRUPTED = "no bundle was written; --resume goes on from the graphs that are finished"


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter`."""
    command_line = Parser(
        prog="python -m exporter",
        description="Export a Wuerstchen checkpoint to a bundle of graphs that needs no PyTorch. "
        "'python -m exporter inspect' prints its costs instead, 'mobile' makes a bundle for phones "
        "of one, 'triton' a model repository, 'sign' and 'verify' sign it.",
    )
    add_arguments(command_line)
    return command_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The export options, for `python -m exporter` and `optimum-cli export wuerstchen`."""
    parser.add_argument(
        "output",
        nargs="?",
        default=DEFAULT_OUTPUT,
        type=Path,
        help=f"bundle folder to write (default: {DEFAULT_OUTPUT})",
    )
    add_checkpoint_options(parser)
    _format_options(parser)
    _backend_options(parser)
    _content_options(parser)
    _run_options(parser)
    add_output_options(parser)


def _content_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modules",
        nargs="+",
        metavar="GRAPH",
        help=f"graphs to export, of: {', '.join(ALL_GRAPHS)} (default: all that the checkpoint "
        "has, stage_a_encoder with a compressor)",
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:SCALE]",
        help="LoRA adapter to fuse into the prior and its text encoder: a safetensors file or its "
        "folder, and its weight (default: 1); may be given several times",
    )
    parser.add_argument(
        "--embedding",
        action="append",
        default=[],
        metavar="FILE[:TOKEN]",
        help="textual-inversion embedding to add to the text encoders that are as wide: a "
        "safetensors file, and the word for it (default: the file's own); may be given several "
        "times",
    )


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-golden", action="store_true", help="record no golden run")
    parser.add_argument(
        "--golden-steps",
        type=_golden_steps,
        metavar="C,B",
        help="even steps of Stage C and Stage B in the golden run, which PyTorch records, or "
        "'full': the default schedules (default: "
        f"{','.join(map(str, SHORT_STEPS))}; for the demo checkpoint full)",
    )
    parser.add_argument(
        "--preview-pictures",
        type=integer,
        default=1,
        metavar="N",
        help="pictures that the preview without a graph is fitted to: the golden run's and N - 1 "
        "more, which PyTorch makes; one alone says little of others (default: 1)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with an export that did not end, or add --modules to a bundle: finished "
        "graphs of the same checkpoint, options and versions are kept if their files are whole",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing bundle, once the new one is whole",
    )


def _format_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        type=str.lower,
        choices=["onnx", "openvino", "coreml", "executorch", "litert"],
        default="onnx",
        help="graph format (default: onnx, which OpenVINO runs too)",
    )
    parser.add_argument(
        "--precision",
        type=str.lower,
        choices=["fp32", "fp16", "int8-dynamic"],
        help="type the graphs compute in, OpenVINO: of its stored weights; norms and reductions "
        "stay fp32, and no range is measured: 'python -m quantization' does that (default: fp32, "
        "for coreml fp16); litert has fp32 alone; executorch has fp32 and int8-dynamic, whose "
        "products round weights and activations to 8 bits",
    )
    parser.add_argument(
        "--static",
        action="store_true",
        help="fix batch, height and width instead of leaving them open (coreml, executorch, "
        "litert: always)",
    )
    parser.add_argument(
        "--fused-attention",
        action="store_true",
        help="onnx: one Attention operator (opset 23) where the denoisers attend, for CUDA's flash "
        "attention",
    )


def _backend_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=integer, default=1, help="pictures at a time, with --static"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=size,
        default=[],
        metavar="HEIGHTxWIDTH",
        help="coreml: further picture sizes in pixels, such as 512x768, as functions of the same "
        "packages (iOS 18, macOS 15 and later); give OUTPUT before it",
    )
    parser.add_argument(
        "--deployment-target",
        metavar="TARGET",
        help="coreml: oldest system the packages run on, such as iOS18 or macOS15",
    )
    parser.add_argument(
        "--islands",
        type=str.lower,
        choices=["safe", "least"],
        help="coreml in fp16: what stays fp32; 'least' is what the demo needs for 50 dB, for the "
        "Neural Engine, and holds less range (default: safe)",
    )
    parser.add_argument(
        "--openvino-tokenizer",
        action="store_true",
        help="openvino: write the tokenizer as a graph too, for hosts in C++",
    )


def _golden_steps(text: str) -> GoldenSteps:
    if text.lower() == "full":
        return "full"
    numbers = text.split(",")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) for n in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is neither two numbers such as 4,3 nor 'full'")
    return int(numbers[0]), int(numbers[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if other := subcommand(words, COMMANDS):
        return other(words[1:])
    return run_cli(parser(), _export, words, interrupted=_INTERRUPTED, intermixed=True)


def run(args: argparse.Namespace) -> int:
    """Export as `add_arguments` parsed it; returns the exit code."""
    return guarded(lambda: _export(args), debug=args.debug, interrupted=_INTERRUPTED)


def _export(args: argparse.Namespace) -> None:
    if str(args.output) in COMMANDS:
        raise UsageError(f"write '{args.output}' first: python -m exporter {args.output} ...")
    settle_size(args)
    require_export_packages()
    _require_backend_packages(args.backend)
    from exporter.export import export
    from exporter.options import check_options
    from runtimes.bundle.write import check_output
    from runtimes.progress import Progress

    options = _options(args)
    # A hub download may take an hour: what can be wrong without it is said before.
    check_options(options)
    check_output(args.output, overwrite=args.overwrite or args.resume)
    source, prior = find_sources(args)
    progress = Progress(quiet=args.quiet or args.json)
    manifest = export(source, prior, args.output, options, progress)
    written = sum(file.size for file in manifest.files.values())
    if args.json:
        result = {"output": str(args.output), "graphs": list(manifest.graphs), "bytes": written}
        print(json.dumps(result))
    elif not args.quiet:
        print(f"wrote {args.output}: {len(manifest.graphs)} graphs, {written / 1e6:.1f} MB")


def _options(args: argparse.Namespace) -> "ExportOptions":
    from exporter.checkpoint.embeddings import parse_embedding
    from exporter.checkpoint.lora_file import parse_lora
    from exporter.checkpoint.picture_files import PictureFiles
    from exporter.options import ExportOptions

    return ExportOptions(
        backend=args.backend,
        precision=args.precision,
        text=args.stage_b_text == "keep",
        height=args.height,
        width=args.width,
        static=args.static,
        batch_size=args.batch_size,
        modules=None if args.modules is None else tuple(args.modules),
        pictures=PictureFiles(args.compressor, args.preview),
        fused_attention=args.fused_attention,
        golden=not args.no_golden,
        golden_steps=args.golden_steps,
        preview_pictures=args.preview_pictures,
        overwrite=args.overwrite,
        variant=args.variant,
        sizes=tuple(args.sizes),
        deployment_target=args.deployment_target,
        openvino_tokenizer=args.openvino_tokenizer,
        loras=tuple(map(parse_lora, args.lora)),
        embeddings=tuple(map(parse_embedding, args.embedding)),
        islands=args.islands,
        resume=args.resume,
    )


def _require_backend_packages(backend: str) -> None:
    from exporter.formats.table import BACKENDS

    require(BACKENDS[backend].packages, BACKENDS[backend].extra)
