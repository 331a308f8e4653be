"""Bundles as they are found: in a hub's cache, hard-linked, littered, in places of every kind."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from runtimes.bundle.manifest import FORMAT, MANIFEST_NAME
from runtimes.bundle.read import sha256


def write_bundle(folder: Path, files: dict[str, str]) -> Path:
    """What the replacing of bundles looks at: files, and a manifest that names them."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    manifest = {"format": FORMAT, "files": {name: {} for name in files}}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, but for the manifest: its text by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }


def in_hub_cache(bundle: Path, cache: Path) -> Path:
    """The snapshot folder of a bundle as huggingface_hub downloads it: links into `blobs`."""
    repository = cache / "models--me--bundle"
    snapshot, blobs = repository / "snapshots" / ("a" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for path in [path for path in bundle.rglob("*") if path.is_file()]:
        link, blob = snapshot / path.relative_to(bundle), blobs / sha256(path)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def hard_linked(bundle: Path, target: Path) -> Path:
    """As `cp -al` copies it: every file under a second name."""
    return Path(shutil.copytree(bundle, target, copy_function=os.link))


LITTER = {
    "picture.png": "made by the README's own command",
    "out.png": "the default output",
    ".git/HEAD": "ref: refs/heads/main",
    ".cache/huggingface/download/README.md.metadata": "of hf download --local-dir",
    ".DS_Store": "the Finder was here",
    "stage_a/.DS_Store": "and here",
    "stage_a/._model.onnx": "AppleDouble, on a disk of another system",
    "golden/Thumbs.db": "Windows' Explorer",
    "notes/ideas.txt": "my own",
}


def littered(folder: Path, names: Iterable[str] = LITTER) -> Path:
    """Leave in a bundle's folder what people and programs leave there."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LITTER[name])
    return folder


def with_crlf(path: Path) -> None:
    """As git's autocrlf checks a text file out on Windows."""
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
