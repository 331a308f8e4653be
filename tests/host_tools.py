"""What hosts outside Python are built and run with: there, or a named skip (in CI a failure)."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import manifests
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def required(found: object, what: str, install: str) -> None:
    """Skip the test without `found`, naming `what` is missing and the command that installs it.

    With HOSTS=required in the environment, as in CI, a missing tool fails the test instead.
    """
    if found:
        return
    message = f"{what} is missing; {install} installs it"
    if os.environ.get("HOSTS") == "required":
        pytest.fail(message)
    pytest.skip(message)


def command(name: str, install: str) -> str:
    """Return the path of a command on PATH, or skip as `required` does."""
    path = shutil.which(name)
    required(path, name, install)
    return str(path)


def _flip(folder: Path) -> None:
    path = folder / "stage_c/model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _link(folder: Path) -> None:
    path = folder / "stage_b/model.onnx"
    path.rename(folder.with_name("elsewhere.onnx"))
    path.symlink_to(folder.with_name("elsewhere.onnx"))


# What is done to a bundle's files, and what a host says of it in its line.
SPOILED_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda f: (f / "stage_c/model.onnx").unlink(), "stage_c/model.onnx is missing"),
    "flipped": (_flip, "stage_c/model.onnx is not the file the manifest names"),
    "linked": (_link, "outside the bundle; copy it with its files"),
    "no JSON": (lambda f: (f / "bundle.json").write_text('{"a": '), "is not valid JSON"),
    "no manifest": (lambda f: (f / "bundle.json").unlink(), "is no bundle"),
}


def reseal(folder: Path, name: str) -> None:
    """Have the manifest of a copied bundle vouch for a file as it is now."""
    manifest = manifests.read(folder)
    data = (folder / name).read_bytes()
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifests.write(folder, manifest)
