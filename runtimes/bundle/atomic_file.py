"""Write a file all at once: `.NAME.XXXXXXXX.tmp` beside it, renamed when it is whole.

What a killed process leaves of one is removed when the next one writes the same file.
"""

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from runtimes.bundle.locks import hold, locked
from runtimes.errors import RunError, UsageError, reason_of
from runtimes.interrupts import put_off

_TOKEN = "[0-9a-f]" * 8


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write into that becomes `path` when the block ends without an error.

    Whatever ends the block early, an old `path` stays as it was. `mode`: a new file's permissions,
    which the umask narrows. Raises RunError for a full disk or a place that cannot be written.
    """
    try:
        remove_dead(path.parent, path.name)
        with _beside(path, mode) as (part, file):
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a crash after the rename could leave an empty file
            if os.name == "nt":  # which renames no file that is open
                file.close()
            os.replace(part, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason_of(error)}") from error


def check_writable(path: Path, option: str) -> None:
    """UsageError unless a file can be made where `path` is to be; nothing is left there."""
    folder = path.absolute().parent
    try:
        try_writing(path)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{option} {path}: {folder} cannot be written to: {reason}") from None


def try_writing(path: Path) -> None:
    """OSError unless a file can be made beside `path`, whose own folder must be there."""
    remove_dead(path.parent, path.name)
    with _beside(path, 0o600):
        pass


def remove_dead(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of the file `name` in a folder, or of all its files."""
    of = "*" if name is None else glob.escape(name)
    for left in folder.glob(f".{of}.{_TOKEN}.tmp"):
        with suppress(OSError), locked(left) as alone:  # somebody writes it, or it is gone
            if alone or os.name == "nt":  # which removes no file that somebody has open
                left.unlink()


@contextmanager
def _beside(path: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, locked; closed in the end, and removed if it is still there.

    Beside its place, for a rename does not leave a file system.
    """
    with ExitStack() as last:
        with put_off():
            part, handle = _create(path, mode)
            last.callback(part.unlink, missing_ok=True)
            file = last.enter_context(os.fdopen(handle, "wb"))
        yield part, file


def _create(path: Path, mode: int) -> tuple[Path, int]:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(part, flags, mode)
        try:
            hold(handle, part)
            return part, handle
        except BlockingIOError:  # taken for a dead one's, before it was locked
            os.close(handle)
