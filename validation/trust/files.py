"""Files of a bundle that were changed, exchanged, removed or put elsewhere."""

import itertools
import os
import random
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtimes.bundle.graph_files import engine_reads
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import open_bundle
from validation.trust.attempt import Attempt, Copy, refused, remove, survived
from validation.trust.damage import MOST_CUT, Damage


def flips(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """One bit of one file is another: every file in turn, any bit of it."""
    for name in _in_turn(copy, chance, tries):
        path = copy.folder / name
        damage = Damage(path, "flip", chance.randrange(path.stat().st_size), chance.randrange(8))
        with damage.done():
            yield _damaged(copy, name, f"{name}: {damage}")


def cuts(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """A file lacks some bytes at its end, or has some more."""
    for name in _in_turn(copy, chance, -(-tries // 2)):
        path = copy.folder / name
        size = path.stat().st_size
        damage = Damage(path, "cut", chance.randrange(max(size - MOST_CUT, 0), size))
        with damage.done():
            yield _damaged(copy, name, f"{name}: {damage}")
        with longer(path, chance.randbytes(chance.randrange(1, 100))):
            yield _damaged(copy, name, f"{name} with bytes behind it")


def swaps(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """Two files that engines read have each other's places."""
    names = _read(copy)
    pairs = [
        (one, other)
        for one, other in itertools.combinations(names, 2)
        if copy.manifest.files[one] != copy.manifest.files[other]
    ]
    for one, other in chance.sample(pairs, min(tries, len(pairs))):
        with _swapped(copy.folder / one, copy.folder / other):
            named = min(one, other, key=names.index)
            yield refused(f"{one} and {other}", lambda: open_bundle(copy.folder), named)


def places(copy: Copy, chance: random.Random, tries: int) -> Generator[Attempt]:
    """A file is missing, or a link, a pipe or a folder in its place, or a stranger beside it."""
    names = _read(copy)
    for name, what in itertools.product(chance.sample(names, len(names)), _PUT):
        with _replaced(copy, name, what):
            yield refused(f"{what} as {name}", lambda: open_bundle(copy.folder), name)
        stranger = f"{name}.more.data"
        with _new(copy.folder / stranger):
            yield refused(f"{stranger}, unknown", lambda: open_bundle(copy.folder), stranger)


# What may be in the place of a file.
_PUT: dict[str, Callable[[Path], None]] = {
    "nothing": lambda path: None,
    "a link to a file elsewhere": lambda path: path.symlink_to(sys.executable),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": lambda path: path.mkdir(),
}
if hasattr(os, "mkfifo"):
    _PUT["a pipe"] = os.mkfifo


@contextmanager
def longer(path: Path, more: bytes) -> Iterator[None]:
    """A file has more bytes at its end until the block ends."""
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(more)
    try:
        yield
    finally:
        os.truncate(path, size)


@contextmanager
def _swapped(one: Path, other: Path) -> Iterator[None]:
    def swap() -> None:
        aside = one.with_name("aside")
        os.rename(one, aside)
        os.rename(other, one)
        os.rename(aside, other)

    swap()
    try:
        yield
    finally:
        swap()


@contextmanager
def _replaced(copy: Copy, name: str, what: str) -> Iterator[None]:
    """Something else is in a file's place until the block ends."""
    path, aside = copy.folder / name, copy.folder.parent / "aside"
    os.rename(path, aside)
    _PUT[what](path)
    try:
        yield
    finally:
        remove(path)
        os.rename(aside, path)


@contextmanager
def _new(path: Path) -> Iterator[None]:
    """There is one file more until the block ends."""
    path.write_bytes(b"weights")
    try:
        yield
    finally:
        path.unlink()


def _read(copy: Copy) -> list[str]:
    """The files that engines read."""
    return [name for name in copy.manifest.files if engine_reads(copy.manifest, name)]


def _in_turn(copy: Copy, chance: random.Random, tries: int) -> Iterator[str]:
    """Every file that is not empty, again and again."""
    names = [MANIFEST_NAME, *(name for name, file in copy.manifest.files.items() if file.size)]
    order = chance.sample(names, len(names))
    return itertools.islice(itertools.cycle(order), tries)


def _damaged(copy: Copy, name: str, what: str) -> Attempt:
    """Refused at once where an engine reads the file, else when all files are asked for."""
    if name == MANIFEST_NAME or engine_reads(copy.manifest, name):
        return refused(what, lambda: open_bundle(copy.folder), name)
    asked = refused(what, lambda: open_bundle(copy.folder, verify_rest=True), name)
    return survived(what, lambda: open_bundle(copy.folder)) if not asked.why else asked
