"""A progress bar per stage on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
from typing import TextIO

_WIDTH = 24


class Progress:
    """Reports how far each stage is, to `stream` (default: standard error)."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()

    def step(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of a stage are finished."""
        if self._quiet:
            return
        if self._bar:
            filled = _WIDTH * done // total
            end = "\n" if done == total else ""
            bar = "#" * filled + "." * (_WIDTH - filled)
            self._stream.write(f"\r{stage:<22}[{bar}] {done}/{total}{end}")
            self._stream.flush()
        elif done == total:
            self.line(f"{stage}: {total} of {total}")

    def line(self, text: str) -> None:
        """One line of news."""
        if not self._quiet:
            print(text, file=self._stream, flush=True)
