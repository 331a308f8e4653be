"""How far long work is: a bar with the time left on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from runtimes.memory import in_bytes

_WIDTH = 24
EVERY = 10.0  # seconds between two lines where there is no terminal
_SETTLED = 1.0  # seconds after which what is done says something about what is left
_TELLING = 0.02  # the share of the work from which on its pace tells how long the rest takes


class Progress:
    """Reports to `stream` (default: standard error, for standard output has the results).

    `clock` counts seconds. Nothing is written when `quiet`.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet, self._clock = quiet, clock
        self._stream = stream or sys.stderr
        self._bar = not quiet and self._stream.isatty()
        self._what, self._done, self._filled, self._open, self._width = "", 0.0, -1, False, 0
        self._started = self._shown = self._last = clock()

    def step(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of `what` are finished; it began when the last thing ended."""
        self._show(what, done, total, f"{done} of {total}", last=True)

    def runs(
        self, what: str, before: int, total: int, count: int = 1
    ) -> Callable[[str, int, int], None]:
        """For `on_step` of a pipeline's run that makes `count` of `total`, after `before` of them.

        The denoisers' steps share a run's time, half of it each.
        """

        def step(stage: str, done: int, of: int) -> None:
            share = share_done(stage, done, of)
            if share is not None:
                part = before + count * share
                self._show(what, part, total, f"{int(part)} of {total}", last=True)

        return step

    def line(self, text: str) -> None:
        """One line of news."""
        self._last = self._clock()
        if self._quiet:
            return
        if self._open:
            self._stream.write("\n")
            self._open = False
        print(text, file=self._stream, flush=True)

    def graph(self, title: str, total: int) -> Callable[[int], None]:
        """A graph of `total` bytes of weights is begun; what is returned takes bytes as they go."""
        if not self._bar:
            self.line(f"{title}: {in_bytes(total)}")
        done = 0

        def add(count: int) -> None:
            nonlocal done
            if done == total:  # a small weight may be looked at again
                return
            done = min(done + count, total)
            text = f"{in_bytes(done)} of {in_bytes(total)}"
            self._show(title, done, total, text, last=False)

        if self._bar:
            self._show(title, 0, total, f"{in_bytes(0)} of {in_bytes(total)}", last=False)
        return add

    def _show(self, what: str, done: float, total: float, text: str, *, last: bool) -> None:
        """Draw the bar, or print a line if it is time for one; `last`: for the end too."""
        if what != self._what or done < self._done:
            self._what, self._filled, self._width = what, -1, 0
            self._started = self._shown = self._last
        now = self._clock()
        self._done, self._last = done, now
        if self._quiet:
            return
        left = _left(now - self._started, done, total)
        if self._bar:
            self._draw(what, done, total, text + left)
        elif (done == total and last) or (done < total and now - self._shown >= EVERY):
            self._shown = now
            self.line(f"{what}: {text}{left}")

    def _draw(self, what: str, done: float, total: float, text: str) -> None:
        filled = int(_WIDTH * done // max(total, 1))
        # Terminals are slow: drawn anew when the bar looks different, or once a second.
        if filled == self._filled and done != total and self._last - self._shown < 1:
            return
        self._filled, self._shown = filled, self._last
        bar = "#" * filled + "." * (_WIDTH - filled)
        end = "\n" if done == total else ""
        self._open = not end
        self._stream.write(f"\r{what:<22}[{bar}] {text:<{self._width}}  {end}")
        self._width = len(text)
        self._stream.flush()


# Where in a run a graph's steps begin, and their share of it.
_HALVES = {"stage_c": (0.0, 0.5), "stage_b": (0.5, 0.5)}
SILENT = Progress(quiet=True)


def share_done(stage: str, done: int, of: int) -> float | None:
    """The share, 0..1, of a run that is done after so many steps of a denoiser; None of others."""
    if stage not in _HALVES:
        return None
    start, share = _HALVES[stage]
    return start + share * done / of


def time_of(seconds: float) -> str:
    """Seconds for people: '40 s', '12 min', '2 h 05 min'."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _left(elapsed: float, done: float, total: float) -> str:
    # A graph is traced before its weights go: the first few bytes say nothing of the pace.
    if not _TELLING * total < done < total or elapsed < _SETTLED:
        return ""
    return f", {time_of(elapsed / done * (total - done))} left"
