"""Files that git left as pointers because git-lfs did not fetch what they stand for."""

from pathlib import Path

from runtimes.errors import UsageError

_HEAD = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """UsageError when a file is a git-lfs pointer: a few lines of text instead of its content."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEAD))
    except OSError:
        return  # a missing file is its reader's to report
    if head == _HEAD:
        raise UsageError(
            f"{path} is a git-lfs pointer, not the file itself: run 'git lfs pull' in "
            f"{path.parent}, or give the model's hub id"
        )
