"""The files of a Core ML package, the same bytes for the same program."""

import contextlib
import io
import json
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AUTHOR = "com.apple.CoreML"
SPEC = f"{AUTHOR}/model.mlmodel"
WEIGHTS = f"{AUTHOR}/weights"
_DEBUG_MAP = "executorch_debug_handle_mapping.json"


def rewrite(package: Path, spec: Any) -> None:
    """Replace what coremltools wrote with `spec`, serialised in a fixed order, and fixed ids.

    The weights stay as they are. coremltools names the files of a package by random UUIDs, and
    whenever it opens one it writes the manifest anew: sorted, indented by 4, so that is how it
    is written here. A bundle's hashes would not outlive their first use otherwise.
    """
    root = package / "Data"
    _replace(root / SPEC, spec.SerializeToString(deterministic=True))
    entries = {
        _identifier(path): {
            "author": AUTHOR,
            "description": description,
            "name": path.removeprefix(f"{AUTHOR}/"),
            "path": path,
        }
        for path, description in (
            (SPEC, "CoreML Model Specification"),
            (WEIGHTS, "CoreML Model Weights"),
        )
        if (root / path).exists()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier(SPEC),
    }
    _replace(package / "Manifest.json", _json(manifest))
    (package / _DEBUG_MAP).unlink(missing_ok=True)


@contextlib.contextmanager
def quiet(converter: str = "coremltools") -> Iterator[None]:
    """Hold back a converter's progress and notices about versions; show them when it fails."""
    said = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                yield
        except Exception as error:
            error.add_note(f"{converter} said: {said.getvalue()[-2000:]}")
            raise


def _json(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=4, sort_keys=True) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    """A new file, with a new file's permissions: coremltools' are for the owner alone."""
    path.unlink()
    path.write_bytes(content)


def _identifier(path: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, path))
