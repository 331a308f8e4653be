"""Time and peak memory of a stage; giving back what is no longer needed."""

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtimes.free_memory import process_memory

_CLEAR = Path("/proc/self/clear_refs")
_LARGE = 1e8  # bytes of garbage that are worth the half second of a full collection


@dataclass
class Usage:
    """Wall-clock seconds of a stage and the process's peak resident memory in bytes during it.

    `load_seconds` is the part of them in which the engine loaded and compiled the graph.
    """

    seconds: float = 0.0
    load_seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure the block. Off Linux the peak is that of the whole process so far."""
    usage = Usage()
    _reset_peak()
    start = time.perf_counter()
    yield usage
    usage.seconds = time.perf_counter() - start
    usage.peak_bytes = peak_bytes()


def peak_bytes() -> int:
    """The process's peak resident set size since the last reset; 0 where nothing says (Windows)."""
    if found := process_memory("VmHWM"):
        return found
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back(garbage: float = 0) -> None:
    """Return freed memory to the system; glibc would keep what was freed in pieces below 32 MB.

    `garbage`: about how many bytes cycles of references may hold, as those of PyTorch's and onnx's
    graphs do; from 100 MB on they are collected first.
    """
    if garbage >= _LARGE:
        gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    with suppress(OSError):
        _CLEAR.write_text("5")  # resets VmHWM (Documentation/filesystems/proc.rst)
