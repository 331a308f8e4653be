"""Open a bundle: read its manifest and verify that the files are the ones it names."""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runtimes.errors import RunError
from runtimes.manifest import MANIFEST_NAME, Graph, Manifest, read_manifest


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

    def verify(self, name: str) -> None:
        """Hash a graph's files; RunError when one is not the file the manifest names."""
        folder = self.graph(name).file.rpartition("/")[0]
        for key, file in self.manifest.files.items():
            if key.startswith(f"{folder}/") and sha256(self.path(key)) != file.sha256:
                raise RunError(
                    f"{self.folder}: {key} is not the file the manifest names; export again"
                )

    def digest(self, name: str) -> str:
        """A SHA-256 over what the manifest says of a graph's files: names and content."""
        folder = self.graph(name).file.rpartition("/")[0]
        files = sorted(
            (key, file.sha256)
            for key, file in self.manifest.files.items()
            if key.startswith(f"{folder}/") or not folder
        )
        return hashlib.sha256(repr(files).encode()).hexdigest()


def open_bundle(folder: str | Path, *, verify_hashes: bool = False) -> Bundle:
    """Open and verify a bundle: paths and sizes always, SHA-256 when `verify_hashes`.

    Raises RunError naming the first file that is missing, changed or outside the bundle.
    """
    root = Path(folder).resolve()
    bundle = Bundle(root, read_manifest(root))
    for name, file in bundle.manifest.files.items():
        path = _inside(bundle.folder, name)
        if not path.is_file():
            raise RunError(f"{bundle.folder}: {name} is missing; export the bundle again")
        if path.stat().st_size != file.size:
            raise RunError(
                f"{bundle.folder}: {name} has {path.stat().st_size} bytes, the manifest says "
                f"{file.size}; export the bundle again"
            )
        if verify_hashes and sha256(path) != file.sha256:
            raise RunError(
                f"{bundle.folder}: {name} is not the file the manifest names (SHA-256 differs); "
                "export the bundle again"
            )
    _check_references(bundle)
    _check_strangers(bundle)
    return bundle


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
    if named.keys() != {"stage_c", "stage_b"} or named["stage_c"] is None:
        raise RunError(f"{bundle.folder}: 'text_graphs' must name stage_c's and stage_b's encoder")
    for encoder in named.values():
        if encoder is not None and encoder not in manifest.tokenizers:
            raise RunError(f"{bundle.folder}: text encoder '{encoder}' has no tokenizer")


def _check_strangers(bundle: Bundle) -> None:
    """A file the manifest does not name could be read by an engine, unchecked."""
    for path in bundle.folder.rglob("*"):
        name = path.relative_to(bundle.folder).as_posix()
        known = name in bundle.manifest.files or name in (MANIFEST_NAME, ".gitattributes")
        if not known and (path.is_symlink() or not path.is_dir()):
            raise RunError(f"{bundle.folder}: {name} is not in the manifest; remove it")


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
    target = path.resolve()
    if not (target.is_relative_to(folder) or _in_own_blobs(folder, target)):
        raise RunError(f"{folder}: {name} links to {target}, outside the bundle")
    return path


def _in_own_blobs(folder: Path, target: Path) -> bool:
    """Whether `target` is a blob of the hub cache whose snapshot holds `folder`."""
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return target.parent == parent.parent / "blobs"
    return False
