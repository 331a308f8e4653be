"""A graph in ORT format as a stranger wrote it: refused before an engine sees it.

As `onnx_trust`: known operators, no graph inside, every tensor whole in the file. And what this
format has beside: optimisations to be replayed, nodes of another device, places of nodes and edges
that an engine makes lists by.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.bundle.flatbuffer import Table
from runtimes.bundle.onnx_trust import BITS, OPERATORS
from runtimes.bundle.ort_format import nodes_of, open_model
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
_INSIDE = -1  # of a tensor's place in another file


def ort_faults(path: Path, files: Mapping[str, int]) -> Iterator[str]:
    """What a graph asks for beside tensors of its own and known operators.

    ValueError or the like for a file that is no graph; `files` are none of its.
    """
    model = open_model(path)
    for opset in model.get("opset_import", ()):
        domain = opset.get("domain", "")
        if domain not in _LISTED:
            yield f"it asks for operators of {ascii(domain)[:60]}"
    graph = model["graph"]
    for tensor in graph.get("initializers", ()):
        yield from _tensor(tensor)
    if graph.get("sparse_initializers"):
        yield "it has sparse weights"
    if graph.get("runtime_optimizations", {}).get("records"):
        yield "it brings optimisations to be replayed"
    for node in nodes_of(model):
        yield from _node(node)
    yield from _places(model)


def _places(model: Table) -> Iterator[str]:
    """What is wrong with where nodes are, and which of them edges name."""
    graph = model["graph"]
    most = graph.get("max_node_index", 0)
    if most > _MOST_INDEX:
        yield f"it counts {most:,} nodes"
    places: set[int] = set()
    for node in nodes_of(model):
        place = node.get("index", 0)
        if place >= most or place in places:
            yield f"a node has the place {place}, which is none, or another node's"
        places.add(place)
    for edges in graph.get("node_edges", ()):
        ends = (*edges.get("input_edges", ()), *edges.get("output_edges", ()))
        if not places.issuperset((edges.get("node_index", 0), *(end[0] for end in ends))):
            yield "an edge leads to a node that is not there"


def _node(node: Table) -> Iterator[str]:
    operator, domain = node.get("op_type", ""), node.get("domain", "")
    if operator not in OPERATORS.get(domain, ()):
        yield f"it has an operator {ascii(f'{domain}:{operator}'.lstrip(':'))[:60]}"
    if node.get("type", _PRIMITIVE) != _PRIMITIVE:
        yield "it has a node that a device compiled"
    if (provider := node.get("execution_provider_type", "")) not in _PROVIDERS:
        yield f"it has a node of {ascii(provider)[:60]}"
    for attribute in node.get("attributes", ()):
        if attribute.get("g") or attribute.get("graphs"):
            yield "a node holds a graph"
        for tensor in (*attribute.get("tensors", ()), attribute.get("t")):
            if tensor is not None:
                yield from _tensor(tensor)


def _tensor(tensor: Table) -> Iterator[str]:
    """What is wrong with where a tensor's values lie, or how many they are."""
    name = ascii(tensor.get("name", ""))[:60]
    kind, sizes = tensor.get("data_type", 0), tensor.get("dims", ())
    if kind not in BITS or tensor.get("string_data"):
        yield f"{name} has values of a kind that is not known"
        return
    if len(sizes) > MOST_AXES or any(not 0 <= size <= MOST_SIZE for size in sizes):
        yield f"{name} has a negative size, or one that is too large"
        return
    if tensor.get("external_data_offset", _INSIDE) != _INSIDE:
        yield f"{name} lies in another file"
        return
    needed, held = -(-math.prod(sizes) * BITS[kind] // 8), len(tensor.get("raw_data", b""))
    if held != needed:
        yield f"{name} takes {shown(needed)} bytes and has {held}"
