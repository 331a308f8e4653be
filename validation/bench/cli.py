"""python -m validation bench: times and errors side by side."""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.arguments import a_path, integer, number
from runtimes.bundle.manifest import DENOISERS, GRAPHS
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import require
from runtimes.errors import UsageError
from runtimes.progress import Progress
from runtimes.recording import read_golden
from validation.machine import machine

if TYPE_CHECKING:
    from validation.bench.run import Findings
    from validation.bench.settings import Settings

PACKAGES = ("torch", "diffusers", "onnxruntime", "openvino")
NEEDED = ("torch", "diffusers", "transformers", "onnx")
FAMILIES = {
    "autocast": "PyTorch in bf16",
    "compile": "torch.compile, which takes minutes a graph",
    "plain": "plain exports of the public modules",
    "onnxruntime": "our graphs on ONNX Runtime",
    "openvino": "our graphs on OpenVINO",
}
GIGABYTE = 1e9


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is timed, on which device, and how often."""
    add = parser.add_argument
    add("bundle", type=a_path, nargs="?", help="fp32 ONNX bundle folder, from 'python -m exporter'")
    add(
        "--also",
        type=Path,
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="other bundles of the same model, of any backend and precision",
    )
    add("--reference", metavar="DIR_OR_ID", help="checkpoint the bundle was made from")
    add("--prior", metavar="DIR_OR_ID", help="prior of --reference")
    add(
        "--real-size",
        action="store_true",
        help="instead of a bundle: the public configs with seeded random weights, 1024 x 1024 "
        "pixels, one graph in memory at a time (needs 16 GB of memory, 15 GB of disk)",
    )
    add(
        "--blocks",
        action="store_true",
        help="instead of a bundle: as --real-size, with a few blocks of each kind (needs 8 GB)",
    )
    add(
        "--graphs",
        nargs="+",
        metavar="GRAPH",
        help="graphs to time (default: the bundle's; stage_c and stage_b of the public configs), "
        f"of: {', '.join(GRAPHS)}",
    )
    add(
        "--device",
        type=str.lower,
        choices=["cpu", "cuda"],
        default="cpu",
        help="cuda: PyTorch and ONNX Runtime on a GPU, the public configs as static fp16 graphs "
        "with fused attention (default: cpu)",
    )
    add_timing_options(parser)


def add_timing_options(parser: argparse.ArgumentParser) -> None:
    """What is left out, how often the rest is timed, and how it is printed."""
    add = parser.add_argument
    add(
        "--without",
        nargs="+",
        default=[],
        metavar="WHAT",
        help="leave out " + "; ".join(f"'{name}' ({text})" for name, text in FAMILIES.items()),
    )
    add(
        "--repeats", type=integer, default=7, help="timed rounds, after one to warm up (default: 7)"
    )
    add(
        "--memory",
        type=number,
        default=16.0,
        metavar="GB",
        help="contenders that together may need more are timed in groups (default: 16)",
    )
    add("--markdown", action="store_true", help="print Markdown tables")


def run(args: argparse.Namespace) -> None:
    """Time everything that was asked for, and print it."""
    _check(args)
    bundles = _bundles(args)
    quieten_libraries()
    with tempfile.TemporaryDirectory() as folder:
        findings = _measure(args, bundles, Path(folder))
    print_findings(findings, args)


def quieten_libraries() -> None:
    """Before their import: no notices of theirs between the figures, errors only."""
    for name in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{name}_VERBOSITY", "error")
    from validation.torchvision_models import let_torchvision_import

    let_torchvision_import()


def print_findings(findings: "Findings", args: argparse.Namespace) -> None:
    """As `--json` or `--markdown` say, with the machine, the versions and the date."""
    rounds = f"{args.repeats} rounds, medians"
    about = "; ".join((_machine(args.device), _versions(), str(datetime.date.today()), rounds))
    if args.json:
        print(json.dumps({"machine": about, **dataclasses.asdict(findings)}, indent=1))
    else:
        _print(about, findings, markdown=args.markdown)


def settings_of(args: argparse.Namespace, graphs: Sequence[str]) -> "Settings":
    """What `add_timing_options` parsed, for these graphs."""
    from validation.bench.settings import Settings

    progress = Progress(quiet=args.json)
    return Settings(
        graphs=tuple(graphs),
        repeats=args.repeats,
        memory=args.memory * GIGABYTE,
        without=tuple(args.without),
        report=progress.line,
        device=args.device,
        progress=progress,
    )


def _check(args: argparse.Namespace) -> None:
    """Everything that can be refused before any work."""
    if [args.bundle is not None, args.blocks, args.real_size].count(True) != 1:
        raise UsageError("give a bundle to time, or --real-size, or --blocks")
    if args.blocks and args.also:
        raise UsageError("--also does not go with --blocks: no bundle holds those blocks")
    for name in args.graphs or []:
        if name not in GRAPHS:
            raise UsageError(f"--graphs {name}: there are {', '.join(GRAPHS)}")
    check_timing(args)


def check_timing(args: argparse.Namespace) -> None:
    """UsageError for options of `add_timing_options` that make no sense, or a missing package."""
    if args.repeats < 1:
        raise UsageError(f"--repeats is {args.repeats}; it must be at least 1")
    if not args.memory > 0:
        raise UsageError(f"--memory is {args.memory}; it must be above 0")
    for name in args.without:
        if name not in FAMILIES:
            raise UsageError(f"--without {name}: there are {', '.join(FAMILIES)}")
    require(NEEDED, "validation", note=", which bench needs")


def _bundles(args: argparse.Namespace) -> list[Bundle]:
    """The bundle under test, unless it is the public model, and those given besides."""
    others = [open_bundle(folder) for folder in args.also]
    if args.bundle is None:
        _check_names(others)
        return others
    first = open_bundle(args.bundle)
    _check_names([first, *others])
    for other in (first, *others):
        _check_same_model(first, other)
    _check_first(first, args.graphs or [])
    return [first, *others]


def _check_names(bundles: Sequence[Bundle]) -> None:
    names = [bundle.folder.name for bundle in bundles]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two bundles are called '{twice}', and rows are called by the name of the folder: "
            "rename one"
        )


def _check_same_model(first: Bundle, other: Bundle) -> None:
    if other.manifest.adapters != first.manifest.adapters:
        raise UsageError(
            f"--also {other.folder}: other adapters or embeddings are fused into it than into "
            f"{first.folder}; compare bundles of one model"
        )
    if other.manifest.model != first.manifest.model:
        model, reference = other.manifest.model, first.manifest.model
        raise UsageError(
            f"--also {other.folder}: made from {model.id} ({model.revision}), but "
            f"{first.folder} from {reference.id} ({reference.revision}); compare bundles of one "
            "model"
        )


def _check_first(bundle: Bundle, graphs: Sequence[str]) -> None:
    """UsageError unless PyTorch's fp32 modules have the same graphs as this bundle."""
    manifest = bundle.manifest
    if (manifest.backend, manifest.precision) != ("onnx", "fp32"):
        raise UsageError(
            f"{bundle.folder}: bench takes an fp32 onnx bundle first, this is {manifest.backend} "
            f"{manifest.precision}; give it with --also"
        )
    for name in graphs:
        if name not in manifest.graphs:
            held = ", ".join(manifest.graphs)
            raise UsageError(f"--graphs {name}: {bundle.folder} holds {held}")


def _measure(args: argparse.Namespace, bundles: Sequence[Bundle], folder: Path) -> "Findings":
    # Imported here and below: these need PyTorch, which other commands do without.
    from validation.bench.devices import check_device
    from validation.bench.public_cases import few_blocks, real_size
    from validation.bench.run import bench_public

    check_device(args.device)
    default = DENOISERS if args.bundle is None else list(bundles[0].manifest.graphs)
    settings = settings_of(args, args.graphs or default)
    if args.bundle is None:
        checkpoint = few_blocks() if args.blocks else real_size()
        return bench_public(checkpoint, bundles, settings, folder)
    return _measure_bundle(args, bundles, settings, folder)


def _measure_bundle(
    args: argparse.Namespace, bundles: Sequence[Bundle], settings: "Settings", folder: Path
) -> "Findings":
    from exporter.checkpoint.open import open_checkpoint
    from validation.bench.run import bench_bundle
    from validation.parity.checkpoints import check_no_adapters, reference_pair

    check_no_adapters(bundles[0])
    manifest = bundles[0].manifest
    recording = read_golden(bundles[0])
    pair = reference_pair(manifest.model, args.reference, args.prior)
    checkpoint = open_checkpoint(*pair, manifest.model.variant or None)
    return bench_bundle(bundles, checkpoint, recording, settings, folder)


def _machine(device: str) -> str:
    from validation.bench.devices import device_name

    return "; ".join(filter(None, (device_name(device), machine())))


def _versions() -> str:
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)


def _print(about: str, findings: "Findings", *, markdown: bool) -> None:
    from validation.bench.table import graph_table, notes, picture_table

    peaks = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in findings.peaks.items())
    blocks = [[about], graph_table(findings.timings, findings.peaks, markdown=markdown)]
    if findings.pictures:
        blocks.append(picture_table(findings.pictures, markdown=markdown))
    remarks = [f"Matrix peak, TFLOP/s: {peaks or 'not measured, OpenVINO is not installed'}"]
    remarks += [*findings.remarks, *notes(findings.timings)]
    blocks.append([f"- {remark}" for remark in remarks] if markdown else remarks)
    print("\n\n".join("\n".join(block) for block in blocks))
