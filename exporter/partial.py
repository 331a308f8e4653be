"""Graphs of an export that is not whole yet, kept so that it can go on: `.NAME.partial`.

The folder lies beside the output NAME, or in it as `.partial` where that exists already, for it may
be a mounted volume. It holds a folder per graph and, once a graph is whole, GRAPH.json with its
fingerprint and the hashes of its files. Nothing in it is taken without its record and a check of
both.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.locks import locked
from runtimes.bundle.manifest import File, Graph
from runtimes.bundle.manifest_json import MOST_BYTES
from runtimes.bundle.read import Bundle, sha256
from runtimes.bundle.typed_json import decode
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.bundle.write import with_parents, write_error
from runtimes.errors import RunError
from runtimes.interrupts import put_off


@dataclass(frozen=True)
class Record:
    """A graph that was written whole; `files` by their path inside the bundle."""

    graph: Graph
    files: dict[str, File]


class PartialExport:
    """What is written so far of the export to an output folder."""

    def __init__(self, output: Path) -> None:
        output = output.absolute()
        self.output = output
        beside = output.with_name(f".{output.name}.partial")
        self.folder = output / ".partial" if output.is_dir() and not beside.is_dir() else beside

    def records(self) -> dict[str, Record]:
        """The finished graphs by name; a record that cannot be read is none."""
        records = {}
        for path in sorted(self.folder.glob("*.json")):
            with suppress(OSError, ValueError, RunError):
                value = parse_json(read_regular(path, MOST_BYTES))
                records[path.stem] = decode(Record, value, str(path))
        return records

    def is_whole(self, record: Record) -> bool:
        """Whether a finished graph's files are still those that were written."""
        return _unchanged(self.folder, record.files)

    def finish(self, name: str, graph: Graph) -> Record:
        """Record that everything in the graph's folder is what it should be."""
        paths = sorted(path for path in (self.folder / name).rglob("*") if path.is_file())
        files = {
            path.relative_to(self.folder).as_posix(): File(path.stat().st_size, sha256(path))
            for path in paths
        }
        return self._write(name, Record(graph, files))

    def _write(self, name: str, record: Record) -> Record:
        # The record comes last and at once: a killed export leaves a whole one or none.
        with atomic_file(self.folder / f"{name}.json") as file:
            file.write(json.dumps(dataclasses.asdict(record)).encode())
        return record

    def adopt(self, name: str, bundle: Bundle) -> Record:
        """Take over a graph of a finished bundle, whose files were verified."""
        self.discard(name)
        files = bundle.files_of(name)
        for key in files:
            _link(bundle.path(key), self.folder / key, shutil.copyfile)
        return self._write(name, Record(bundle.manifest.graphs[name], files))

    def discard(self, name: str) -> None:
        """Remove what there is of a graph."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        if (self.folder / name).exists():
            shutil.rmtree(self.folder / name)

    def place(self, record: Record, folder: Path) -> None:
        """Put a finished graph into the bundle that is being written; it stays here too."""
        for key in record.files:
            _link(self.folder / key, folder / key, shutil.move)

    def size(self, kept: Collection[str]) -> int:
        """Bytes of all graphs but the `kept` ones, finished or not."""
        files = (file for folder in self._others(kept) for file in folder.rglob("*"))
        return sum(file.stat().st_size for file in files if file.is_file())

    def discard_others(self, kept: Collection[str]) -> None:
        """Remove all graphs but the `kept` ones."""
        for folder in self._others(kept):
            self.discard(folder.name)

    def _others(self, kept: Collection[str]) -> list[Path]:
        paths = self.folder.iterdir() if self.folder.exists() else ()
        return [path for path in paths if path.is_dir() and path.name not in kept]

    def remove(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have the folder alone; RunError when another export has it, or it cannot be made.

        A folder without a finished graph is removed in the end, and so are its new parents.
        """
        with ExitStack() as last:
            try:
                with put_off():
                    last.enter_context(with_parents(self.folder.parent))
                    self.folder.mkdir(exist_ok=True)
                    last.enter_context(locked(self.folder))
                    last.callback(self._remove_unfinished)
            except (BlockingIOError, FileNotFoundError):  # or ended at this very moment
                raise RunError(f"another export to {self.output} is running; wait for it") from None
            except OSError as error:
                raise write_error(self.output, error) from error
            yield

    def _remove_unfinished(self) -> None:
        if not self.records():
            self.remove()

    @contextmanager
    def open(self, *, keep: bool) -> Iterator[None]:
        """Work in the folder.

        An error removes it unless `keep`; an interruption, or a process that is killed, leaves
        the finished graphs.
        """
        try:
            yield
        except Exception:
            if not keep:
                self.remove()
            raise


def is_whole(name: str, bundle: Bundle) -> bool:
    """Whether a graph's files in a bundle are those that its manifest names."""
    return _unchanged(bundle.folder, bundle.files_of(name))


def _unchanged(folder: Path, files: dict[str, File]) -> bool:
    def is_file(key: str, file: File) -> bool:
        path = folder / key
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            return False
        return path.stat().st_size == file.size and sha256(path) == file.sha256

    return all(is_file(key, file) for key, file in files.items())


def _link(source: Path, target: Path, otherwise: Callable[[Path, Path], object]) -> None:
    """One file under two names, which costs no space; `otherwise` where there are no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        otherwise(source, target)
