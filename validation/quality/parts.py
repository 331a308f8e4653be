"""Shards of one run in one folder: who makes which part, told by a lock file for each of them.

Shards know nothing of each other but this folder, which may be on a network file system: lock files
are files, for those lock no folders.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.locks import locked_file
from runtimes.errors import RunError, UsageError
from runtimes.shards import Shard

PARTS = ".shards"
_LIST = "list.json"


@dataclass(frozen=True)
class Part:
    """A shard of the list of pictures whose SHA-256 is `digest`."""

    shard: Shard
    digest: str


@contextmanager
def claiming(folder: Path) -> Iterator[None]:
    """One shard at a time, for the moment in which it makes `folder` its run's."""
    (folder / PARTS).mkdir(exist_ok=True)
    with locked_file(folder / PARTS / "claim.lock", wait=True):
        yield


@contextmanager
def taken(folder: Path, part: Part) -> Iterator[None]:
    """Have a shard's part alone until the block ends.

    UsageError where the folder's other shards are of another number, or of other pictures; RunError
    where another process makes this part.
    """
    _check_list(folder, part)
    shard, name = part.shard, f"{part.shard.index}-of-{part.shard.count}.lock"
    with ExitStack() as last:
        try:
            last.enter_context(locked_file(folder / PARTS / name))
        except BlockingIOError:
            raise RunError(
                f"another process makes shard {shard} of {folder}; wait for it, or make another"
            ) from None
        yield


def _check_list(folder: Path, part: Part) -> None:
    path, ours = folder / PARTS / _LIST, {"shards": part.shard.count, "pictures": part.digest}
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        recorded = None
    if recorded is None:
        with atomic_file(path) as file:
            file.write(json.dumps(ours).encode())
    elif recorded.get("shards") != ours["shards"]:
        raise UsageError(
            f"--shard {part.shard} does not add up with the shards of {folder}, which are "
            f"{recorded.get('shards')}; go on with those, or without --shard, which makes the rest"
        )
    elif recorded != ours:
        raise UsageError(
            f"the shards of {folder} make other pictures (cells, prompts or bundles differ); give "
            "all of them the same options, or go on without --shard"
        )


def end_parts(folder: Path) -> None:
    """Forget the shards of a folder; BlockingIOError while one of them runs."""
    parts = folder / PARTS
    for path in parts.glob("*.lock"):
        with locked_file(path):  # free: its process has ended
            pass
    shutil.rmtree(parts, ignore_errors=True)
