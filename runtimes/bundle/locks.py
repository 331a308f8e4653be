"""Whether somebody writes a folder or a file: told by a lock on it, which ends with its process.

No lock outlives its process, however that ends, so that what nobody holds is a dead one's. Between
the making of a folder and its lock another process may take it for that, lock it and remove it;
the maker then finds out, by `hold`, and has lost nothing.

Windows, and some network file systems for folders, have no such locks: a dead process's folder
cannot be told there, and whoever meets it is told its name (runtimes.bundle.write).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Say, until the block or its process ends, that somebody writes `path`, whatever its name.

    `shared`: with others that say so, too, and with nobody that is alone. BlockingIOError when
    somebody is in the way; gives False where it cannot be locked. OSError when it is not there, or
    a link.
    """
    if os.name == "nt":  # which opens no folders
        yield False
        return
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        yield hold(handle, path, shared=shared)
    finally:
        os.close(handle)


@contextmanager
def locked_file(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """The same by a file made for it, which network file systems lock where they lock no folder.

    `wait` for who has it. The file stays.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        yield hold(handle, path, wait=wait)
    finally:
        os.close(handle)


def hold(handle: int, path: Path, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock what is open as `handle` until that is closed; False where it cannot be locked.

    BlockingIOError when another process has it, or has removed it from its place at `path`.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False
    if not _is_at(handle, path):
        raise BlockingIOError(f"{path} was removed")
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
