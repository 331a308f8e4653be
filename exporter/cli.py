"""python -m exporter: checkpoint to bundle, and `inspect`."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.golden import SHORT_STEPS, GoldenSteps
from runtimes.arguments import Parser, add_size_options, integer, settle_size, size
from runtimes.bundle.manifest import GRAPHS
from runtimes.console import guarded, require, run_cli
from runtimes.errors import UsageError

if TYPE_CHECKING:
    from exporter.checkpoint.find import Source
    from exporter.cost import Inspection
    from exporter.options import ExportOptions

DEFAULT_OUTPUT = "wuerstchen-bundle"
_INTERRUPTED = "no bundle was written; --resume goes on from the graphs that are finished"


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter`; `inspect` has the same checkpoint options."""
    command_line = Parser(
        prog="python -m exporter",
        description="Export a Wuerstchen checkpoint to a bundle of graphs that needs no PyTorch. "
        "'python -m exporter inspect' prints its costs instead.",
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
    _checkpoint_options(parser)
    _format_options(parser)
    _backend_options(parser)
    _content_options(parser)
    _run_options(parser)
    _output_options(parser)


def _content_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modules",
        nargs="+",
        default=list(GRAPHS),
        metavar="GRAPH",
        help=f"graphs to export, of: {', '.join(GRAPHS)}",
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
        choices=["onnx", "openvino", "coreml"],
        default="onnx",
        help="graph format (default: onnx, which OpenVINO runs too)",
    )
    parser.add_argument(
        "--precision",
        type=str.lower,
        choices=["fp32", "fp16"],
        help="type the graphs compute in, OpenVINO: of its stored weights; norms and reductions "
        "stay fp32 (default: fp32, for coreml fp16)",
    )
    parser.add_argument(
        "--static",
        action="store_true",
        help="fix batch, height and width instead of leaving them open (coreml: always)",
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


def inspect_parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter inspect`."""
    command_line = Parser(
        prog="python -m exporter inspect",
        description="Print parameters, FLOPs, memory and disk of a checkpoint from its configs; "
        "no weights are read, nothing is written.",
    )
    _checkpoint_options(command_line)
    _output_options(command_line)
    return command_line


def _checkpoint_options(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--variant", help="weight files of a variant, such as fp16")
    parser.add_argument(
        "--stage-b-text",
        type=str.lower,
        choices=["keep", "drop"],
        default="keep",
        help="drop: Stage B without text, and without its text encoder (not exact; see README)",
    )
    add_size_options(parser, "default: the checkpoint's", "default picture")


def _output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_inspect = words[:1] == ["inspect"]
    command_line, action = (inspect_parser(), _inspect) if is_inspect else (parser(), _export)
    words = words[is_inspect:]
    return run_cli(command_line, action, words, interrupted=_INTERRUPTED, intermixed=True)


def run(args: argparse.Namespace) -> int:
    """Export as `add_arguments` parsed it; returns the exit code."""
    return guarded(lambda: _export(args), debug=args.debug, interrupted=_INTERRUPTED)


def _export(args: argparse.Namespace) -> None:
    if args.output == Path("inspect"):
        raise UsageError("write 'inspect' first: python -m exporter inspect ...")
    settle_size(args)
    _require_export_packages()
    _require_backend_packages(args.backend)
    from exporter.export import export
    from exporter.options import check_options
    from runtimes.bundle.write import check_output
    from runtimes.progress import Progress

    options = _options(args)
    # A hub download may take an hour: what can be wrong without it is said before.
    check_options(options)
    check_output(args.output, overwrite=args.overwrite or args.resume)
    source, prior = _sources(args)
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
    from exporter.checkpoint.lora import parse_lora
    from exporter.options import ExportOptions

    return ExportOptions(
        backend=args.backend,
        precision=args.precision,
        text=args.stage_b_text == "keep",
        height=args.height,
        width=args.width,
        static=args.static,
        batch_size=args.batch_size,
        modules=tuple(args.modules),
        fused_attention=args.fused_attention,
        golden=not args.no_golden,
        golden_steps=args.golden_steps,
        overwrite=args.overwrite,
        variant=args.variant,
        sizes=tuple(args.sizes),
        deployment_target=args.deployment_target,
        openvino_tokenizer=args.openvino_tokenizer,
        loras=tuple(map(parse_lora, args.lora)),
        embeddings=tuple(map(parse_embedding, args.embedding)),
        resume=args.resume,
    )


def _inspect(args: argparse.Namespace) -> None:
    settle_size(args)
    _require_export_packages()
    from exporter.checkpoint.open import open_checkpoint
    from exporter.cost import inspect

    checkpoint = open_checkpoint(*_sources(args, weights=False), args.variant, weights=False)
    for note in () if args.quiet else checkpoint.notes:
        print(f"note: {note}", file=sys.stderr)
    inspection = inspect(
        checkpoint,
        args.height or checkpoint.height,
        args.width or checkpoint.width,
        text=args.stage_b_text == "keep",
    )
    if args.json:
        value = dataclasses.asdict(inspection) | {"disk_bytes": inspection.disk_bytes}
        print(json.dumps(value, indent=1))
    else:
        _print_inspection(inspection)


def _print_inspection(inspection: "Inspection") -> None:
    print(f"{'component':<24}{'parameters':>16}{'fp32 MB':>12}")
    for name, parameters in inspection.components.items():
        print(f"{name:<24}{parameters:>16,}{4 * parameters / 1e6:>12,.1f}")
    pixels = f"{inspection.height} x {inspection.width}"
    print(f"\none picture of {pixels} pixels, default guidance and steps")
    print(f"{'graph':<24}{'parameters':>16}{'GFLOP a run':>14}{'runs':>6}{'peak MB fp32':>14}")
    for graph in inspection.graphs:
        print(
            f"{graph.name:<24}{graph.parameters:>16,}{graph.flops / 1e9:>14,.2f}{graph.runs:>6}"
            f"{graph.peak_bytes / 1e6:>14,.1f}"
        )
    total = sum(graph.flops * graph.runs for graph in inspection.graphs)
    disk = ", ".join(f"{key} {value / 1e6:,.1f} MB" for key, value in inspection.disk_bytes.items())
    print(f"\nTFLOP a picture: {total / 1e12:,.3f}; disk: {disk}")


def _sources(args: argparse.Namespace, *, weights: bool = True) -> "tuple[Source, Source]":
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


def _require_export_packages() -> None:
    """One clear line where the export extra is not installed."""
    require(("huggingface_hub", "onnx", "onnx_ir", "onnxscript", "safetensors", "torch"), "export")


def _require_backend_packages(backend: str) -> None:
    from exporter.formats.table import BACKENDS

    require(BACKENDS[backend].packages, BACKENDS[backend].extra)
