"""An interrupt (SIGINT, Ctrl-C) inside a command: heard whatever it meets, put off where it has to.

Only the main thread is interrupted; in others nothing here does anything.
"""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def interruptible() -> Iterator[None]:
    """KeyboardInterrupt on SIGINT, whatever the code makes of it that is interrupted.

    A module in C that is being imported makes an ImportError of it, others a SystemError.
    """
    came = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    try:
        with _handled(interrupt):
            yield
    except Exception as error:
        if came:
            raise KeyboardInterrupt from error
        raise


@contextmanager
def put_off() -> Iterator[None]:
    """Let an interrupt wait for the end of the block, which is short: half of it would stay."""
    came: list[tuple[int, FrameType | None]] = []
    before = signal.getsignal(signal.SIGINT)
    with _handled(lambda *about: came.append(about)):
        yield
    if came and callable(before):
        before(*came[0])


def completed(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, what it prints captured; an interrupt leaves no process behind.

    `subprocess.run` loses the process where the interrupt comes while it is being started, and does
    not wait for the one that it kills.
    """
    process = None
    try:
        with put_off():
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        printed, said = process.communicate()
    except BaseException:
        if process is not None:
            process.kill()
            process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, printed, said)


@contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    # One that was set outside Python cannot be put back; where SIGINT is ignored, it stays so.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
