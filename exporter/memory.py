"""Memory: giving back what this process no longer needs."""

import ctypes
import gc
import sys
from contextlib import suppress


def give_back() -> None:
    """Return freed memory to the system; glibc would keep what was freed in pieces below 32 MB."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
