"""Manifests that tests change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtimes.bundle.manifest import MANIFEST_NAME


def read(folder: Path) -> dict[str, Any]:
    """A bundle's manifest as JSON, without its own hash: what is written from it may differ."""
    value: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    value.pop("sha256", None)
    return value


def write(folder: Path, value: dict[str, Any]) -> None:
    """Write a bundle's manifest."""
    (folder / MANIFEST_NAME).write_text(json.dumps(value), encoding="utf-8")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle's manifest."""
    value = read(folder)
    change(value)
    write(folder, value)
