"""A folder of finished parts of one run: what is there is used again, another run's is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtimes.bundle.write import atomic_file
from runtimes.errors import RunError, UsageError

RUN_FILE = "run.json"

Json = dict[str, Any]


def claim(folder: Path, identity: Json, flag: str = "--output") -> None:
    """Make `folder` this run's, or find that it is already.

    UsageError when it holds something else, naming what differs; RunError when it cannot be
    written. Nothing in it is touched then.
    """
    path = folder / RUN_FILE
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{flag} {folder} is no folder; choose another")
    if path.is_file():
        recorded = read_json(path)
        for key, value in identity.items():
            if recorded is None or recorded.get(key) != value:
                was = "unreadable" if recorded is None else str(recorded.get(key))[:60]
                raise UsageError(
                    f"{flag} {folder} holds another run ({key}: {was} there, {str(value)[:60]} "
                    "now); choose another folder"
                )
    elif folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{flag} {folder} holds something else (no {RUN_FILE}); choose another")
    else:
        write_json(path, identity)


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
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error


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
