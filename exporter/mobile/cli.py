"""python -m exporter mobile: an ONNX bundle to one for ONNX Runtime on phones."""

import argparse
import json
import re
from collections.abc import Sequence

from runtimes.arguments import Parser, a_path, add_size_options, integer, settle_size
from runtimes.console import require, run_cli
from runtimes.progress import Progress

_PACKAGES = ("onnx", "onnxruntime", "flatbuffers")
_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter mobile`."""
    command_line = Parser(
        prog="python -m exporter mobile",
        description="Make a bundle for ONNX Runtime on phones of an ONNX bundle: fixed shapes, "
        "files in ORT format, the operators of a reduced build, what accelerators take, and the "
        "least damaging form that fits into a phone's memory. Needs no PyTorch.",
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="folder of an ONNX bundle")
    add("output", type=a_path, help="bundle folder to write")
    add(
        "--form",
        type=str.lower,
        choices=["ort", "onnx"],
        default="ort",
        help="ort: one file a graph in ONNX Runtime's own format, up to 2 GB; onnx: ONNX files of "
        "fixed shapes, their weights beside them (default: ort)",
    )
    add(
        "--level",
        type=str.lower,
        choices=["basic", "extended"],
        help="optimisations in the ORT files: extended fuses operators for CPUs, basic keeps to "
        "ONNX's own, which NNAPI, Core ML and XNNPACK take over (default: extended)",
    )
    add_size_options(command_line)
    add("--batch-size", type=integer, help="pictures at a time (default: 1)")
    add(
        "--memory-budget",
        type=byte_count,
        metavar="SIZE",
        help="memory of the phone that a run may take, such as 4GB, 3.5GiB or 900MB: by estimates, "
        "the least damaging is chosen of the bundle as it is, one graph at a time, and weights "
        "of 8 or 4 bits (default: as it is)",
    )
    add(
        "--overwrite", action="store_true", help="replace an existing bundle, when the new is whole"
    )
    add("--quiet", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print what mobile.json has")
    add("--debug", action="store_true", help="show the traceback of an error")
    return command_line


def byte_count(text: str) -> int:
    """Bytes, as people write them: '4GB' are 4 * 10^9, '4GiB' 4 * 2^30."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)\s*", text.lower(), re.ASCII)
    if match is None or match[2].upper() not in _UNITS or len(text) > 40:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no size such as 4GB, 3.5GiB or 900MB")
    count = int(float(match[1]) * _UNITS[match[2].upper()])
    if not 0 < count < 1 << 50:
        raise argparse.ArgumentTypeError(f"{text} is not the memory of any phone")
    return count


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    settle_size(args)
    require(_PACKAGES, "mobile")
    from exporter.mobile.make import make
    from exporter.mobile.page import report, summary
    from exporter.mobile.request import Request
    from runtimes.memory import in_bytes

    request = Request(
        form=args.form,
        level=args.level,
        height=args.height,
        width=args.width,
        batch_size=args.batch_size,
        budget=args.memory_budget,
        overwrite=args.overwrite,
    )
    progress = Progress(quiet=args.quiet or args.json)
    made = make(args.bundle, args.output, request, progress)
    if args.json:
        print(json.dumps({"output": str(args.output)} | report(made), indent=1))
    elif not args.quiet:
        for line in summary(made):
            print(line)
        keep = {"all": "all graphs kept", "one": "one graph at a time"}[made.mobile.keep]
        print(f"{made.manifest.precision}, {keep}: about {in_bytes(made.mobile.memory)} of memory")
        print(f"wrote {args.output}")
