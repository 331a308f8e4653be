"""What this machine's processor can do, where that decides how a graph computes."""

import platform
from pathlib import Path


def cpu_flags() -> frozenset[str]:
    """What this CPU says it can do, in Linux's names; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, ":").split(":", 1)[1].split())


def has_half_arithmetic() -> bool:
    """Whether this is an ARM64 CPU that computes in fp16 (FEAT_FP16; every Apple chip does).

    Where the system does not list features the architecture decides.
    """
    flags = cpu_flags()
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return arm and (not flags or "asimdhp" in flags)
