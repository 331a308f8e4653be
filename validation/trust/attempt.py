"""One try of one fault, and what came of it."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtimes.bundle.manifest import MANIFEST_NAME, File, Manifest
from runtimes.bundle.manifest_json import to_json
from runtimes.bundle.read import sha256
from runtimes.errors import RunError, UsageError

Verdict = Literal["refused", "survived", "lost"]
_LONGEST = 500  # of a message beside the paths in it: two lines of a wide screen, or so


@dataclass(frozen=True)
class Attempt:
    """What was done, and whether it was refused, changed nothing, or was taken for sound.

    `why` says of what is lost how: nothing was said, or not in one line, or not of the right file.
    """

    what: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Copy:
    """A copy of a bundle, to be damaged and put right again, and what its manifest says."""

    folder: Path
    manifest: Manifest

    def seal(self, **changes: object) -> None:
        """Write the manifest, with other values, as whoever made the bundle could."""
        text = to_json(dataclasses.replace(self.manifest, **changes))  # type: ignore[arg-type]
        (self.folder / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")

    def seal_files(self, *names: str) -> None:
        """Write a manifest that names these files as they are now, absent ones not at all."""
        files = dict(self.manifest.files)
        for name in names:
            path = self.folder / name
            files.pop(name, None)
            if path.is_file():
                files[name] = File(path.stat().st_size, sha256(path))
        self.seal(files=files)

    @contextmanager
    def kept(self, *names: str) -> Iterator[None]:
        """Put these files back as they were, and the manifest, when the block ends.

        A folder comes back with all that was in it.
        """
        aside = self.folder.parent / "aside"
        for name in (*names, MANIFEST_NAME):
            target = aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.folder / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        try:
            yield
        finally:
            for name in (*names, MANIFEST_NAME):
                remove(self.folder / name)
                os.rename(aside / name, self.folder / name)
            shutil.rmtree(aside)


def remove(path: Path) -> None:
    """Remove a file, a link, a pipe or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refused(what: str, action: Callable[[], object], named: str) -> Attempt:
    """An attempt that has to end in one line which names a file."""
    try:
        action()
    except (RunError, UsageError) as error:
        message = str(error)
    except Exception as error:  # the check is that there is no other
        return Attempt(what, "lost", f"{type(error).__name__}: {str(error)[:200]}")
    else:
        return Attempt(what, "lost", "it was taken for sound")
    if "\n" in message or not message.isprintable() or len(message) > _LONGEST:
        return Attempt(what, "lost", f"not one line: {message[:200]!r}")
    if named not in message:
        return Attempt(what, "lost", f"{named} is not named: {message[:200]}")
    return Attempt(what, "refused")


def survived(what: str, action: Callable[[], object]) -> Attempt:
    """An attempt that changes nothing of what is used."""
    try:
        action()
    except Exception as error:  # as above
        return Attempt(what, "lost", f"{type(error).__name__}: {str(error)[:200]}")
    return Attempt(what, "survived")
