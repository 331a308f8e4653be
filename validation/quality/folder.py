"""A folder of finished parts of one run: what is there is used again, another run's is refused."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from runtimes.bundle.atomic_file import atomic_file, remove_dead
from runtimes.bundle.locks import locked
from runtimes.bundle.part import busy
from runtimes.bundle.write import with_parents
from runtimes.errors import RunError, UsageError, reason_of
from validation.quality.parts import PARTS, Part, claiming, end_parts, taken

RUN_FILE = "run.json"

Json = dict[str, Any]


@contextmanager
def claimed(
    folder: Path, identity: Json, part: Part | None = None, flag: str = "--output"
) -> Iterator[None]:
    """Make `folder` this run's, or find that it is already, and have it alone until the block ends.

    A shard's `part` has it beside the others' parts, and no run that is whole. UsageError when it
    holds something else, naming what differs; RunError when it cannot be written, or another
    process writes to it. Nothing in it is touched then.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{flag} {folder} is no folder; choose another")
    with ExitStack() as last:
        try:
            last.enter_context(with_parents(folder))
            last.enter_context(locked(folder.resolve(), shared=part is not None))
            if part is None:
                remove_dead(folder)
                _claim(folder, identity, flag)
                end_parts(folder)
            else:
                _check_ours(folder, flag)
                with claiming(folder):
                    remove_dead(folder)
                    _claim(folder, identity, flag)
                    last.enter_context(taken(folder, part))
        except BlockingIOError:
            raise busy(folder) from None
        except OSError as error:
            raise RunError(f"cannot write {folder}: {reason_of(error)}") from error
        yield


def _check_ours(folder: Path, flag: str) -> None:
    """Before anything is made in it: that the folder is empty, or a run's."""
    # Looked at once: another shard may be making it its run's at this moment, PARTS first.
    names = {path.name for path in folder.iterdir()}
    if names and not names & {PARTS, RUN_FILE}:
        raise UsageError(f"{flag} {folder} holds something else (no {RUN_FILE}); choose another")


def _claim(folder: Path, identity: Json, flag: str) -> None:
    path = folder / RUN_FILE
    if not path.is_file():
        if any(path.name != PARTS for path in folder.iterdir()):
            raise UsageError(
                f"{flag} {folder} holds something else (no {RUN_FILE}); choose another"
            )
        write_json(path, identity)
        return
    recorded = read_json(path)
    for key, value in identity.items():
        if recorded is None or recorded.get(key) != value:
            was = "unreadable" if recorded is None else str(recorded.get(key))[:60]
            raise UsageError(
                f"{flag} {folder} holds another run ({key}: {was} there, {str(value)[:60]} "
                "now); choose another folder"
            )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, its folder first; RunError names the reason."""
    make_folder(path.parent)
    with atomic_file(path) as file:
        file.write(text.encode())


def make_folder(folder: Path) -> None:
    """Have a folder and its parents; RunError names the reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {reason_of(error)}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Json | None:
    """The JSON object of a file; None when there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
