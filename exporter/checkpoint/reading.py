"""How a checkpoint's JSON and text are read, whoever wrote them.

What a file is and how large is asked before it is read, and every error is a line that names it.
"""

from pathlib import Path
from typing import Any

from runtimes.bundle.tokenizer_file import MOST_VALUES
from runtimes.bundle.untrusted import open_regular, parse_json, read_regular
from runtimes.errors import UsageError

_POINTER = b"version https://git-lfs"
# Of a file: configs have some kilobytes, the index of the largest model's shards a few hundred.
CONFIG_BYTES = 1_000_000


def read_json(path: Path, most: int = CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object from a regular file of at most `most` bytes.

    UsageError when it is missing or is none.
    """
    data = _read(path, most)
    try:
        value = parse_json(data, MOST_VALUES)
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no JSON object")
    return value


def read_text(path: Path, most: int = CONFIG_BYTES) -> str:
    """A regular file's text, in UTF-8; UsageError when it is missing or is none."""
    try:
        return _read(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8 ({error})") from None


def _read(path: Path, most: int) -> bytes:
    refuse_pointer(path)
    try:
        return read_regular(path, most)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: this is no complete Wuerstchen checkpoint") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def refuse_pointer(path: Path) -> None:
    """UsageError for a git-lfs pointer: a few lines that git left where git-lfs fetched nothing."""
    try:
        with open_regular(path) as file:
            head = file.read(len(_POINTER))
    except (OSError, ValueError):
        return  # a missing file is its reader's to report
    if head == _POINTER:
        raise UsageError(
            f"{path} is a git-lfs pointer, not the file itself: run 'git lfs pull' in "
            f"{path.parent}, or give the model's hub id"
        )
