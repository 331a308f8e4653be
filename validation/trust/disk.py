"""A disk that fails: what Python changes on it is counted, step by step, and one step fails.

Steps are the making of files and folders, each write that leaves Python's buffers, renames, links,
and syncs; where a step kills its process, also what is removed. What libraries write in other
languages is not seen.
"""

import builtins
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

_STEPS = ("rename", "replace", "fsync", "mkdir", "link", "sendfile")
_REMOVALS = ("unlink", "rmdir")
_WRITES = frozenset("wax+")


@dataclass
class Disk:
    """Step number `at`, from 1, fails with the error `number`, and with `stays` all writes after.

    None for SIGKILL instead, before the step. `done` counts the steps; with `at` 0 none fails.
    """

    at: int
    number: int | None
    stays: bool = False
    done: int = 0
    failed: str = ""

    def step(self, what: str, path: object) -> None:
        """Count a step; OSError when it is one to fail."""
        self.done += 1
        again = self.stays and bool(self.failed) and what in ("write", "sendfile", "make")
        if self.done == self.at or again:
            self.failed = self.failed or f"{what} of {path}"
            if self.number is None:
                os.kill(os.getpid(), signal.SIGKILL)
                return
            raise OSError(self.number, os.strerror(self.number), str(path))


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """Everything that Python does to files in the block goes by `disk`."""
    with ExitStack() as patches:
        for name in _STEPS if disk.number is not None else (*_STEPS, *_REMOVALS):
            patches.enter_context(mock.patch.object(os, name, _counted(disk, name)))
        patches.enter_context(mock.patch.object(os, "open", _counted_open(disk)))
        opened = _opened(disk)
        for module in (io, builtins):
            patches.enter_context(mock.patch.object(module, "open", opened))
        yield disk


def _counted(disk: Disk, name: str) -> Callable[..., Any]:
    call = getattr(os, name)

    def counted(*args: Any, **options: Any) -> Any:
        disk.step(name, args[0])
        return call(*args, **options)

    return counted


def _counted_open(disk: Disk) -> Callable[..., int]:
    call = os.open

    def counted(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            disk.step("make", path)
        return call(path, flags, *args, **options)

    return counted


def _opened(disk: Disk) -> Callable[..., Any]:
    """`open`, whose files count what they write."""
    call = io.open

    class Counted(io.FileIO):
        def write(self, data: Any) -> int:
            disk.step("write", self.name)
            return super().write(data)

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not _WRITES & set(mode):
            return call(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            disk.step("make", file)
        raw = Counted(file, mode.translate({ord("b"): None, ord("t"): None}), closefd, opener)
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    return opened


def listing(folder: Path) -> dict[str, bytes]:
    """Every file and folder below a folder by its path, hidden ones too, and what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }
