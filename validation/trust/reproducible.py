"""The same command in two surroundings that must not show in what it writes, file by file."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import validation
from runtimes.errors import RunError, one_line

OUTPUT = "OUTPUT"  # the word of a command that stands for the folder it writes
_PIECE = 1 << 20


@dataclass(frozen=True)
class Surroundings:
    """Where and how a process runs: all that differs between two machines with the same packages.

    `folder` is where it runs, below a scratch folder; `umask` narrows the permissions of what it
    makes; `cores` is how many it finds (Linux), and so how many threads libraries compute with.
    `epoch` is SOURCE_DATE_EPOCH, for packages that go by it: a bundle has no date of its own.
    """

    folder: str
    language: str
    zone: str
    hash_seed: int
    umask: int
    cores: int
    epoch: int

    def variables(self) -> dict[str, str]:
        """The process's environment: this one's, and what differs."""
        return os.environ | {
            "LANG": self.language,
            "LC_ALL": self.language,
            "TZ": self.zone,
            "PYTHONHASHSEED": str(self.hash_seed),
            "OMP_NUM_THREADS": str(self.cores),
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "PYTHONPATH": str(Path(validation.__file__).parents[1]),
        }

    def enter(self) -> None:
        """For the new process itself: only so many cores."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.cores])


FIRST = Surroundings("one", "C", "UTC", 0, 0o022, 1, 0)
SECOND = Surroundings("another/place", "C.UTF-8", "Asia/Kathmandu", 4711, 0o077, 2, 1_700_000_000)


@dataclass(frozen=True)
class Difference:
    """A file, by its path in the folder, and how its two forms differ."""

    file: str
    how: str


def made_twice(
    command: Sequence[str], scratch: Path, surroundings: Sequence[Surroundings] = (FIRST, SECOND)
) -> list[Path]:
    """Run `python -m *command` in each of the surroundings; the folders that it wrote.

    The word OUTPUT in `command` becomes the folder's name; other paths in it have to be absolute.
    RunError where the command fails.
    """
    return [_made(command, scratch, one) for one in surroundings]


def _made(command: Sequence[str], scratch: Path, surroundings: Surroundings) -> Path:
    folder = scratch / surroundings.folder
    folder.mkdir(parents=True, exist_ok=True)
    name = f"made-{len([*folder.iterdir()])}"
    done = subprocess.run(
        [sys.executable, "-m", *(name if word == OUTPUT else word for word in command)],
        cwd=folder,
        env=surroundings.variables(),
        umask=surroundings.umask,
        preexec_fn=surroundings.enter,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        words = " ".join(command)
        raise RunError(f"python -m {words} failed: {one_line(RuntimeError(done.stderr[-500:]))}")
    return folder / name


def differences(first: Path, second: Path) -> list[Difference]:
    """Every file of two folders that is not the same byte for byte, or is in one of them only."""
    names = sorted({*_files(first), *_files(second)})
    found = ((name, _how(first / name, second / name)) for name in names)
    return [Difference(name, how) for name, how in found if how]


def permissions(folder: Path, umask: int) -> list[Difference]:
    """Everything in a bundle that has other permissions than a user's new files and folders have.

    A process with `umask` wrote it: folders 777, files 666, narrowed by the umask.
    """
    return [*_unusual(folder, umask)]


def _unusual(folder: Path, umask: int) -> Iterator[Difference]:
    for path in (folder, *sorted(folder.rglob("*"))):
        usual = (0o777 if path.is_dir() else 0o666) & ~umask
        found = stat.S_IMODE(path.stat().st_mode)
        if found != usual:
            name = path.relative_to(folder).as_posix()
            yield Difference(name, f"permissions {found:03o}, expected {usual:03o}")


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths}


def _how(first: Path, second: Path) -> str:
    """How two files differ; '' where they do not."""
    if not (first.is_file() and second.is_file()):
        return f"in the {'first' if first.is_file() else 'second'} folder only"
    sizes = first.stat().st_size, second.stat().st_size
    at = _first_difference(first, second)
    if at is None:
        return ""
    bytes_ = f"{sizes[0]} bytes" if sizes[0] == sizes[1] else f"{sizes[0]} and {sizes[1]} bytes"
    return f"{bytes_}, different from byte {at} on"


def _first_difference(first: Path, second: Path) -> int | None:
    """Where the bytes of two files begin to differ; None where they never do."""
    at = 0
    with first.open("rb") as one, second.open("rb") as other:
        while True:
            left, right = one.read(_PIECE), other.read(_PIECE)
            if left != right:
                pairs = enumerate(zip_longest(left, right))
                return at + next(index for index, (a, b) in pairs if a != b)
            if not left:
                return None
            at += len(left)
