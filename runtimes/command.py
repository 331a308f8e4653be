"""What the command lines share: the engine's options, and what is done with errors."""

import argparse
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runtimes.engine import ENGINES, STORED, Execution
from runtimes.errors import RunError, UsageError


def guarded(action: Callable[[], int | None], *, debug: bool, interrupted: str) -> int:
    """Run `action` and return its exit code (None is 0), or that of the error it raised."""
    try:
        return action() or 0
    except (UsageError, RunError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: interrupted; {interrupted}", file=sys.stderr)
        return 1


def subcommand(
    words: Sequence[str], commands: Mapping[str, str]
) -> Callable[[Sequence[str]], int] | None:
    """The `main` of the module that `commands` has for the first word; None when it has none."""
    if not words or words[0] not in commands:
        return None
    main: Callable[[Sequence[str]], int] = importlib.import_module(commands[words[0]]).main
    return main


def installed(name: str) -> bool:
    """Whether a package is there, without importing it; one blocked in sys.modules is not."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        return False


def add_execution_options(found: argparse.ArgumentParser) -> None:
    """The options that say where and how a bundle runs."""
    found.add_argument(
        "--engine",
        choices=list(ENGINES),
        help="what runs the graphs (default: the bundle's own; openvino runs ONNX bundles too)",
    )
    found.add_argument(
        "--device",
        default="cpu",
        help="cpu or cuda (ONNX Runtime); cpu, gpu, npu or auto (OpenVINO); cpu, gpu, npu or all "
        "(Core ML) (default: cpu)",
    )
    found.add_argument(
        "--execution-precision",
        choices=list(STORED),
        help="type OpenVINO computes in (default: the device's best; condition graphs always f32)",
    )
    found.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="folder where OpenVINO's compiled graphs are kept for a faster second start",
    )


def execution_of(args: argparse.Namespace) -> Execution:
    """What `add_execution_options` parsed."""
    return Execution(args.device, args.engine, args.execution_precision, args.cache_dir)
