"""python -m validation trust BUNDLE: damage a copy of it, and count what is refused."""

import argparse
import dataclasses
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtimes.arguments import integer, positive
from runtimes.bundle.atomic_file import atomic_file, check_writable
from runtimes.bundle.manifest import Manifest
from runtimes.bundle.read import open_bundle
from runtimes.bundle.write import check_space
from runtimes.progress import Progress
from validation.machine import machine
from validation.trust.attempt import Attempt, Copy
from validation.trust.checks import CHECKS

TRIES = 100
_SHOWN = 3  # attempts of a check that are named where they failed


@dataclass(frozen=True)
class Row:
    """One line of the table: how many attempts ended how, and those that were taken for sound."""

    check: str
    fault: str
    tries: int
    refused: int
    survived: int
    lost: tuple[Attempt, ...]
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="a bundle's folder; it is copied, and the copy damaged")
    add(
        "--tries",
        type=positive,
        default=TRIES,
        help=f"attempts of each check, where it has as many kinds (default: {TRIES})",
    )
    add("--seed", type=integer, default=0, help="seed of what is damaged where (default: 0)")
    add(
        "--checks",
        nargs="+",
        type=str.lower,
        choices=list(CHECKS),
        metavar="NAME",
        help=f"which to make: {', '.join(CHECKS)} (default: all)",
    )
    add("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")


def run(args: argparse.Namespace) -> int:
    if args.markdown is not None:
        check_writable(args.markdown, "--markdown")
    bundle = open_bundle(args.bundle, hashes="fresh", verify_rest=True)
    size = sum(file.size for file in bundle.manifest.files.values())
    check_space(Path(tempfile.gettempdir()), 2 * size, "set TMPDIR")
    progress = Progress(quiet=args.quiet or args.json)
    rows = []
    with _copied(bundle.folder) as folder:
        copy = Copy(folder, bundle.manifest)
        for name in args.checks or _possible(bundle.manifest):
            rows.append(_row(copy, name, args.tries, args.seed, progress))
    table = _table(rows)
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    elif not args.quiet:
        print(table)
    if args.markdown is not None:
        with atomic_file(args.markdown) as file:
            file.write(f"{_title(bundle.folder, args)}\n\n{table}\n".encode())
    return _tell(rows)


def _possible(manifest: Manifest) -> list[str]:
    """The checks that this machine can make: Core ML runs on a Mac only."""
    runs = manifest.backend != "coreml" or sys.platform == "darwin"
    return [name for name, check in CHECKS.items() if runs or not check.runs]


@contextmanager
def _copied(bundle: Path) -> Iterator[Path]:
    """A copy of a bundle in a temporary folder, and a cache of what was hashed there."""
    with tempfile.TemporaryDirectory() as place:
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        try:
            yield Path(shutil.copytree(bundle, Path(place).resolve() / "copies" / "bundle"))
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def _row(copy: Copy, name: str, tries: int, seed: int, progress: Progress) -> Row:
    check, start = CHECKS[name], time.perf_counter()
    attempts = []
    with closing(check.attempts(copy, random.Random(f"{name} {seed}"), tries)) as made:
        for attempt in itertools.islice(made, tries):
            attempts.append(attempt)
            progress.step(name, len(attempts), tries)
    # Or what comes after would fail for what was done here.
    open_bundle(copy.folder, hashes="fresh", verify_rest=True)
    count = Counter(attempt.verdict for attempt in attempts)
    lost = tuple(attempt for attempt in attempts if attempt.verdict == "lost")
    seconds = time.perf_counter() - start
    return Row(name, check.fault, len(attempts), count["refused"], count["survived"], lost, seconds)


def _title(folder: Path, args: argparse.Namespace) -> str:
    return f"`{folder.name}`, seed {args.seed}, on {machine()}:"


def _table(rows: Sequence[Row]) -> str:
    lines = ["| fault | tries | refused | survived | lost | seconds |", "|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {row.fault} | {row.tries} | {row.refused} | {row.survived} | {len(row.lost)} | "
        f"{row.seconds:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _tell(rows: Sequence[Row]) -> int:
    """Name what was taken for sound, on stderr; the exit code."""
    failed = [row for row in rows if row.lost or not row.tries]
    for row in failed:
        first = "; ".join(f"{attempt.what}: {attempt.why}" for attempt in row.lost[:_SHOWN])
        print(f"error: {row.check}: {len(row.lost)} of {row.tries} lost: {first}", file=sys.stderr)
    return 1 if failed else 0
