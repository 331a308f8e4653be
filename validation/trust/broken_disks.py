"""Let a step on the disk fail in the middle of a command, and judge what it says and leaves."""

import errno
import time
from dataclasses import dataclass
from pathlib import Path

from validation.trust.case import MOVING, NEW, WHOLE, Case, by_steps, spread, undisturbed
from validation.trust.disk import Disk
from validation.trust.forks import run

ERRORS = ((errno.ENOSPC, True), (errno.EIO, False))  # full, and so from then on; broken, once


@dataclass(frozen=True)
class DiskFaults:
    """What came of a case with `tried` of its steps failing, some of which it could do without.

    `wrong`: where not one line said so, or something was lost or left, with the step.
    """

    case: str
    steps: int
    tried: int
    done_without: int
    wrong: tuple[str, ...]
    seconds: float


def fail_often(case: Case, count: int, seed: int, log: Path) -> DiskFaults:
    """Let `count` of the case's steps on the disk fail, one a run, full and broken in turn.

    RuntimeError when the work does not succeed even undisturbed. What processes print goes to the
    file `log`.
    """
    start = time.perf_counter()
    _, steps = undisturbed(case, log, errno.EIO)
    without, wrong = 0, []
    for number, place in enumerate(spread(count, steps, seed)):
        error, stays = ERRORS[number % len(ERRORS)]
        case.prepare()
        disk = Disk(1 + int(place), error, stays)
        code, _ = run(lambda disk=disk: by_steps(case.work, disk), log)  # type: ignore[misc]
        said = log.read_text("utf-8", "replace")
        without += code == 0
        if fault := _fault(case, code, said):
            wrong.append(f"{case.name}, {errno.errorcode[error]} at step {disk.at}: {fault}")
    seconds = time.perf_counter() - start
    return DiskFaults(case.name, steps, count, without, tuple(wrong), seconds)


def _fault(case: Case, code: int, said: str) -> str:
    state = case.state()
    if state not in WHOLE or state == MOVING:
        return f"the output is {state}"
    # What an export that may be resumed has finished stays, in a folder that says so.
    left = [name for name in case.left() if not name.rstrip("/").endswith(".partial")]
    if left:
        return f"it leaves {', '.join(left)}"
    if code == 0:
        return "" if state == NEW else "it says nothing"
    one_line = code in (1, 2) and said.startswith("error: ") and said.count("\n") == 1
    return "" if one_line else f"exit code {code}: {said[-400:]}"
