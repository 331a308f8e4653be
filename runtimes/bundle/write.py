"""Write a folder all at once: what is new becomes visible when it is whole, and not before.

A new folder is written beside its place and renamed. One that exists stays the folder that it is
(it may be a mounted volume, or a shell's working folder): the new files are written inside it, in
`.XXXXXXXX.part`, and moved into place when they are whole (runtimes.bundle.replacing).
"""

import dataclasses
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtimes.bundle.complete import completed
from runtimes.bundle.manifest import MANIFEST_NAME, File, Manifest
from runtimes.bundle.manifest_json import read_manifest, to_json
from runtimes.bundle.read import sha256
from runtimes.bundle.replacing import PART, check_replaceable, locked, replace, sweep, sync_one
from runtimes.errors import RunError, UsageError
from runtimes.memory import in_bytes


def check_output(output: Path, *, overwrite: bool) -> None:
    """UsageError when a bundle cannot be written to `output`: before any work.

    First puts right what a killed process left there. Files that are no part of an old bundle are
    kept in their places; they are refused where an engine could take them for the new one's.
    """
    sweep(output.absolute())
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output} exists and is no folder; choose another output")
    _check_writable(output)
    if _is_empty(output):
        return
    if not (output / MANIFEST_NAME).is_file():
        raise UsageError(f"{output} exists and is no bundle; choose another output")
    if not overwrite:
        raise UsageError(
            f"{output} exists; give --overwrite to replace it once the new one is whole"
        )
    check_replaceable(output)


def check_new(output: Path, flag: str) -> None:
    """UsageError when a folder that nothing is to be replaced in cannot be written: before work."""
    sweep(output.absolute())
    if output.is_symlink() or (output.exists() and not output.is_dir()) or not _is_empty(output):
        raise UsageError(f"{flag} {output} exists; give a folder that is new or empty")
    _check_writable(output)


def _is_empty(output: Path) -> bool:
    """Whether a folder is new or holds nothing but hidden files, which stay where they are.

    Such as those of version control, of file managers, and of an unfinished export.
    """
    if not output.exists():
        return True
    names = {path.name for path in output.iterdir()}
    return all(name.startswith(".") or name == "lost+found" for name in names)


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A folder to write into that becomes `output` when the block ends without an error.

    Whatever ends the block early, an old `output` stays as it was. Raises RunError for a full
    disk or a place that cannot be written.
    """
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        sweep(output)
        part = _make_part(output)
    except OSError as error:
        raise write_error(output, error) from error
    with locked(part):  # or another process would take it for a dead one's and remove it
        try:
            yield part
            _sync(part)
            if output.exists():
                replace(output, part)
            else:
                os.rename(part, output)
                sync_one(output.parent)
        except OSError as error:
            raise write_error(output, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write into that becomes `path` when the block ends without an error.

    Whatever ends the block early, an old `path` stays as it was. `mode`: a new file's permissions,
    which the umask narrows. Raises RunError for a full disk or a place that cannot be written.
    """
    # Beside its place: a rename does not leave a file system. A name that no other process takes.
    part = path.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(
            part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), mode
        )
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # or a crash after the rename could leave an empty file
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {_reason(error)}") from error


def seal(
    folder: Path, manifest: Manifest, on_bytes: Callable[[int], None] = lambda count: None
) -> Manifest:
    """Enter every file of a new bundle, and what hosts need, into its manifest; write that, last.

    Returns the manifest that was written. `on_bytes` hears of each file that is hashed. RunError
    for a value that its range in the manifest does not hold.
    """
    files = {}
    manifest_file = folder / MANIFEST_NAME
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != manifest_file):
        name = path.relative_to(folder).as_posix()
        size = path.stat().st_size
        files[name] = File(size, sha256(path))
        on_bytes(size)
    manifest = completed(folder, dataclasses.replace(manifest, files=files))
    manifest_file.write_text(to_json(manifest), encoding="utf-8", newline="\n")
    return read_manifest(folder)  # nobody could open it if a value were out of its range


def check_space(output: Path, needed: int, advice: str = "choose another place") -> None:
    """UsageError when the disk has less than `needed` bytes free, with what to do about it."""
    folder = _nearest(output)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"{output} needs about {in_bytes(needed)} of disk and {folder} has {in_bytes(free)} "
            f"free: {advice}"
        )


def check_writable(path: Path, option: str) -> None:
    """UsageError unless a file can be made where `path` is to be; nothing is left there."""
    folder = path.absolute().parent
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=f".{path.name}."):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{option} {path}: {folder} cannot be written to: {reason}") from None


def write_error(output: Path, error: OSError) -> RunError:
    """A full disk, or a place that cannot be written, in one line."""
    return RunError(f"cannot write {output}: {_reason(error)}; nothing was changed there")


def _reason(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk is full" if full else (error.strerror or str(error))


def _make_part(output: Path) -> Path:
    """A folder for the new files, with the permissions that this user's new folders have."""
    token = secrets.token_hex(4)
    inside = output.is_dir()
    part = output / f".{token}{PART}" if inside else _beside(output, f".{token}{PART}")
    part.mkdir()
    return part


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(f".{output.name}{suffix}")


def _nearest(output: Path) -> Path:
    """The folder that `output` is, or will be made in."""
    return next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())


def _check_writable(output: Path) -> None:
    # By trying: permissions do not tell of read-only disks, quotas and network shares.
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=_nearest(output)):
            pass
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror or error}; choose another output"
        ) from None


def _sync(part: Path) -> None:
    """Everything on disk, with the permissions of `part`: some writers make private files."""
    mode = stat.S_IMODE(part.stat().st_mode)
    for path in [*part.rglob("*"), part]:
        path.chmod(mode if path.is_dir() else mode & 0o666)
        sync_one(path)
