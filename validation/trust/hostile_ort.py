"""Hostile graphs in ORT format: files of one product, but for what is wrong with them."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtimes.bundle.ort_schema import SESSION
from validation.trust.hostile import CUT, FAR, Hostile

_READ = "cannot be read"
# Of a field, by its name: the method of flatbuffers.Builder that writes it, and its value.
Fields = dict[str, tuple[str, Any]]


class Writer:
    """FlatBuffers' tables from plain values."""

    def __init__(self) -> None:
        import flatbuffers  # which comes with ONNX Runtime

        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> tuple[str, int]:
        return "UOffsetTRelative", self._builder.CreateString(value)

    def table(self, name: str, fields: Fields) -> tuple[str, int]:
        builder, known = self._builder, [field for field, _ in SESSION.tables[name]]
        builder.StartObject(len(known))
        for field, (kind, value) in fields.items():
            # Values that are a schema's default would be left out.
            getattr(builder, f"Prepend{kind}")(value)
            builder.Slot(known.index(field))
        return "UOffsetTRelative", builder.EndObject()

    def tables(self, entries: Sequence[tuple[str, int]]) -> tuple[str, int]:
        self._builder.StartVector(4, len(entries), 4)
        for _, place in reversed(entries):
            self._builder.PrependUOffsetTRelative(place)
        return "UOffsetTRelative", self._builder.EndVector()

    def values(self, kind: str, size: int, entries: Sequence[int]) -> tuple[str, int]:
        self._builder.StartVector(size, len(entries), size)
        for value in reversed(entries):
            getattr(self._builder, f"Prepend{kind}")(value)
        return "UOffsetTRelative", self._builder.EndVector()

    def file(self, root: tuple[str, int], identifier: bytes) -> bytes:
        self._builder.Finish(root[1], file_identifier=identifier)
        return bytes(self._builder.Output())


def tensor(writer: Writer, **changes: Any) -> tuple[str, int]:
    """A weight of 6 x 4 values in fp32, but for these fields of it."""
    given: dict[str, Any] = {"dims": (6, 4), "kind": 1, "raw": 96, "external": None} | changes
    fields: Fields = {
        "name": writer.text("more"),
        "dims": writer.values("Int64", 8, given["dims"]),
        "data_type": ("Int32", given["kind"]),
        "raw_data": writer.values("Uint8", 1, [0] * given["raw"]),
    }
    if given["external"] is not None:
        fields["external_data_offset"] = ("Int64", given["external"])
    if "strings" in changes:
        fields["string_data"] = writer.tables([writer.text("x")])
    return writer.table("Tensor", fields)


def node(writer: Writer, operator: str = "MatMul", domain: str = "", **changes: Any) -> Any:
    """A node at place 0, with further `fields` of it."""
    fields: Fields = {
        "domain": writer.text(domain),
        "index": ("Uint32", changes.pop("index", 0)),
        "op_type": writer.text(operator),
        "type": ("Int32", changes.pop("kind", 0)),
        "execution_provider_type": writer.text(changes.pop("provider", "CPUExecutionProvider")),
    }
    if changes:
        made = {field: make(writer) for field, make in changes["attribute"].items()}
        fields["attributes"] = writer.tables([writer.table("Attribute", made)])
    return writer.table("Node", fields)


def content(
    *,
    nodes: Callable[[Writer], list[Any]] = lambda writer: [node(writer)],
    tensors: Callable[[Writer], list[Any]] = lambda writer: [tensor(writer)],
    more: Callable[[Writer], Fields] = lambda writer: {},
    domains: Sequence[str] = ("", "com.microsoft", "ai.onnx.ml"),
    identifier: bytes = b"ORTM",
) -> bytes:
    """The bytes of a file: sound, but for what is given."""
    writer = Writer()
    graph: Fields = {
        "initializers": writer.tables(tensors(writer)),
        "nodes": writer.tables(nodes(writer)),
        "max_node_index": ("Uint32", 1),
    }
    graph |= more(writer)
    opsets = [
        writer.table("OperatorSetId", {"domain": writer.text(each), "version": ("Int64", 18)})
        for each in domains
    ]
    model: Fields = {
        "ir_version": ("Int64", 8),
        "opset_import": writer.tables(opsets),
        "graph": writer.table("Graph", graph),
    }
    session: Fields = {"model": writer.table("Model", model)}
    return writer.file(writer.table("InferenceSession", session), identifier)


def written(**changes: Any) -> Callable[[Path, str], object]:
    """A spoil that writes such a file over the graph."""
    return lambda path, data: path.write_bytes(content(**changes))


def _nodes(*words: str, **changes: Any) -> Callable[[Path, str], object]:
    return written(nodes=lambda writer: [node(writer, *words, **changes)])


def _tensors(**changes: Any) -> Callable[[Path, str], object]:
    return written(tensors=lambda writer: [tensor(writer, **changes)])


def _edge(place: int) -> Callable[[Writer], Fields]:
    return lambda writer: {
        "node_edges": writer.tables([writer.table("NodeEdge", {"node_index": ("Uint32", place)})])
    }


def _sparse(writer: Writer) -> Fields:
    return {"sparse_initializers": writer.tables([writer.table("Tensor", {})])}


def _replayed(writer: Writer) -> Fields:
    records = writer.tables([writer.table("Attribute", {})])
    return {"runtime_optimizations": writer.table("RuntimeOptimizations", {"records": records})}


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, str], object]:
    return lambda path, data: path.write_bytes(change(path.read_bytes()))


def _rooted(start: int) -> Callable[[bytes], bytes]:
    return lambda old: struct.pack("<I", start) + old[4:]


def _fields_before_the_file(old: bytes) -> bytes:
    """The root table's fields are listed so far in front of it that no file is there."""
    (start,) = struct.unpack_from("<I", old)
    return old[:start] + struct.pack("<i", 1 << 30) + old[start + 4 :]


def _many(writer: Writer) -> list[Any]:
    """One tensor, listed more often than a reader looks: a file of 0.8 MB."""
    return [tensor(writer)] * (SESSION.most // 2)


def _listed(writer: Writer) -> Any:
    """A list of so many tensors that a list of nodes, as long, names in every one."""
    return writer.tables([tensor(writer)] * 1000)


_EMPTY = {"g": lambda writer: writer.table("Graph", {})}
_GRAPHS = {"graphs": lambda writer: writer.tables([writer.table("Graph", {})])}
_LYING = {"t": lambda writer: tensor(writer, dims=(6, 4000))}

HOSTILE = (
    Hostile("an operator nobody asked for", _nodes("Softplus"), "operator 'Softplus'"),
    Hostile("an operator of somebody's own", _nodes("Run", "evil.com"), "operator 'evil.com:Run'"),
    Hostile("a loop", _nodes("Loop", attribute=_EMPTY), "operator 'Loop'"),
    Hostile("a graph in a harmless node", _nodes("Add", attribute=_EMPTY), "holds a graph"),
    Hostile("graphs in a harmless node", _nodes("Add", attribute=_GRAPHS), "holds a graph"),
    Hostile("somebody's set of operators", written(domains=("", "x")), "operators of 'x'"),
    Hostile("a node that a device compiled", _nodes(kind=1), "a device compiled"),
    Hostile("a node of a device", _nodes(provider="EvilProvider"), "a node of 'EvilProvider'"),
    Hostile("a constant that lies", _nodes("Constant", attribute=_LYING), "bytes and has 96"),
    Hostile("a byte too few", _tensors(raw=95), "takes 96 bytes and has 95"),
    Hostile("no bytes", _tensors(raw=0, dims=(1 << 40,)), "bytes and has 0"),
    Hostile("more values than there are", _tensors(dims=(1 << 40, 1 << 40)), "bytes and has 96"),
    Hostile("a negative size", _tensors(dims=(-6, -4)), "a negative size"),
    Hostile("17 axes", _tensors(dims=(1,) * 17), "too large"),
    Hostile("strings", _tensors(kind=8), "not known"),
    Hostile("strings beside numbers", _tensors(strings=True), "not known"),
    Hostile("values of no type", _tensors(kind=99), "not known"),
    Hostile("weights in another file", _tensors(external=0), "lies in another file"),
    Hostile("weights at the end of the world", _tensors(external=FAR), "lies in another file"),
    Hostile("sparse weights", written(more=_sparse), "sparse"),
    Hostile("optimisations to replay", written(more=_replayed), "optimisations to be replayed"),
    Hostile(
        "four thousand million nodes",
        written(more=lambda w: {"max_node_index": ("Uint32", (1 << 32) - 1)}),
        "it counts 4,294,967,295 nodes",
    ),
    Hostile("a node behind the last", _nodes(index=7), "has the place 7"),
    Hostile(
        "two nodes in one place",
        written(nodes=lambda w: [node(w), node(w)]),
        "has the place 0",
    ),
    Hostile("an edge to nowhere", written(more=_edge(5)), "an edge leads to a node"),
    Hostile("a weight many times", written(tensors=_many), _READ),
    Hostile(
        "many weights many times",
        written(nodes=lambda w: [node(w, attribute={"tensors": _listed})] * 1000),
        _READ,
    ),
    Hostile("a graph of another kind", written(identifier=b"TFL3"), _READ),
    Hostile("a root behind the file", _bytes(_rooted((1 << 32) - 1)), _READ),
    Hostile("a root in the identifier", _bytes(_rooted(4)), _READ),
    Hostile("fields before the file", _bytes(_fields_before_the_file), _READ),
    Hostile("half a graph", _bytes(lambda old: old[: len(old) // 2 - CUT]), _READ),
    Hostile("nothing", _bytes(lambda old: b""), _READ),
    Hostile("another text", _bytes(lambda old: b"<html>" * 50), _READ),
    Hostile("numbers without end", _bytes(lambda old: b"\xff" * 4096), _READ),
    Hostile("an identifier alone", _bytes(lambda old: old[:8]), _READ),
)
