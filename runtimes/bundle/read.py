"""Open a bundle: read its manifest and verify that the files are the ones it names."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from runtimes.bundle.graph_files import could_be_read, engine_reads, graph_files, guarded_folders
from runtimes.bundle.graph_trust import check_graph
from runtimes.bundle.manifest import DENOISERS, MANIFEST_NAME, File, Graph, Manifest
from runtimes.bundle.manifest_json import read_manifest
from runtimes.bundle.part import NEW
from runtimes.bundle.remembered import Remembered, seen
from runtimes.errors import RunError

# Which files are hashed when a bundle is opened.
Hashes = Literal["remembered", "fresh", "none"]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The absolute path of a file or folder of the bundle."""
        return self.folder / name

    def graph(self, name: str) -> Graph:
        """A graph's specification; RunError when this bundle does not hold it."""
        if name not in self.manifest.graphs:
            raise RunError(f"{self.folder} holds no graph '{name}'; export it with --modules")
        return self.manifest.graphs[name]

    def files_of(self, name: str) -> dict[str, File]:
        """A graph's files and what the manifest says of them, by their path in the bundle."""
        self.graph(name)
        return graph_files(self.manifest, name)

    def verify(self, name: str) -> None:
        """Hash what an engine reads of a graph; RunError when it is not what the manifest names."""
        for key in self.files_of(name):
            if engine_reads(self.manifest, key):
                self.verified(key)

    def verified(self, name: str) -> Path:
        """A file of the bundle, hashed; RunError when it is not the one the manifest names."""
        path, file = self.path(name), self.manifest.files.get(name)
        if file is None:
            raise RunError(f"{self.folder}: the manifest names no {name}")
        _check_file(self, name, file)
        if sha256(path) != file.sha256:
            raise RunError(
                f"{self.folder}: {name} is not the file the manifest names (SHA-256 differs); "
                f"{_advice(path, file)}"
            )
        return path

    def digest(self, name: str) -> str:
        """A SHA-256 over what the manifest says of a graph's files: names and content."""
        files = sorted((key, file.sha256) for key, file in self.files_of(name).items())
        return hashlib.sha256(repr(files).encode()).hexdigest()

    def strangers(self) -> list[str]:
        """What lies in the folder and the manifest does not name; folders of such end in '/'."""
        return strangers(self.folder, {*self.manifest.files, MANIFEST_NAME})


def open_bundle(
    folder: str | Path, *, hashes: Hashes = "remembered", verify_rest: bool = False
) -> Bundle:
    """Open and verify a bundle: all paths, what engines read of it, and what its graphs ask for.

    Of that, sizes always, and SHA-256: by default of what was not hashed before, or was touched
    since (runtimes.bundle.remembered); 'fresh': of all; 'none': of nothing. Of the rest (README,
    golden run, files for other hosts) nothing unless `verify_rest`: it may have been edited, or
    left out. Files that the manifest does not name are left alone where no engine looks.

    Raises RunError naming the first file that is missing, changed, outside the bundle or in the
    way.
    """
    root = Path(folder).resolve()  # links are compared with real paths below
    if root.name == MANIFEST_NAME and root.is_file():
        root = root.parent  # the manifest stands for its bundle
    _inside(root, MANIFEST_NAME)
    _check_arrived(root)
    bundle = Bundle(root, read_manifest(root))
    for name in bundle.manifest.files:
        _inside(bundle.folder, name)  # first: nothing outside is opened, not even to be hashed
    _check_references(bundle)
    _check_strangers(bundle)
    read = [name for name in bundle.manifest.files if engine_reads(bundle.manifest, name)]
    for name in bundle.manifest.files if verify_rest else read:
        _check_file(bundle, name, bundle.manifest.files[name])
    if hashes != "none":
        _check_hashes(bundle, read, Remembered(root), fresh=hashes == "fresh")
    for name in bundle.manifest.graphs:
        check_graph(root, bundle.manifest, name)
    if verify_rest:
        for name in bundle.manifest.files.keys() - set(read):
            bundle.verified(name)
    return bundle


def _check_arrived(root: Path) -> None:
    """RunError while new files are on their way into their places."""
    if (root / NEW / MANIFEST_NAME).is_file() and not (root / MANIFEST_NAME).exists():
        raise RunError(
            f"{root} is being replaced, or its process was killed: run the command that writes it "
            "again, which first puts the new files into their places"
        )


def _check_hashes(
    bundle: Bundle, names: Collection[str], remembered: Remembered, *, fresh: bool
) -> None:
    """Hash files, but for those that are known to be unchanged where they need not be `fresh`."""
    for name in names:
        path, sha256 = bundle.path(name), bundle.manifest.files[name].sha256
        if fresh or not remembered.has(name, path, sha256):
            before = seen(path, sha256)
            bundle.verified(name)
            remembered.add(name, before)
    remembered.save()


def strangers(folder: Path, known: Collection[str]) -> list[str]:
    """Files in a folder other than the `known` ones, whose names are paths in it.

    A folder that holds nothing known is named once, as 'NAME/'; links are not followed.
    """
    homes = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents}
    names: list[str] = []

    def look(inside: Path) -> None:
        for path in sorted(inside.iterdir()):
            name = path.relative_to(folder).as_posix()
            is_folder = path.is_dir() and not path.is_symlink()
            if is_folder and name in homes:
                look(path)
            elif name not in known:
                names.append(f"{name}/" if is_folder else name)

    look(folder)
    return names


def _check_file(bundle: Bundle, name: str, file: File) -> None:
    path = bundle.path(name)
    if not path.is_file():
        raise RunError(f"{bundle.folder}: {name} is missing; export the bundle again")
    if path.stat().st_size != file.size:
        raise RunError(
            f"{bundle.folder}: {name} has {path.stat().st_size} bytes, the manifest says "
            f"{file.size}; {_advice(path, file)}"
        )


def _advice(path: Path, file: File) -> str:
    """What to do about a changed file: version control may have rewritten the ends of its lines."""
    if path.suffix in (".json", ".md", ".txt", ".xml"):
        text = path.read_bytes().replace(b"\r\n", b"\n")
        if hashlib.sha256(text).hexdigest() == file.sha256:
            return (
                "the ends of its lines were changed: copy it again as it was (for git: "
                "'git config core.autocrlf false', then check out again)"
            )
    return "export the bundle again"


def _check_references(bundle: Bundle) -> None:
    """Everything the manifest refers to is among the files it vouches for."""
    manifest = bundle.manifest
    for name, graph in manifest.graphs.items():
        inside = f"{graph.file}/"  # a Core ML package is a folder
        if graph.file not in manifest.files and not any(
            f.startswith(inside) for f in manifest.files
        ):
            raise RunError(f"{bundle.folder}: the manifest lists no file for graph '{name}'")
    for name, tokenizer in manifest.tokenizers.items():
        if f"{tokenizer.folder}/tokenizer.json" not in manifest.files:
            raise RunError(f"{bundle.folder}: the manifest lists no tokenizer.json for '{name}'")
    named = manifest.text_graphs
    if named.keys() != set(DENOISERS) or named["stage_c"] is None:
        raise RunError(f"{bundle.folder}: 'text_graphs' must name stage_c's and stage_b's encoder")
    for encoder in named.values():
        if encoder is not None and encoder not in manifest.tokenizers:
            raise RunError(f"{bundle.folder}: text encoder '{encoder}' has no tokenizer")


def _check_strangers(bundle: Bundle) -> None:
    """A file beside a graph that the manifest does not name could be read by an engine."""
    manifest = bundle.manifest
    for folder, below in guarded_folders(manifest):
        place = bundle.path(folder)
        for path in (place.rglob("*") if below else place.iterdir()) if place.is_dir() else ():
            name = path.relative_to(bundle.folder).as_posix()
            known = name in manifest.files or (path.is_dir() and not path.is_symlink())
            if not known and could_be_read(manifest, name):
                raise RunError(
                    f"{bundle.folder}: {name} is not in the manifest, and an engine could read it; "
                    "remove it"
                )


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(folder: Path, name: str) -> Path:
    """The file `name` of the bundle, refused when it leads out of the folder.

    A hub cache keeps snapshots as links into its own `blobs` folder; those stay valid.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or {"\\", "\0"} & set(name):
        raise RunError(f"{folder}: the manifest names '{name}', a path outside the bundle")
    path = folder / name
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # up to Python 3.12 for a link in a circle
        raise RunError(f"{folder}: {name} is a link to itself") from None
    if not (target.is_relative_to(folder) or _in_own_blobs(folder, target)):
        raise RunError(
            f"{folder}: {name} links to {target}, outside the bundle; copy it "
            "with its files (cp -rL)"
        )
    return path


def _in_own_blobs(folder: Path, target: Path) -> bool:
    """Whether `target` is a blob of the hub cache whose snapshot holds `folder`."""
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return target.parent == parent.parent / "blobs"
    return False
