"""What a benchmark is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from runtimes.progress import SILENT, Progress

Report = Callable[[str], None]  # takes a line about what is going on


@dataclass(frozen=True)
class Settings:
    """Which graphs, how many timed rounds, and which families of contenders to leave out.

    Contenders that together may need more than `memory` bytes are timed in groups. `device` is one
    of DEVICES; `progress` shows the rounds.
    """

    graphs: tuple[str, ...]
    repeats: int
    memory: float
    without: tuple[str, ...]
    report: Report
    device: str = "cpu"
    progress: Progress = SILENT
