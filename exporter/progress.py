"""How far an export is: a bar of bytes on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
from collections.abc import Callable
from typing import TextIO

from runtimes.free_memory import in_bytes

_WIDTH = 24


class Progress:
    """Reports to `stream` (default: standard output)."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = stream or sys.stdout
        self._bar = self._stream.isatty()

    def line(self, text: str) -> None:
        """One line of news."""
        if not self._quiet:
            print(text, file=self._stream, flush=True)

    def graph(self, title: str, total: int) -> Callable[[int], None]:
        """A graph of `total` bytes of weights is begun; what is returned takes bytes as they go."""
        if self._quiet or not self._bar:
            self.line(f"{title}: {in_bytes(total)}")
            return lambda count: None
        done = shown = 0

        def add(count: int) -> None:
            nonlocal done, shown
            if done == total:  # a small weight may be looked at again
                return
            done = min(done + count, total)
            filled = _WIDTH * done // max(total, 1)
            if filled > shown or done == total:
                shown = filled
                self._draw(title, filled, done, total)

        self._draw(title, 0, 0, total)
        return add

    def _draw(self, title: str, filled: int, done: int, total: int) -> None:
        bar = "#" * filled + "." * (_WIDTH - filled)
        end = "\n" if done == total else ""
        text = f"\r{title:<26}[{bar}] {in_bytes(done)} of {in_bytes(total)}  {end}"
        self._stream.write(text)
        self._stream.flush()
