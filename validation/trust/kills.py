"""Kill a process at seeded moments of its work, and judge what it leaves."""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.trust.forks import Work, run, signalled

_EARLIER = 0.7


@dataclass(frozen=True)
class Case:
    """A piece of work, and what must hold however it ends.

    `prepare` brings the output back to what it was before. `state` names what it is now: one of
    WHOLE, or else what is wrong with it. `left` names what the work should not leave.
    """

    name: str
    prepare: Callable[[], None]
    work: Work
    state: Callable[[], str]
    left: Callable[[], Sequence[str]]


# As before; as after; or, for some milliseconds of a replacement, whole files on their way into
# their places: nothing opens then, and the next command that writes there goes on.
OLD, NEW, MOVING = "old", "new", "moving"
WHOLE = (OLD, NEW, MOVING)


@dataclass(frozen=True)
class Kills:
    """What came of a case: how many processes were killed, others having ended before.

    `states` counts what the kills left. `lost`: what was neither old nor new; `left`: what the next
    run did not put right, or left behind; each with the moment of the kill. `work` is the time of a
    whole run, `seconds` that of everything.
    """

    case: str
    kills: int
    states: dict[str, int]
    lost: tuple[str, ...]
    left: tuple[str, ...]
    work: float
    seconds: float


def kill_often(case: Case, kills: int, seed: int, log: Path) -> Kills:
    """Kill the case's process `kills` times, at moments spread evenly over its duration.

    RuntimeError when its work does not succeed even undisturbed. What processes print goes to the
    file `log`.
    """
    start = time.perf_counter()
    took = _undisturbed(case, log)
    states: dict[str, int] = {}
    lost, left = [], []
    for moment in moments(kills, took, seed):
        _kill(case, moment, log)
        state = case.state()
        if state in WHOLE:
            states[state] = states.get(state, 0) + 1
        else:
            lost.append(f"{case.name}, {moment:.4f} s: {state}")
        if wrong := _run(case, log)[0]:
            left.append(f"{case.name}, {moment:.4f} s, the next run: {wrong}")
    seconds = time.perf_counter() - start
    return Kills(case.name, kills, states, tuple(lost), tuple(left), took, seconds)


def moments(count: int, seconds: float, seed: int) -> Iterator[float]:
    """One moment in each of `count` equal parts of a duration."""
    chance = random.Random(seed)
    for index in range(count):
        yield (index + chance.random()) / count * seconds


def _kill(case: Case, moment: float, log: Path) -> None:
    """Kill its work at a moment, or an earlier one where it is faster this time."""
    case.prepare()
    code = signalled(case.work, log, signal.SIGKILL, moment)
    if code == 0:
        _kill(case, _EARLIER * moment, log)
    elif code != -signal.SIGKILL:
        raise RuntimeError(f"{case.name} fails by itself: {log.read_text('utf-8', 'replace')}")


def _undisturbed(case: Case, log: Path) -> float:
    """Seconds of the case's work, the second time: the first fills the caches of the disk."""
    took = 0.0
    for _ in range(2):
        case.prepare()
        wrong, took = _run(case, log)
        if wrong:
            raise RuntimeError(f"{case.name} fails by itself: {wrong}")
    return took


def _run(case: Case, log: Path) -> tuple[str, float]:
    """Let the work end; what is wrong then, and the seconds it took."""
    code, seconds = run(case.work, log)
    if code != 0:
        return log.read_text("utf-8", "replace").strip(), seconds
    state, left = case.state(), case.left()
    wrong = "" if state == NEW else f"the output is {state}"
    return wrong or (f"it leaves {', '.join(left)}" if left else ""), seconds
