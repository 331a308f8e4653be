"""Write a folder all at once: what is new becomes visible when it is whole, and not before.

A new folder is written beside its place and renamed. One that exists stays the folder that it is
(it may be a mounted volume, or a shell's working folder): the new files are written inside it, in
`.bundle.part`, and moved into place when they are whole (runtimes.bundle.replacing).
"""

import dataclasses
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtimes.bundle.atomic_file import try_writing
from runtimes.bundle.complete import completed
from runtimes.bundle.manifest import MANIFEST_NAME, File, Manifest
from runtimes.bundle.manifest_json import read_manifest, to_json
from runtimes.bundle.part import part_of
from runtimes.bundle.read import sha256
from runtimes.bundle.replacing import check_replaceable, put_right, replace, sync_one
from runtimes.errors import RunError, UsageError, reason_of
from runtimes.interrupts import put_off
from runtimes.memory import in_bytes


def check_output(output: Path, *, overwrite: bool) -> None:
    """UsageError when a bundle cannot be written to `output`: before any work.

    First puts right what a killed process left there; RunError while one that lives writes there.
    Files that are no part of an old bundle are kept in their places; they are refused where an
    engine could take them for the new one's.
    """
    put_right(output.absolute())
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
    put_right(output.absolute())
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
def atomic_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into that becomes `output` when the block ends without an error.

    Whatever ends the block early, an old `output` stays as it was. Raises RunError for a full
    disk, a place that cannot be written, another process that writes there, and, unless
    `overwrite`, an `output` that is there by now.
    """
    output = output.absolute()
    try:
        with with_parents(output.parent):
            put_right(output)
            with part_of(output) as part:
                _check_still_new(output, overwrite=overwrite)
                yield part
                _sync(part)
                _check_still_new(output, overwrite=overwrite)
                _place(part, output)
    except OSError as error:
        raise write_error(output, error) from error


def _check_still_new(output: Path, *, overwrite: bool) -> None:
    """RunError when another process was faster than this one, between its check and its end."""
    if not overwrite and not _is_empty(output):
        raise RunError(f"{output} is there by now, made by another process; nothing was changed")


def _place(part: Path, output: Path) -> None:
    if output.exists():
        replace(output, part)
        return
    with put_off():
        os.rename(part, output)
        try:
            sync_one(output.parent)
        except OSError:
            os.rename(output, part)
            raise


@contextmanager
def with_parents(folder: Path) -> Iterator[None]:
    """Have a folder and its parents; what was not there and is empty in the end is removed."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in new:
            with suppress(OSError):  # it holds something
                path.rmdir()


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


def write_error(output: Path, error: OSError) -> RunError:
    """A full disk, or a place that cannot be written, in one line; or a file elsewhere, by name."""
    reason, name = reason_of(error), error.filename
    named = Path(name) if isinstance(name, str | os.PathLike) else output
    if not named.absolute().is_relative_to(output.absolute().parent):
        return RunError(f"{named}: {reason}; nothing was changed in {output}")
    return RunError(f"cannot write {output}: {reason}; nothing was changed there")


def _nearest(output: Path) -> Path:
    """The folder that `output` is, or will be made in."""
    return next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())


def _check_writable(output: Path) -> None:
    # By trying: permissions do not tell of read-only disks, quotas and network shares.
    try:
        try_writing(_nearest(output) / output.name)
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
