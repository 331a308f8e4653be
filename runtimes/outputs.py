"""Where pictures go: their names, and whether they can be written there, before any work."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtimes.errors import RunError, UsageError
from runtimes.images import read_parameters

DIGITS = 3  # at least, so that the names of one run sort as its pictures do


def picture_paths(output: Path, count: int) -> list[Path]:
    """`output` for one picture, else out-000.png, out-001.png, ...; UsageError where that fails."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output}: pictures are PNG files, end the name in .png")
    digits = max(DIGITS, len(str(count - 1)))
    names = [f"{output.stem}-{index:0{digits}}{output.suffix}" for index in range(count)]
    paths = [output] if count == 1 else [output.with_name(name) for name in names]
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: the folder {output.absolute().parent} does not exist")
    for path in (output, *paths):
        if path.is_dir():
            raise UsageError(f"--output {output}: {path} is a folder; give another file name")
    check_writable(paths[-1], "--output")
    return paths


def check_writable(path: Path, option: str) -> None:
    """UsageError unless a file can be made where `path` is to be; nothing is left there."""
    folder = path.absolute().parent
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=f".{path.name}."):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{option} {path}: {folder} cannot be written to: {reason}") from None


def is_there(path: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether `path` holds, whole, the picture that `parameters` make.

    A file that is cut off is none. UsageError for another picture, which nobody may lose.
    """
    try:
        there = read_parameters(path)
    except RunError as error:
        raise UsageError(f"--skip-existing: {error}; choose another --output") from None
    except (OSError, ValueError, SyntaxError):  # Pillow's, for files that are cut off
        return False
    for key, value in json.loads(json.dumps(parameters)).items():
        if there.get(key) != value:
            raise UsageError(
                f"--skip-existing: {path} was made with another {key} ({there.get(key)!r}, now "
                f"{value!r}); choose another --output, or leave --skip-existing out to replace it"
            )
    return True
