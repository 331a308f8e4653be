"""Which files of a bundle were hashed before and are untouched since, in the user's own cache.

Hashing reads every byte: once for a file, not once a run. A file counts as untouched while its
size, its times of change, its inode and its device are those it had; of the times, one is the
system's own, which no copy and no archive sets back.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.errors import RunError

_MOST_BYTES = 16_000_000
_Seen = list[int | str]
_NONE = (OSError, ValueError, RuntimeError)  # the last where a user has no home


class Remembered:
    """The files of one bundle folder that had the hash which the manifest names.

    A cache that cannot be read or written is none: everything is hashed, and nobody is told.
    """

    def __init__(self, root: Path) -> None:
        self._name = f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
        self._known: dict[str, object] = {}
        self._changed = False
        with suppress(*_NONE):
            known = parse_json(read_regular(cache_folder() / self._name, _MOST_BYTES))
            self._known = known if isinstance(known, dict) else {}

    def has(self, name: str, path: Path, sha256: str) -> bool:
        """Whether the file `name`, at `path`, had this hash when it was last looked at."""
        return self._known.get(name) == seen(path, sha256)

    def add(self, name: str, seen: _Seen) -> None:
        """Remember what `seen` said of the file before it was hashed."""
        self._known[name], self._changed = seen, True

    def save(self) -> None:
        """Write what was added, all or nothing."""
        if not self._changed:
            return
        with suppress(RunError, *_NONE):
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(folder / self._name, mode=0o600) as file:
                file.write(json.dumps(self._known).encode())


def seen(path: Path, sha256: str) -> _Seen:
    """What tells a file from itself after a change; to be asked before it is hashed."""
    about = path.stat()
    changed = about.st_ctime_ns  # which an archive or a copy that keeps times cannot set back
    return [about.st_size, about.st_mtime_ns, changed, about.st_ino, about.st_dev, sha256]


def cache_folder() -> Path:
    """Where it is kept: below $XDG_CACHE_HOME, on Windows %LOCALAPPDATA%, else ~/.cache."""
    place = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    base = Path(place) if place else Path.home() / ".cache"
    return base / "wuerstchen-export" / "verified"
