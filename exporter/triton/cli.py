"""python -m exporter triton: a bundle to a model repository for Triton."""

import argparse
import json
import re
from collections.abc import Sequence

from exporter.triton.repository import Request, write_repository
from runtimes.arguments import Parser, a_path, positive, thread_count
from runtimes.bundle.read import open_bundle
from runtimes.console import run_cli
from runtimes.engines.table import ENGINES

_MOST_DELAY = 60_000  # milliseconds: whoever waits longer wants no dynamic batches


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter triton`."""
    command_line = Parser(
        prog="python -m exporter triton",
        description="Write a model for Triton Inference Server into a model repository: a bundle, "
        "the Python-backend model that runs it, its configuration and environment, a client. "
        "Needs no PyTorch and no Triton.",
    )
    add = command_line.add_argument
    add("bundle", type=a_path, help="folder of an ONNX or OpenVINO bundle")
    add("repository", type=a_path, help="model repository; other models in it stay as they are")
    add("--name", type=model_name, default="wuerstchen", help="the model's (default: wuerstchen)")
    add(
        "--max-batch-size", type=positive, default=4, metavar="N",
        help="pictures made together at most (default: 4)",
    )  # fmt: skip
    add(
        "--queue-delay", type=delay, default=100, metavar="MS",
        help="milliseconds that a request waits for others to be made with (default: 100)",
    )  # fmt: skip
    add("--gpus", action="store_true", help="an instance on each GPU (default: one on the CPU)")
    add(
        "--engine", type=str.lower, choices=list(ENGINES),
        help="what runs the graphs (default: the bundle's own)",
    )  # fmt: skip
    add("--threads", type=thread_count, metavar="N", help="CPU threads (default: one a core)")
    add("--low-memory", action="store_true", help="hold one graph in memory at a time")
    add("--quiet", action="store_true", help="print errors only")
    add("--json", action="store_true", help="print the model's folder as JSON")
    add("--debug", action="store_true", help="show the traceback of an error")
    return command_line


def model_name(text: str) -> str:
    """A model's name, which is a folder's and a part of addresses."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text):
        raise argparse.ArgumentTypeError(
            f"'{text[:40]}' is no name of a model: letters, digits, '_', '-' and '.', up to 100"
        )
    return text


def delay(text: str) -> int:
    """Whole milliseconds, 0 among them."""
    if not text.isdecimal() or int(text[:9]) > _MOST_DELAY:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is no time of 0 to {_MOST_DELAY} ms")
    return int(text)


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="nothing was written")


def _run(args: argparse.Namespace) -> None:
    request = Request(
        name=args.name,
        batch=args.max_batch_size,
        delay=1000 * args.queue_delay,
        gpus=args.gpus,
        engine=args.engine,
        threads=args.threads,
        low_memory=args.low_memory,
    )
    folder = write_repository(open_bundle(args.bundle), args.repository, request)
    if args.json:
        print(json.dumps({"model": str(folder)}))
    elif not args.quiet:
        print(f"wrote {folder}; start with: tritonserver --model-repository {args.repository}")
