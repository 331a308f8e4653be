"""The files of a Core ML package, the same bytes for the same program."""

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from exporter.graphs import GraphPlan
from runtimes.manifest import Tensor

AUTHOR = "com.apple.CoreML"
SPEC = f"{AUTHOR}/model.mlmodel"
WEIGHTS = f"{AUTHOR}/weights"
# coremltools' notes that differ from day to day.
_VOLATILE = ("com.github.apple.coremltools.conversion_date",)
_DTYPES = {"int64": "int32", "float32": "float32"}  # Core ML has no int64 inputs
_DEBUG_MAP = "executorch_debug_handle_mapping.json"


def describe(
    spec: Any,
    plans: Mapping[str, GraphPlan],
    precision: str,
    license: str,
    metadata: Mapping[str, str],
) -> None:
    """Fill in what Xcode shows and a host reads: license, descriptions, user-defined metadata.

    `plans` has the static graph of each function; `metadata` comes on top of `graph`, `precision`
    and `functions` (JSON: the functions' inputs and outputs with name, dtype and shape).
    """
    graph = next(iter(plans.values())).name
    found = spec.description.metadata
    for key in _VOLATILE:
        found.userDefined.pop(key, None)
    found.shortDescription = f"Wuerstchen, graph {graph} ({precision})"
    found.author = "wuerstchen-export"
    found.license = license
    functions = {
        name: {"inputs": _listed(plan.inputs), "outputs": _listed(plan.outputs)}
        for name, plan in plans.items()
    }
    own = {"graph": graph, "precision": precision, "functions": json.dumps(functions)}
    found.userDefined.update({**own, **metadata})


def _listed(tensors: Iterable[Tensor]) -> list[dict[str, Any]]:
    return [{**vars(tensor), "dtype": _DTYPES[tensor.dtype]} for tensor in tensors]


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


def _json(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=4, sort_keys=True) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    """A new file, with a new file's permissions: coremltools' are for the owner alone."""
    path.unlink()
    path.write_bytes(content)


def _identifier(path: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, path))
