"""Work in a process of its own that is forked: what it needs is imported once, and not each time.

The process that forks has to be fresh: threads of libraries do not come along.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

Work = Callable[[], int | None]  # gives an exit code, as `main` of a command line does
_POLL = 0.0005  # seconds


def started(work: Work, log: Path) -> int:
    """Begin `work` in a fork that prints into the file `log`; returns the process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        handle = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(work: Work, log: Path) -> tuple[int, float]:
    """Do `work` in a fork; its exit code and the seconds it took."""
    start = time.perf_counter()
    code = ended(started(work, log))
    return code, time.perf_counter() - start


def signalled(work: Work, log: Path, number: int, seconds: float) -> int:
    """Send a signal that long after the start of `work`, unless that is faster; how it ended."""
    until = time.perf_counter() + seconds
    pid = started(work, log)
    while time.perf_counter() < until and not _is_over(pid):
        time.sleep(min(_POLL, max(0.0, until - time.perf_counter())))
    if not _is_over(pid):
        os.kill(pid, number)
    return ended(pid)


def _is_over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
