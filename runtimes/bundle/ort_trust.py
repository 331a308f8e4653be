"""A graph in ORT format as a stranger wrote it: refused before an engine sees it.

As `onnx_trust`: known operators, no graph inside, every tensor whole in the file. And what this
format has beside: optimisations to be replayed, nodes of another device, places of nodes and edges
that an engine makes lists by.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.bundle import ort_format as ort
from runtimes.bundle.flatbuffer_tables import Table
from runtimes.bundle.onnx_trust import BITS, OPERATORS
from runtimes.bundle.ranges import shown
from runtimes.bundle.values import MOST_AXES, MOST_SIZE

# Sets of operators that ONNX Runtime writes into every file; nodes may be of those in OPERATORS.
_LISTED = {
    *OPERATORS, "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training",
    "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc", "org.pytorch.aten",
}  # fmt: skip
_PROVIDERS = ("", "CPUExecutionProvider")
_PRIMITIVE = 0  # kind of a node; the other is what a device compiled
# An engine makes a list of so many nodes, of which it writes those there are.
_MOST_INDEX = 1_000_000
_EDGE = struct.Struct("<Iii")  # a node, and which of its outputs or inputs
_INSIDE = -1  # of a tensor's place in another file


def ort_faults(path: Path, files: Mapping[str, int]) -> Iterator[str]:
    """What a graph asks for beside tensors of its own and known operators.

    ValueError or struct.error for a file that is no graph; `files` are none of its.
    """
    model = ort.open_model(path)
    for opset in model.tables(ort.OPSETS):
        domain = opset.text(ort.OPSET_DOMAIN)
        if domain not in _LISTED:
            yield f"it asks for operators of {ascii(domain)[:60]}"
    graph = ort.graph_of(model)
    for tensor in graph.tables(ort.INITIALIZERS):
        yield from _tensor(tensor)
    if any(True for _ in graph.tables(ort.SPARSE)):
        yield "it has sparse weights"
    records = graph.table(ort.RECORDS)
    if records is not None and any(True for _ in records.tables(ort.RECORD)):
        yield "it brings optimisations to be replayed"
    yield from _nodes(graph)


def _nodes(graph: Table) -> Iterator[str]:
    most = graph.number(ort.MOST_INDEX, "I")
    if most > _MOST_INDEX:
        yield f"it counts {most:,} nodes"
    places: set[int] = set()
    for node in graph.tables(ort.NODES):
        yield from _node(node)
        place = node.number(ort.INDEX, "I")
        if place >= most or place in places:
            yield f"a node has the place {place}, which is none, or another node's"
        places.add(place)
    for edges in graph.tables(ort.EDGES):
        ends = [edges.number(ort.EDGE_NODE, "I")]
        for field in (ort.EDGES_IN, ort.EDGES_OUT):
            ends += [end[0] for end in edges.records(field, _EDGE)]
        if not places.issuperset(ends):
            yield "an edge leads to a node that is not there"


def _node(node: Table) -> Iterator[str]:
    operator, domain = node.text(ort.OPERATOR), node.text(ort.DOMAIN)
    if operator not in OPERATORS.get(domain, ()):
        yield f"it has an operator {ascii(f'{domain}:{operator}'.lstrip(':'))[:60]}"
    if node.number(ort.NODE_KIND, "i") != _PRIMITIVE:
        yield "it has a node that a device compiled"
    if (provider := node.text(ort.PROVIDER)) not in _PROVIDERS:
        yield f"it has a node of {ascii(provider)[:60]}"
    for attribute in node.tables(ort.ATTRIBUTES):
        if attribute.has(ort.ATTRIBUTE_GRAPH) or attribute.has(ort.ATTRIBUTE_GRAPHS):
            yield "a node holds a graph"
        if (tensor := attribute.table(ort.ATTRIBUTE_TENSOR)) is not None:
            yield from _tensor(tensor)
        for tensor in attribute.tables(ort.ATTRIBUTE_TENSORS):
            yield from _tensor(tensor)


def _tensor(tensor: Table) -> Iterator[str]:
    """What is wrong with where a tensor's values lie, or how many they are."""
    name = ascii(tensor.text(ort.TENSOR_NAME))[:60]
    kind = tensor.number(ort.DATA_TYPE, "i")
    if kind not in BITS or len(tensor.vector(ort.STRINGS, 4)):
        yield f"{name} has values of a kind that is not known"
        return
    dims = tensor.vector(ort.DIMS, 8)
    sizes = [size for (size,) in struct.iter_unpack("<q", dims[: 8 * (MOST_AXES + 1)])]
    if len(sizes) > MOST_AXES or any(not 0 <= size <= MOST_SIZE for size in sizes):
        yield f"{name} has a negative size, or one that is too large"
        return
    if tensor.number(ort.EXTERNAL, "q", _INSIDE) != _INSIDE:
        yield f"{name} lies in another file"
        return
    needed, held = -(-math.prod(sizes) * BITS[kind] // 8), len(tensor.vector(ort.RAW, 1))
    if held != needed:
        yield f"{name} takes {shown(needed)} bytes and has {held}"
