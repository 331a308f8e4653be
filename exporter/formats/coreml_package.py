"""What a Core ML package says about itself."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from exporter.graphs import GraphPlan
from runtimes.bundle.manifest import Tensor

# coremltools' notes that differ from day to day.
_VOLATILE = ("com.github.apple.coremltools.conversion_date",)
_DTYPES = {"int64": "int32", "float32": "float32"}  # Core ML has no int64 inputs


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
