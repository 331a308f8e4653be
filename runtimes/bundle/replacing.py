"""Replace a bundle inside its folder, which stays, and with it all that is no part of the bundle.

Each step is one rename, inside one folder:

    .X.part -> .X.new            the new files are whole: from here on they win
    bundle.json -> .X.old/       no bundle, until the end
    its files -> .X.old/
    new files -> their places    bundle.json last

An error puts everything back. A process that is killed in between leaves `.X.new`, and the next
one goes on from there (`finish`).
"""

import glob
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from runtimes.bundle.graph_files import is_litter
from runtimes.bundle.manifest import FORMAT, GRAPHS, MANIFEST_NAME
from runtimes.bundle.manifest_json import MOST_BYTES
from runtimes.bundle.read import strangers
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.errors import RunError, UsageError

PART, NEW, OLD = ".part", ".new", ".old"
_YOUNG = 60  # seconds in which a folder may not be locked yet by the process that made it
_ANY = "????????"  # what tells one process's folders from another's
# Folders of a bundle in which an engine looks.
_LOOKED_INTO = (*GRAPHS, "tokenizer", "decoder_tokenizer")
Moves = list[tuple[Path, Path]]


def check_replaceable(output: Path) -> None:
    """UsageError when the bundle in a folder cannot be told from the rest, or not be replaced."""
    known = known_files(output)
    if known is None:
        raise UsageError(
            f"{output / MANIFEST_NAME} is no manifest of a bundle, so what else belongs to it is "
            "not known; remove the folder, or choose another output"
        )
    for name in _beside_graphs(output, known):
        raise UsageError(
            f"{output}: {name} is no part of the bundle and would lie beside the new one's graphs; "
            "move it elsewhere"
        )
    for folder in {(output / name).parent for name in known}:
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{folder} cannot be written; choose another output")


def replace(output: Path, part: Path) -> None:
    """Put the files of `part`, which are whole, in the place of the bundle in `output`.

    Whatever else `output` holds stays where it is. RunError when it is in the way, OSError when
    the disk does not do it; everything is then as it was.
    """
    _check_free(output, part)
    # The same token in another role: `sweep` of another process tells by it what to do.
    new = output / f".{part.name.split('.')[-2]}{NEW}"
    os.rename(part, new)
    moves: Moves = []
    try:
        sync_one(output)
        _move(new, output, moves)
    except BaseException:
        # In reverse, so that every name is free again when its old file returns.
        for source, target in reversed(moves):
            os.rename(target, source)
        _prune(output, [path.relative_to(new) for path in _tree(new)])
        shutil.rmtree(new.with_suffix(OLD), ignore_errors=True)
        os.rename(new, part)
        raise
    _clean(new, output)


def finish(new: Path, output: Path) -> None:
    """Go on with a replacement whose process was killed."""
    _move(new, output, [])
    _clean(new, output)


def sweep(output: Path) -> None:
    """Put right what killed processes left: it may be as large as a bundle.

    Parts are removed; whole new files that were on their way into their places arrive there.
    """
    inside = "." + "[0-9a-f]" * 8
    parts = [*output.parent.glob(f".{glob.escape(output.name)}.{_ANY}{PART}")]
    parts += output.glob(f"{inside}{PART}")
    for left in parts:
        with suppress(OSError):  # somebody writes it, or it is gone or not ours
            if _is_old(left):
                with locked(left) as alone:
                    if alone:
                        shutil.rmtree(left, ignore_errors=True)
    for new in output.glob(f"{inside}{NEW}"):
        with suppress(OSError), locked(new) as alone:
            if alone or _is_old(new):
                finish(new, output)
    for old in output.glob(f"{inside}{OLD}"):
        if not old.with_suffix(NEW).exists():
            shutil.rmtree(old, ignore_errors=True)


def known_files(folder: Path) -> set[str] | None:
    """What the manifest in a folder names, and itself, whatever its version; None without one.

    Names that lead out of the folder are left out.
    """
    try:
        value = parse_json(read_regular(folder / MANIFEST_NAME, MOST_BYTES))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    files = value.get("files")
    names = [MANIFEST_NAME, *(files if isinstance(files, dict) else ())]
    return {name for name in names if _is_inside(folder, name)}


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Say, until the block or its process ends, that somebody writes `folder`, whatever its name.

    BlockingIOError when somebody does already; gives False where folders cannot be locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            # The kernel lets go of it when the process ends, however: no lock is ever left behind.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            alone = False
        yield alone
    finally:
        os.close(handle)


def sync_one(path: Path) -> None:
    """Have a file or folder on disk; Windows opens no folders, and syncs what it may write."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_old(folder: Path) -> bool:
    return time.time() - folder.stat().st_mtime > _YOUNG


def _move(new: Path, output: Path, moves: Moves) -> None:
    """Everything into its place; `moves` hears of each step."""
    old = new.with_suffix(OLD)
    left = [path.relative_to(new).as_posix() for path in _tree(new)]
    # The manifest moves last: while it is here, old files may still be in their places.
    if MANIFEST_NAME in left:
        arrived = (known_files(new) or set()) - set(left)
        before = known_files(old) or known_files(output) or set()
        for name in sorted(before - arrived, key=_manifest_first):
            if os.path.lexists(output / name):
                _rename(output / name, old / name, moves)
    for name in sorted(left, key=_manifest_first, reverse=True):
        _rename(new / name, output / name, moves)
    # A rename is on disk when the folder is.
    for folder in {(output / name).parent for name in left}:
        sync_one(folder)
    sync_one(output)


def _rename(source: Path, target: Path, moves: Moves) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, target)
    moves.append((source, target))


def _clean(new: Path, output: Path) -> None:
    """Remove the old files and the folders that a finished replacement has emptied.

    A process killed here leaves `.X.old`; the next one finds no `.X.new` beside it and removes it.
    """
    old = new.with_suffix(OLD)
    names = [path.relative_to(old) for path in _tree(old)]
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    _prune(output, names)


def _prune(output: Path, names: Iterable[Path]) -> None:
    """Remove the folders of files that are gone, where they are empty."""
    folders = {parent for name in names for parent in name.parents if parent != Path()}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        with suppress(OSError):
            (output / folder).rmdir()


def _check_free(output: Path, part: Path) -> None:
    """RunError when what is no part of the bundle in `output` would meet the new files."""
    known = known_files(output) or set()
    for path in _tree(part):
        name = path.relative_to(part).as_posix()
        for parent in list(PurePosixPath(name).parents)[:-1]:
            place = output / parent
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise _in_the_way(output, str(parent))
        if name not in known and os.path.lexists(output / name):
            raise _in_the_way(output, name)
    if (part / MANIFEST_NAME).is_file():
        for name in _beside_graphs(output, known):
            raise _in_the_way(output, name)


def _in_the_way(output: Path, name: str) -> RunError:
    return RunError(
        f"{output}: {name} is in the way of the new files; move it elsewhere. Nothing was changed "
        "there"
    )


def _beside_graphs(output: Path, known: Collection[str]) -> Iterator[str]:
    """Files that are no part of a bundle and lie where engines look; the next bundle is refused."""
    for name in strangers(output, known):
        if PurePosixPath(name).parts[0] in _LOOKED_INTO:
            files = _tree(output / name) if name.endswith("/") else [output / name]
            names = (path.relative_to(output).as_posix() for path in files)
            yield from (name for name in names if not is_litter(name))


def _tree(folder: Path) -> list[Path]:
    """Files and links below a folder."""
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def _manifest_first(name: str) -> tuple[bool, str]:
    return name != MANIFEST_NAME, name


def _is_inside(folder: Path, name: str) -> bool:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or {"\\", "\0"} & set(name):
        return False
    return (folder / name).parent.resolve().is_relative_to(folder.resolve())
