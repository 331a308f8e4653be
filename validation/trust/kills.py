"""Kill a process at seeded moments of its work, and judge what it leaves."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

from validation.trust.case import WHOLE, Case, by_steps, spread, undisturbed, whole_run
from validation.trust.disk import Disk
from validation.trust.forks import run, signalled

_EARLIER = 0.7  # of a place that a shorter run did not reach


@dataclass(frozen=True)
class Kills:
    """What came of a case: how many processes were killed, and at how many steps on the disk.

    `states` counts what the kills left. `lost`: what was neither old nor new; `left`: what the next
    run did not put right, or left behind; each with the place of the kill. `work` is the time of a
    whole run, `seconds` that of everything.
    """

    case: str
    kills: int
    steps: int
    states: dict[str, int]
    lost: tuple[str, ...]
    left: tuple[str, ...]
    work: float
    seconds: float


def kill_often(case: Case, kills: int, seed: int, log: Path) -> Kills:
    """Kill the case's process `kills` times.

    Half of the kills come at moments spread evenly over its duration, the others, which find the
    shortest of its phases too, before as many of its steps on the disk. RuntimeError when the work
    does not succeed even undisturbed. What processes print goes to the file `log`.
    """
    start = time.perf_counter()
    took, steps = undisturbed(case, log, None)
    states: dict[str, int] = {}
    lost, left = [], []
    for place in (
        *spread(kills - kills // 2, took, seed),
        *(1 + int(step) for step in spread(kills // 2, steps, seed)),
    ):
        _kill(case, place, log)
        what = f"{case.name}, killed at {'step ' if isinstance(place, int) else ''}{place}"
        state = case.state()
        states[state] = states.get(state, 0) + 1
        if state not in WHOLE:
            lost.append(f"{what}: {state}")
        if wrong := whole_run(case, case.work, log)[0]:
            left.append(f"{what}, the next run: {wrong}")
    seconds = time.perf_counter() - start
    return Kills(case.name, kills, steps, states, tuple(lost), tuple(left), took, seconds)


def _kill(case: Case, place: float, log: Path) -> None:
    """Kill the work at a moment, or before a step; earlier where it is shorter this time."""
    case.prepare()
    if isinstance(place, int):
        code, _ = run(lambda: by_steps(case.work, Disk(place, None)), log)
    else:
        code = signalled(case.work, log, signal.SIGKILL, place)
    if code == 0:
        _kill(case, type(place)(place * _EARLIER), log)
    elif code != -signal.SIGKILL:
        raise RuntimeError(f"{case.name} fails by itself: {log.read_text('utf-8', 'replace')}")
