"""Compiled OpenVINO graphs kept on disk, trusted only as far as they can be verified.

OpenVINO's own cache loads what it finds: with 64 bytes of a blob flipped it computed, without a
word, outputs off by 26 to 650 % (OpenVINO 2026.4). Here every file carries the SHA-256 of its
content and of what it was compiled from, is read only when both agree, and lies in a folder that
nobody else can write to, because a compiled graph is code.
"""

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import UsageError

DIGEST_BYTES = 32


def check_folder(folder: Path) -> None:
    """Create the folder; UsageError when it cannot be written, or others can write to it."""
    if folder == Path():
        raise UsageError("--cache-dir is empty; give a folder that holds nothing else")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--cache-dir {folder} cannot be written: {error.strerror}") from None
    if not _own(folder.stat()):
        raise UsageError(
            f"--cache-dir {folder}: others can write to it, and compiled graphs are code; "
            "give an empty folder of your own"
        )


def _own(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's and nobody else can write to it (POSIX)."""
    if os.name != "posix":
        return True
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not shared and status.st_uid == os.getuid()


def load(folder: Path, core: Any, device: str, key: object, config: dict[str, Any]) -> Any:
    """The compiled graph of `key`, or None when there is none that verifies."""
    path = _path(folder, core, device, key)
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            if not _own(os.fstat(file.fileno())) or os.fstat(file.fileno()).st_size <= DIGEST_BYTES:
                return None
            content = np.memmap(file, np.uint8, mode="r")
    except OSError:  # none there, or not for us to read
        return None
    blob = content[DIGEST_BYTES:]
    if _digest(path.stem, blob) != content[:DIGEST_BYTES].tobytes():
        return None
    with suppress(RuntimeError):  # compiled by a build or for a device that differs after all
        return core.import_model(bytes(blob), device, config)
    return None


def store(folder: Path, compiled: Any, core: Any, device: str, key: object) -> None:
    """Keep a compiled graph, all or nothing. A full disk costs the cache entry, not the run."""
    path = _path(folder, core, device, key)
    with suppress(OSError):
        blob = compiled.export_model().getbuffer()
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(path.stem, blob))
                file.write(blob)
            os.replace(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)


def _path(folder: Path, core: Any, device: str, key: object) -> Path:
    """Named by all that the compiled graph depends on."""
    plugins = core.get_versions(device.partition(".")[0])
    build = [plugin.build_number for plugin in plugins.values()]
    about = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    text = repr((key, build, [core.get_property(device, name) for name in about]))
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()}.blob"


def _digest(name: str, blob: Any) -> bytes:
    found = hashlib.sha256(name.encode())
    found.update(blob)
    return found.digest()
