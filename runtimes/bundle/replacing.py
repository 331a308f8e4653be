"""Replace a bundle inside its folder, which stays, and with it all that is no part of the bundle.

Each step is one rename, inside one folder:

    .bundle.part -> .bundle.new      the new files are whole: from here on they win
    bundle.json -> .bundle.old/      no bundle, until the end
    its files -> .bundle.old/
    new files -> their places        bundle.json last

An error puts everything back. A process that is killed in between leaves `.bundle.new`, and the
next one goes on from there (`put_right`).
"""

import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from runtimes.bundle.graph_files import is_litter
from runtimes.bundle.locks import locked
from runtimes.bundle.manifest import ALL_GRAPHS, FORMAT, MANIFEST_NAME
from runtimes.bundle.manifest_json import MOST_BYTES, MOST_VALUES
from runtimes.bundle.part import NEW, OLD, busy, remove_dead_parts
from runtimes.bundle.read import strangers
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.errors import RunError, UsageError
from runtimes.interrupts import put_off

_LONG = 60  # seconds without a file moved: where nothing can be locked, nobody moves them any more
# Folders of a bundle in which an engine looks.
_LOOKED_INTO = (*ALL_GRAPHS, "tokenizer", "decoder_tokenizer")
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
    new = output / NEW
    with put_off():
        os.rename(part, new)
        moves: Moves = []
        try:
            sync_one(output)
            _move(output, moves)
        except BaseException:
            # In reverse, so that every name is free again when its old file returns.
            for source, target in reversed(moves):
                os.rename(target, source)
            _prune(output, [path.relative_to(new) for path in _tree(new)])
            shutil.rmtree(output / OLD, ignore_errors=True)
            os.rename(new, part)
            raise
        _clean(output)


def put_right(output: Path) -> None:
    """Put right what killed processes left.

    Parts are removed; whole new files that were on their way into their places arrive there.
    RunError while another process writes `output`, or when something is in the way; OSError when
    the disk does not move them.
    """
    new = output / NEW
    try:
        remove_dead_parts(output)
        with suppress(FileNotFoundError, NotADirectoryError), locked(new) as alone:
            if alone or _is_left(new):
                _finish(output)
    except BlockingIOError:
        raise busy(output) from None
    if not new.exists():
        shutil.rmtree(output / OLD, ignore_errors=True)


def _finish(output: Path) -> None:
    """Go on with a replacement whose process was killed."""
    _check_parents(output, output / NEW)  # whoever made that folder
    _move(output, [])
    _clean(output)


def known_files(folder: Path) -> set[str] | None:
    """What the manifest in a folder names, and itself, whatever its version; None without one.

    Names that lead out of the folder are left out.
    """
    try:
        value = parse_json(read_regular(folder / MANIFEST_NAME, MOST_BYTES), MOST_VALUES)
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    files = value.get("files")
    names = [MANIFEST_NAME, *(files if isinstance(files, dict) else ())]
    return {name for name in names if _is_inside(folder, name)}


def sync_one(path: Path) -> None:
    """Have a file or folder on disk; Windows opens no folders, and syncs what it may write."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_left(new: Path) -> bool:
    return time.time() - new.stat().st_mtime > _LONG


def _move(output: Path, moves: Moves) -> None:
    """Everything into its place; `moves` hears of each step."""
    new, old = output / NEW, output / OLD
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


def _clean(output: Path) -> None:
    """Remove the old files and the folders that a finished replacement has emptied.

    A process killed here leaves `.bundle.old`; the next one finds no `.bundle.new` beside it and
    removes it.
    """
    old = output / OLD
    names = [path.relative_to(old) for path in _tree(old)]
    shutil.rmtree(output / NEW, ignore_errors=True)
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
    _check_parents(output, part)
    known = known_files(output) or set()
    for path in _tree(part):
        name = path.relative_to(part).as_posix()
        if name not in known and os.path.lexists(output / name):
            raise _in_the_way(output, name)
    if (part / MANIFEST_NAME).is_file():
        for name in _beside_graphs(output, known):
            raise _in_the_way(output, name)


def _check_parents(output: Path, part: Path) -> None:
    """RunError where a folder of the new files is a file in `output`, or leads out of it."""
    for path in _tree(part):
        for parent in list(path.relative_to(part).parents)[:-1]:
            place = output / parent
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise _in_the_way(output, parent.as_posix())


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
