"""An interrupt (SIGINT, Ctrl-C) inside a command: heard whatever it meets, put off where it has to.

Only the main thread is interrupted; in others nothing here does anything.
"""

import signal
import threading
from collections.abc import Callable, Iterator
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
