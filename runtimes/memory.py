"""How much memory is free and used, a stage's time and peak, and giving back what is not needed."""

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Linux keeps a process's peak for its whole life; writing here starts a new one for each stage.
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
    if peak := process_memory("VmHWM"):
        return peak
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
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


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be had without swapping; None where the system does not say (not Linux).

    The least of MemAvailable (/proc/meminfo) and what each control group above this process has
    left, version 1 or 2. Pages of files count as free: the kernel gives them up.
    """
    limits = [value for value in (_machine(root), *_groups(root)) if value is not None]
    return min(limits, default=None)


def process_memory(kind: str = "VmRSS") -> int:
    """Bytes of memory this process has now; 0 where the system does not say.

    `kind` is a line of Linux's /proc/PID/status: VmRSS is all, RssAnon without pages of files,
    VmHWM the most so far.
    """
    lines = _lines(Path("/proc/self/status"))
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith(f"{kind}:")), 0)


def in_bytes(count: float) -> str:
    """A number of bytes for people: '3.97 GB', '13.2 MB'."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _machine(root: Path) -> int | None:
    lines = _lines(root / "proc/meminfo")
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")), None)


def _groups(root: Path) -> Iterator[int | None]:
    """What is left in each group; in a container the group's own path may not be visible."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        # A group is bounded by its own limit and by those of all groups above it.
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(base):
                yield _left(group, *names)


def _left(group: Path, limit_name: str, used_name: str, start: str) -> int | None:
    limit, used = (_number(group / name) for name in (limit_name, used_name))
    if limit is None or used is None:  # 'max' in version 2: no limit
        return None
    # Pages of files count as used until somebody needs them, so they are free for our purpose.
    cached = {f"{start}inactive_file", f"{start}active_file"}
    pairs = (line.split() for line in _lines(group / "memory.stat"))
    return max(limit - used + sum(int(pair[1]) for pair in pairs if pair[0] in cached), 0)


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)[:1])
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
