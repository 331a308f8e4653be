"""What the figures were measured on."""

import contextlib
import os
import platform
from pathlib import Path


def machine() -> str:
    """The CPU's name, how many cores this process may use, and what they compute in."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
        flags = next((x.split(":", 1)[1] for x in lines if x.startswith("flags")), "")
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
    has = [flag for flag in known if flag in flags.split()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {', '.join(has) or 'no known vector extensions'}"
