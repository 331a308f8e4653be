"""A piece of work whose process is killed or whose disk fails, and what must hold then."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.trust.disk import Disk, failing
from validation.trust.forks import Work, run


@dataclass(frozen=True)
class Case:
    """Work, and how to see what became of its output.

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


def spread(count: int, length: float, seed: int) -> Iterator[float]:
    """One place in each of `count` equal parts of a length."""
    chance = random.Random(seed)
    for index in range(count):
        yield (index + chance.random()) / count * length


def by_steps(work: Work, disk: Disk) -> int | None:
    """Do the work on a disk that counts its steps, and may fail."""
    with failing(disk):
        return work()


def undisturbed(case: Case, log: Path, number: int | None) -> tuple[float, int]:
    """Seconds of the case's work, once the caches of the disk are filled, and its steps.

    The steps are those that a disk of this error `number` counts (validation.trust.disk.Disk).
    RuntimeError when it does not succeed. What it prints goes to the file `log`.
    """
    count = log.with_suffix(".steps")

    def counted() -> int | None:
        disk = Disk(0, number)
        code = by_steps(case.work, disk)
        count.write_text(str(disk.done), encoding="utf-8")
        return code

    took = 0.0
    for work in (counted, case.work):
        case.prepare()
        wrong, took = whole_run(case, work, log)
        if wrong:
            raise RuntimeError(f"{case.name} fails by itself: {wrong}")
    return took, int(count.read_text("utf-8"))


def whole_run(case: Case, work: Work, log: Path) -> tuple[str, float]:
    """Let the work end; what is wrong then, and the seconds it took."""
    code, seconds = run(work, log)
    if code != 0:
        return log.read_text("utf-8", "replace").strip(), seconds
    state, left = case.state(), case.left()
    wrong = "" if state == NEW else f"the output is {state}"
    return wrong or (f"it leaves {', '.join(left)}" if left else ""), seconds
