"""Kill a process at seeded moments of its work, and judge what it leaves."""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.trust.disk import Disk, failing
from validation.trust.forks import Work, run, signalled

_EARLIER = 0.7  # of a place that a shorter run did not reach


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
    took, steps = _undisturbed(case, log)
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
        if wrong := _run(case, case.work, log)[0]:
            left.append(f"{what}, the next run: {wrong}")
    seconds = time.perf_counter() - start
    return Kills(case.name, kills, steps, states, tuple(lost), tuple(left), took, seconds)


def spread(count: int, length: float, seed: int) -> Iterator[float]:
    """One place in each of `count` equal parts of a length."""
    chance = random.Random(seed)
    for index in range(count):
        yield (index + chance.random()) / count * length


def _kill(case: Case, place: float, log: Path) -> None:
    """Kill the work at a moment, or before a step; earlier where it is shorter this time."""
    case.prepare()
    if isinstance(place, int):
        code, _ = run(lambda: _by_steps(case.work, Disk(place, None)), log)
    else:
        code = signalled(case.work, log, signal.SIGKILL, place)
    if code == 0:
        _kill(case, type(place)(place * _EARLIER), log)
    elif code != -signal.SIGKILL:
        raise RuntimeError(f"{case.name} fails by itself: {log.read_text('utf-8', 'replace')}")


def _by_steps(work: Work, disk: Disk) -> int | None:
    with failing(disk):
        return work()


def _undisturbed(case: Case, log: Path) -> tuple[float, int]:
    """Seconds of the case's work, once the caches of the disk are filled, and its steps."""
    count = log.with_suffix(".steps")

    def counted() -> int | None:
        disk = Disk(0, None)
        code = _by_steps(case.work, disk)
        count.write_text(str(disk.done), encoding="utf-8")
        return code

    took = 0.0
    for work in (counted, case.work):
        case.prepare()
        wrong, took = _run(case, work, log)
        if wrong:
            raise RuntimeError(f"{case.name} fails by itself: {wrong}")
    return took, int(count.read_text("utf-8"))


def _run(case: Case, work: Work, log: Path) -> tuple[str, float]:
    """Let the work end; what is wrong then, and the seconds it took."""
    code, seconds = run(work, log)
    if code != 0:
        return log.read_text("utf-8", "replace").strip(), seconds
    state, left = case.state(), case.left()
    wrong = "" if state == NEW else f"the output is {state}"
    return wrong or (f"it leaves {', '.join(left)}" if left else ""), seconds
