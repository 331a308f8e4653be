"""Reading JSON that a stranger wrote: what it is and how large is asked before it is parsed."""

import json
import mmap
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

_MEGABYTE = 1_000_000


def open_regular(path: Path) -> BinaryIO:
    """A regular file, to be read.

    Raises OSError where there is none, ValueError where it is something else: a pipe would wait
    for a writer, a device never end.
    """
    # Without waiting: opening a pipe would otherwise do so until somebody writes.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("it is no regular file")
    return os.fdopen(handle, "rb")


def map_regular(path: Path) -> memoryview:
    """The bytes of a regular file, mapped: as `open_regular`, and ValueError for an empty one."""
    with open_regular(path) as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_regular(path: Path, most: int) -> bytes:
    """A regular file of at most `most` bytes: raises as `open_regular`, ValueError if larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"it has {size / _MEGABYTE:.1f} MB, more than {most / _MEGABYTE:g} MB")
        return file.read(most)


def parse_json(data: bytes, most: int | None = None) -> Any:
    """JSON as the standard has it, in UTF-8; ValueError for anything else.

    Python's parser alone takes NaN and Infinity, the last of two values for one key, and ends in
    a RecursionError where lists are nested some thousand times. `most`: values, for an empty list
    is two characters in a file and 64 bytes in memory.
    """
    if most is not None and data.count(b",") + data.count(b"[") + data.count(b"{") > most:
        raise ValueError(f"it holds more than {most:,} values")
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_distinct
        )
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{ascii(name)[:60]} is there twice")
        found[name] = value
    return found
