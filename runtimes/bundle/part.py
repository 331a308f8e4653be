"""The folder that new files are written in until all are whole: `.bundle.part`.

In the output where that exists, `.NAME.bundle.part` beside it where it is new. An output has one,
under one name: who makes it and holds its lock writes the output, and everybody else is told.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from runtimes.bundle.locks import locked
from runtimes.errors import RunError
from runtimes.interrupts import put_off

PART = ".bundle.part"
# While the files of a bundle are replaced (runtimes.bundle.replacing): the new ones, the old ones.
NEW, OLD = ".bundle.new", ".bundle.old"


@contextmanager
def part_of(output: Path) -> Iterator[Path]:
    """An empty folder that nobody else writes to, removed in the end if it is still in its place.

    It has the permissions that this user's new folders have. RunError when there is one already,
    OSError when it cannot be made.
    """
    part = output / PART if output.is_dir() else beside(output)
    with ExitStack() as last:
        with put_off():
            made = _make(part, output)
            try:
                last.enter_context(locked(part))
            except OSError as error:
                _remove(part, made)
                if isinstance(error, BlockingIOError | FileNotFoundError):
                    raise busy(output) from None  # taken for a dead one's, before it was locked
                raise
            last.callback(_remove, part, made)  # before it is unlocked
        yield part


def beside(output: Path) -> Path:
    """Where the new files of a folder go that is not there."""
    return output.with_name(f".{output.name}{PART}")


def remove_dead_parts(output: Path) -> None:
    """Remove what killed processes left, which may be as large as a bundle.

    BlockingIOError when a process that lives has it.
    """
    for part in (output / PART, beside(output)):
        try:
            with locked(part) as alone:
                if alone:
                    shutil.rmtree(part, ignore_errors=True)
        except BlockingIOError:
            raise
        except OSError:  # there is none, or it is not ours to open
            continue


def busy(output: Path) -> RunError:
    """What the second of two processes is told."""
    return RunError(f"another process is writing {output}; wait for it")


def _make(part: Path, output: Path) -> os.stat_result:
    try:
        part.mkdir()
    except FileExistsError:
        raise RunError(
            f"{part} is there: another process is writing {output}; wait for it, or remove that "
            "folder if none is"
        ) from None
    return part.stat()


def _remove(part: Path, made: os.stat_result) -> None:
    """Remove what is ours: the next writer may have made its own under the same name."""
    with put_off(), suppress(OSError):
        if os.path.samestat(part.stat(), made):
            shutil.rmtree(part, ignore_errors=True)
