"""Compiled OpenVINO graphs kept on disk, trusted only as far as they can be verified.

OpenVINO's own cache loads what it finds: with 64 bytes of a blob flipped it computed, without a
word, outputs off by 26 to 650 % (OpenVINO 2026.4). Here every file carries the SHA-256 of its
content and of what it was compiled from, is read only when both agree, and lies in a folder that
nobody else can write to, because a compiled graph is code.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.atomic_file import atomic_file, remove_dead, try_writing
from runtimes.errors import RunError, UsageError, one_line

DIGEST_BYTES = 32


def check_folder(folder: Path) -> None:
    """Create the folder, or rid it of what killed processes left.

    UsageError when it cannot be written, or others can write to it.
    """
    if folder == Path():
        raise UsageError("--cache-dir is empty; give a folder that holds nothing else")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_dead(folder)
        try_writing(folder / "graph")
    except OSError as error:
        raise UsageError(f"--cache-dir {folder} cannot be written: {error.strerror}") from None
    if not _is_private(folder.stat()):
        raise UsageError(
            f"--cache-dir {folder}: others can write to it, and compiled graphs are code; "
            "give an empty folder of your own"
        )


def _is_private(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's and nobody else can write to it (POSIX)."""
    if os.name != "posix":
        return True
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not shared and status.st_uid == os.getuid()


def load(
    folder: Path, core: Any, device: str, key: object, config: dict[str, Any]
) -> tuple[Any, str]:
    """The compiled graph of `key`, or None; and why one that is there was not taken ('': none is).

    Only a file that is this user's alone is read, and imported only when its content verifies.
    """
    try:
        blob = _verified(_path(folder, core, device, key))
        return core.import_model(bytes(blob), device, config), ""
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"cached graph not read: {error.strerror or error}"
    except ValueError as error:
        return None, f"cached graph not read: {error}"
    except RuntimeError as error:  # compiled by a build or for a device that differs after all
        return None, f"cached graph not read: OpenVINO refuses it ({one_line(error)[:80]})"


def store(folder: Path, compiled: Any, core: Any, device: str, key: object) -> str:
    """Keep a compiled graph, all or nothing; why it could not be kept, or ''.

    A full disk costs the cache entry, not the run.
    """
    path = _path(folder, core, device, key)
    blob = compiled.export_model().getbuffer()
    try:
        with atomic_file(path, mode=0o600) as file:  # `load` reads no file that others can write
            file.write(_digest(path.stem, blob))
            file.write(blob)
    except RunError as error:
        return f"compiled graph not kept: {error}"
    return ""


def _verified(path: Path) -> NDArray[np.uint8]:
    """A file's compiled graph; ValueError where it is not to be trusted."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        status = os.fstat(file.fileno())  # of what is open: a path may be changed meanwhile
        if not _is_private(status):
            raise ValueError("others can write to it")
        if status.st_size <= DIGEST_BYTES:
            raise ValueError("it is damaged")
        content = np.memmap(file, np.uint8, mode="r")
    blob = content[DIGEST_BYTES:]
    if _digest(path.stem, blob) != content[:DIGEST_BYTES].tobytes():
        raise ValueError("it is damaged")
    return blob


def _path(folder: Path, core: Any, device: str, key: object) -> Path:
    """Named by all that the compiled graph depends on."""
    plugins = core.get_versions(device.partition(".")[0])
    build = [plugin.build_number for plugin in plugins.values()]
    about = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    text = repr((key, build, [core.get_property(device, name) for name in about]))
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()}.blob"


def _digest(name: str, blob: Any) -> bytes:
    digest = hashlib.sha256(name.encode())
    digest.update(blob)
    return digest.digest()
