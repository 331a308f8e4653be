"""Interrupt real commands at seeded moments, from their first hundredth of a second on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from psutil import STATUS_ZOMBIE, NoSuchProcess, Process, process_iter

from runtimes.entry import INTERRUPTED
from validation.trust.case import spread

_GRACE = 1.0  # seconds: a command that was timed takes longer
ROOT = Path(__file__).parents[2]
# What a traceback may show of ours that is from before `runtimes.entry` could guard anything.
_FIRST = re.compile(rf'File "{re.escape(str(ROOT))}/(\w+/__main__|\w+/__init__)\.py"')
_OURS = re.compile(rf'File "{re.escape(str(ROOT))}/')


@dataclass(frozen=True)
class Interrupts:
    """What came of interrupting a command `signals` times.

    `early` came while the interpreter itself started, `late` after the work was done. `wrong`: all
    that was not answered by one line and exit code 130, with the moment.
    """

    command: str
    signals: int
    early: int
    late: int
    wrong: tuple[str, ...]
    seconds: float


def interrupt_often(
    words: Sequence[str],
    count: int,
    seed: int,
    *,
    within: float = 3.0,
    check: Callable[[], str] = lambda: "",
) -> Interrupts:
    """Interrupt `python -m ...` of these words `count` times in its first seconds (POSIX).

    `check` says what is wrong with what an interrupted command leaves, '' for nothing.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the commands would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.perf_counter()
    early, late, wrong = 0, 0, []
    for moment in spread(count, within, seed):
        code, said, alive = _interrupted(words, moment)
        if _is_early(code, said):
            early += 1
        elif code == 0:
            late += 1
        elif fault := _fault(code, said) or check() or ("a process of it lives" if alive else ""):
            wrong.append(f"{words[0]}, interrupted at {moment:.4f} s: {fault}")
    seconds = time.perf_counter() - start
    return Interrupts(words[0], count, early, late, tuple(wrong), seconds)


def _interrupted(words: Sequence[str], moment: float) -> tuple[int, str, bool]:
    """How it ends, what it says as an error, and whether a process that it started lives on."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, to see who of it lives
    )
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    return process.returncode, said, lives(process.pid)


def lives(group: int) -> bool:
    """Whether a process of a group lives on; what was killed takes a moment to be gone.

    What is dead and only not waited for counts as gone: whoever adopts orphans may never do that.
    """
    end = time.monotonic() + _GRACE
    while members := [process for process in process_iter() if _is_of(process, group)]:
        if time.monotonic() > end:
            for process in members:
                with suppress(NoSuchProcess):
                    process.kill()
            return True
        time.sleep(0.01)
    return False


def _is_of(process: Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != STATUS_ZOMBIE
    except (ProcessLookupError, NoSuchProcess):
        return False


def _is_early(code: int, said: str) -> bool:
    """Ended without a word, or with a traceback that shows nothing guarded yet."""
    if not said:
        return code == -signal.SIGINT
    return "KeyboardInterrupt" in said and len(_OURS.findall(said)) == len(_FIRST.findall(said))


def _fault(code: int, said: str) -> str:
    if code != INTERRUPTED:
        return f"exit code {code}: {said[-400:]}"
    if not re.fullmatch(r"error: interrupted(; .+)?\n", said):
        return f"it says {said[-400:]!r}"
    return ""
