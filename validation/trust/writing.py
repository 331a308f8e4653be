"""Processes that are killed, and disks that fail, while they replace the bundle."""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Generator
from typing import Any

from runtimes.errors import RunError, one_line
from validation.trust.attempt import Attempt, Copy

_SHARE = 5  # of the tries one is made: each writes the bundle twice
_SAID = 500  # characters of what a process said that failed by itself


def kills(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """A process is killed at some moment of a replacement, and another one does it again."""
    found = _faults(copy, chance, "--kills", _count(tries))
    wrong = [*found["lost"], *found["left"]]
    yield from _attempts("a kill", found["kills"], wrong, survived=found["kills"] - len(wrong))


def disk_faults(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """A write, a rename or a sync fails for good or once."""
    found = _faults(copy, chance, "--disk-faults", _count(tries))
    yield from _attempts("a step", found["tried"], found["wrong"], survived=found["done_without"])


def _count(tries: int) -> int:
    return max(2, tries // _SHARE)


def _attempts(what: str, tries: int, wrong: list[str], survived: int) -> Generator[Attempt]:
    """As many attempts as were made elsewhere: those that went wrong say how."""
    yield from (Attempt(what, "lost", why) for why in wrong)
    yield from (Attempt(what, "survived") for _ in range(survived))
    yield from (Attempt(what, "refused") for _ in range(tries - survived - len(wrong)))


def _faults(copy: Copy, chance: random.Random, flag: str, count: int) -> dict[str, Any]:
    """The figures of `python -m validation.trust.faults`, a process of its own, for it forks."""
    other = {"--kills": "--disk-faults", "--disk-faults": "--kills"}[flag]
    with tempfile.TemporaryDirectory(dir=copy.folder.parent) as folder:
        words = ["-o", folder, "--only", "replace", flag, count, other, 0]
        words += ["--seed", chance.randrange(1 << 31)]
        done = subprocess.run(
            [sys.executable, "-m", "validation.trust.faults", copy.folder, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        found: dict[str, Any] = json.loads(done.stdout)[0]
    except (ValueError, IndexError):
        said = one_line(RuntimeError(done.stderr[-_SAID:]))
        raise RunError(f"the replacement of {copy.folder} fails by itself: {said}") from None
    return found
