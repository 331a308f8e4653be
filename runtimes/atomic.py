"""Write a folder all at once: a temporary sibling, synced, then one rename."""

import errno
import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtimes.bundle import sha256
from runtimes.errors import RunError, UsageError
from runtimes.free_memory import in_bytes
from runtimes.manifest import MANIFEST_NAME, File, Manifest, to_json

_PART, _OLD = ".part", ".old"
_YOUNG = 60  # seconds in which a folder may not be held yet by the process that made it


def check_output(output: Path, *, overwrite: bool) -> None:
    """UsageError when `output` is in the way: before any work, so that nothing is lost.

    First puts right what a killed process left there.
    """
    _sweep(output.absolute())
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output} exists and is no folder; choose another output")
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / MANIFEST_NAME).is_file():
        raise UsageError(f"{output} exists and is no bundle; choose another output")
    if not overwrite:
        raise UsageError(
            f"{output} exists; give --overwrite to replace it once the new one is whole"
        )


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A folder to write into that becomes `output` when the block ends without an error.

    Whatever ends the block early, an old `output` stays as it was. Raises RunError for a full
    disk or a place that cannot be written.
    """
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _sweep(output)
        part = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=_PART, dir=output.parent))
        handle = _hold(part)
    except OSError as error:
        raise write_error(output, error) from error
    try:
        yield part
        _sync(part)
        _replace(part, output)
    except OSError as error:
        raise write_error(output, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def seal(
    folder: Path, manifest: Manifest, on_bytes: Callable[[int], None] = lambda count: None
) -> None:
    """Enter every file of a new bundle into its manifest and write that, last.

    `on_bytes` hears of each file that is hashed.
    """
    manifest.files.clear()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        size = path.stat().st_size
        manifest.files[name] = File(size, sha256(path))
        on_bytes(size)
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")


def check_space(output: Path, needed: int, advice: str = "choose another place") -> None:
    """UsageError when the disk has less than `needed` bytes free, with what to do about it."""
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"{output} needs about {in_bytes(needed)} of disk and {folder} has {in_bytes(free)} "
            f"free: {advice}"
        )


def _hold(part: Path) -> int | None:
    """A handle that says until it is closed, or its process ends, that somebody writes `part`.

    BlockingIOError when somebody does already; None where folders cannot be locked.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    handle = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None  # a file system without locks
    return handle


def _sweep(output: Path) -> None:
    """Put right what killed processes left beside `output`: it may be as large as a bundle.

    Parts are removed, and so is an old output whose new one stands; else it takes its place again.
    """
    name = glob.escape(output.name)
    for left in output.parent.glob(f".{name}.????????{_PART}"):
        with suppress(OSError):  # somebody writes it, or it is gone or not ours
            if time.time() - left.stat().st_mtime > _YOUNG and (handle := _hold(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(handle)
    for old in output.parent.glob(f".{name}.????????{_OLD}"):
        with suppress(OSError):
            if (handle := _hold(old)) is not None:
                if output.exists():
                    shutil.rmtree(old, ignore_errors=True)
                else:
                    os.rename(old, output)
                os.close(handle)


def _replace(part: Path, output: Path) -> None:
    if not output.exists():
        os.rename(part, output)
        _sync_one(output.parent)
        return
    old = part.with_suffix(_OLD)
    handle = _hold(output)  # goes with it under its new name: nobody takes it for a left one
    try:
        os.rename(output, old)
        os.rename(part, output)
    except BaseException:
        if old.exists() and not output.exists():
            os.rename(old, output)
        raise
    else:
        _sync_one(output.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if handle is not None:
            os.close(handle)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o755 if path.is_dir() else 0o644)  # some writers make private files
        _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(output: Path, error: OSError) -> RunError:
    """A full disk, or a place that cannot be written, in one line."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "the disk is full" if full else (error.strerror or str(error))
    return RunError(f"cannot write {output}: {reason}; nothing was changed there")
