"""What every command line takes and says alike: whole flags, values in any case, errors in a line.

The types raise ArgumentTypeError with what is wanted; `Parser` turns that into a UsageError.
"""

import argparse
import difflib
import importlib.metadata
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtimes.bundle.manifest import FORMAT_VERSION, STORED
from runtimes.bundle.ranges import shown
from runtimes.engines.base import Execution
from runtimes.engines.table import ENGINES
from runtimes.errors import UsageError

PACKAGE = "wuerstchen-export"
SEEDS = 1 << 32  # that the generator tells apart
_MOST = 1_000_000  # of pictures, tries
_MOST_THREADS = 1_024


class Parser(argparse.ArgumentParser):
    """Flags are whole words. An error is a UsageError of one line that names the flag meant.

    `meant` has answers for flags that people expect from other tools; more come from spelling.
    """

    def __init__(
        self,
        *,
        prog: str,
        description: str,
        meant: Mapping[str, str] = {},
        parents: Sequence[argparse.ArgumentParser] = (),
        color: bool | None = None,  # Python 3.14 passes it to the parsers of subcommands
    ) -> None:
        super().__init__(
            prog=prog, description=description, parents=list(parents), allow_abbrev=False
        )
        self._meant = meant
        add_version(self)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse's; an unknown flag is command_line before anything else is."""
        words = sys.argv[1:] if args is None else list(args)
        # Before argparse looks: it would complain of what the unknown flag left missing.
        known = self._option_string_actions
        for word in words[: words.index("--")] if "--" in words else words:
            flag = word.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in known:
                self.error(self._unknown(flag))
        return super().parse_known_args(words, namespace)

    def error(self, message: str):  # type: ignore[no-untyped-def]
        """UsageError in place of argparse's usage and exit."""
        text = re.sub(r"^argument (?=\S+: )", "", message).replace("\n", " ")
        raise UsageError(f"{text} (see '{self.prog} --help')")

    def _unknown(self, flag: str) -> str:
        if flag in self._meant:
            return f"there is no {flag}: {self._meant[flag]}"
        # Spelling alone would miss a flag that is the start of another, or longer by a word.
        plain = flag.replace("_", "-").lower()
        flags = [name for name in self._option_string_actions if name.startswith("--")]
        near = [name for name in flags if name.startswith(plain) or plain.startswith(f"{name}-")]
        near = near or difflib.get_close_matches(plain, flags)
        return f"there is no {flag}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def add_version(command_line: argparse.ArgumentParser) -> None:
    """`--version`."""
    command_line.add_argument(
        "--version",
        action="version",
        version=f"{PACKAGE} {package_version()}, bundle format {FORMAT_VERSION}",
        help="print the versions of the package and of the bundles it writes, and exit",
    )


def package_version() -> str:
    """The installed package's version."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def a_path(text: str) -> Path:
    """A path; an empty one (an unset variable of a shell) would be the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return Path(text)


def integer(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from None


def positive(text: str) -> int:
    """A whole number from 1 to a million, more of which nobody means."""
    value = integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small; it must be at least 1")
    if value > _MOST:
        raise argparse.ArgumentTypeError(
            f"{shown(value)} is too large; it can be {_MOST:,} at most"
        )
    return value


def thread_count(text: str) -> int:
    """A number of threads, no more than the largest machines have cores."""
    value = positive(text)
    if value > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{value} is too large; it can be {_MOST_THREADS} at most")
    return value


def number(text: str) -> float:
    """A number, such as 4 or 0.5."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    return tuple(number(part) for part in text.split(","))


class Drawn(tuple[int, ...]):
    """Seeds that nobody gave: another run draws others."""


def seeds(text: str) -> tuple[int, ...]:
    """Whole numbers between commas, or one drawn now."""
    if text.lower() == "random":
        return Drawn((secrets.randbelow(SEEDS),))
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        wanted = "a whole number such as 7, several such as 1,2,3, or 'random'"
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; give {wanted}") from None


def size(text: str) -> tuple[int, int]:
    """Height and width in pixels."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 512x768, height x width")
    return int(height), int(width)


def add_size_options(
    command_line: argparse.ArgumentParser,
    about: str = "default: the bundle's",
    what: str = "picture",
) -> None:
    """`--height`, `--width`, and both as `--size`; `settle_size` reads them."""
    command_line.add_argument("--height", type=integer, help=f"{what} height in pixels ({about})")
    command_line.add_argument("--width", type=integer, help=f"{what} width in pixels ({about})")
    command_line.add_argument(
        "--size", type=size, metavar="HEIGHTxWIDTH", help="both at once, such as 512x768"
    )


def settle_size(args: argparse.Namespace) -> None:
    """Write `--size` into `height` and `width`; UsageError where one of those is given too."""
    if args.size is None:
        return
    for name in ("height", "width"):
        if getattr(args, name) is not None:
            raise UsageError(f"--size and --{name} exclude each other")
    args.height, args.width = args.size


def add_execution_options(command_line: argparse.ArgumentParser) -> None:
    """The options that say where and how a bundle runs."""
    command_line.add_argument(
        "--engine",
        type=str.lower,
        choices=list(ENGINES),
        help="what runs the graphs (default: the bundle's own; openvino runs ONNX bundles too)",
    )
    command_line.add_argument(
        "--device",
        type=str.lower,
        default="cpu",
        help="cpu, cuda or a GPU of several such as cuda:1 (ONNX Runtime); cpu, gpu, gpu.1, npu or "
        "auto (OpenVINO); cpu, gpu, npu or all (Core ML) (default: cpu)",
    )
    _add_compute_options(command_line)


def add_memory_options(command_line: argparse.ArgumentParser) -> None:
    """`--low-memory` and `--no-memory-check`, as `runtimes.cli.open_pipeline` reads them."""
    command_line.add_argument(
        "--low-memory",
        action="store_true",
        help="hold one graph in memory at a time (default: as a bundle for phones says)",
    )
    command_line.add_argument(
        "--no-memory-check",
        action="store_true",
        help="start even where a run is estimated not to fit into the memory that is free",
    )


def _add_compute_options(command_line: argparse.ArgumentParser) -> None:
    command_line.add_argument(
        "--execution-precision",
        type=str.lower,
        choices=list(STORED),
        help="type OpenVINO computes in (default: the device's best; condition graphs always f32)",
    )
    command_line.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="CPU threads a graph runs on (default: the engine's, one a core)",
    )
    command_line.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="folder where OpenVINO's compiled graphs are kept for a faster second start",
    )


def execution_of(args: argparse.Namespace) -> Execution:
    """What `add_execution_options` parsed."""
    return Execution(
        args.device, args.engine, args.execution_precision, args.cache_dir, args.threads
    )
