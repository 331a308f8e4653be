"""ONNX Runtime's own format of graphs (`model.ort`): where what is in a file, and its versions.

A file is a FlatBuffer (ort.fbs of ONNX Runtime). It is one file: its weights are in it.
"""

import struct
from pathlib import Path

from runtimes.bundle.flatbuffer_tables import Table, root
from runtimes.bundle.onnx_header import OnnxHeader
from runtimes.bundle.untrusted import map_regular
from runtimes.errors import RunError

MOST_BYTES = (1 << 31) - 1  # an offset of a FlatBuffer is a signed number of 32 bits
_IDENTIFIER = b"ORTM"

# Numbers of fields in ort.fbs.
MODEL = 1  # InferenceSession
IR_VERSION, OPSETS, GRAPH = 0, 1, 7  # Model
OPSET_DOMAIN, OPSET_VERSION = 0, 1  # OperatorSetId
INITIALIZERS, NODES, MOST_INDEX, EDGES, SPARSE, RECORDS = 0, 2, 3, 4, 7, 8  # Graph
RECORD = 0  # RuntimeOptimizations
DOMAIN, INDEX, OPERATOR, NODE_KIND, PROVIDER, ATTRIBUTES = 2, 4, 5, 6, 7, 10  # Node
EDGE_NODE, EDGES_IN, EDGES_OUT = 0, 1, 2  # NodeEdge
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 6, 7, 11, 12  # Attribute
TENSOR_NAME, DIMS, DATA_TYPE, RAW, STRINGS, EXTERNAL = 0, 2, 3, 4, 5, 6  # Tensor


def open_model(path: Path) -> Table:
    """The model in a file.

    OSError, ValueError or struct.error for a file that has none, or is too large to be one.
    """
    content = map_regular(path)
    if len(content) > MOST_BYTES:
        raise ValueError("it has more than 2 GB")
    model = root(content, _IDENTIFIER).table(MODEL)
    if model is None:
        raise ValueError("it has no model")
    return model


def graph_of(model: Table) -> Table:
    """The graph of a model; ValueError where there is none."""
    graph = model.table(GRAPH)
    if graph is None:
        raise ValueError("it has no graph")
    return graph


def read_ort_header(path: Path) -> OnnxHeader:
    """IR version, and the operator sets that nodes use; RunError for a file that is none.

    ONNX Runtime lists every set that it has, whether a node is of it or not.
    """
    try:
        model = open_model(path)
        used = {node.text(DOMAIN) for node in graph_of(model).tables(NODES)}
        opsets = {
            opset.text(OPSET_DOMAIN) or "ai.onnx": opset.number(OPSET_VERSION, "q")
            for opset in model.tables(OPSETS)
            if opset.text(OPSET_DOMAIN) in used
        }
        return OnnxHeader(model.number(IR_VERSION, "q"), dict(sorted(opsets.items())), ())
    except (LookupError, ValueError, OSError, struct.error):
        raise RunError(f"{path} is no ORT file; make the bundle again") from None
