"""ONNX Runtime's own format of graphs (`model.ort`): where what is in a file, and its versions.

A file is a FlatBuffer (ort.fbs of ONNX Runtime). It is one file: its weights are in it.
"""

import struct
from pathlib import Path

from runtimes.bundle.flatbuffer import Table, read
from runtimes.bundle.onnx_header import OnnxHeader
from runtimes.bundle.ort_schema import SESSION
from runtimes.bundle.untrusted import map_regular
from runtimes.errors import RunError

MOST_BYTES = (1 << 31) - 1  # an offset of a FlatBuffer is a signed number of 32 bits


def open_model(path: Path) -> Table:
    """The model in a file, which has a graph.

    OSError, LookupError, ValueError or struct.error for a file without, or too large to be one.
    """
    content = map_regular(path)
    if len(content) > MOST_BYTES:
        raise ValueError("it has more than 2 GB")
    model: Table = read(content, SESSION)["model"]
    if "graph" not in model:
        raise ValueError("it has no graph")
    return model


def nodes_of(model: Table) -> list[Table]:
    """The nodes of a model's graph."""
    nodes: list[Table] = model["graph"].get("nodes", [])
    return nodes


def read_ort_header(path: Path) -> OnnxHeader:
    """IR version, and the operator sets that nodes use; RunError for a file that is none.

    ONNX Runtime lists every set that it has, whether a node is of it or not.
    """
    try:
        model = open_model(path)
    except (LookupError, ValueError, OSError, struct.error):
        raise RunError(f"{path} is no ORT file; make the bundle again") from None
    used = {node.get("domain", "") for node in nodes_of(model)}
    opsets = {
        opset.get("domain", "") or "ai.onnx": opset.get("version", 0)
        for opset in model.get("opset_import", ())
        if opset.get("domain", "") in used
    }
    return OnnxHeader(model.get("ir_version", 0), dict(sorted(opsets.items())), ())
