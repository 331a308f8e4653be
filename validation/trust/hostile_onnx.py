"""Hostile ONNX graphs: a weight, a node or a whole part that no graph of ours has is added."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from validation.trust.hostile import CUT, DIGITS, FAR, Hostile

VALUES = np.zeros((6, 4), np.float32)  # of the weight that is added: 96 bytes
_BODY = helper.make_graph([], "body", [], [])
_READ = "cannot be read"
_SHAPE = "'integers' has not the shape that its product says"
_OWN, _ELSEWHERE = "none of the graph's own files", "/etc/passwd"


def changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path, str], None]:
    """A spoil that changes the parsed graph."""

    def spoil(path: Path, data: str) -> None:
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())

    return spoil


def outside(**places: str | None) -> Callable[[Path, str], None]:
    """Add a weight that lies in the graph's own file of weights, but for these entries."""

    def spoil(path: Path, data: str) -> None:
        entries = {"location": data, "offset": "0", "length": "96"} | places
        weight = TensorProto(name="more", data_type=TensorProto.FLOAT, dims=VALUES.shape)
        weight.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            if value is not None:
                weight.external_data.add(key=key, value=value)
        changed(lambda model: model.graph.initializer.append(weight))(path, data)

    return spoil


def inside(**fields: Any) -> Callable[[Path, str], None]:
    """Add a weight that lies in the graph itself and has other fields, or lacks some (None)."""
    weight = numpy_helper.from_array(VALUES, "more")
    for name, value in fields.items():
        if value is None:
            weight.ClearField(name)
        elif isinstance(value, list):
            del getattr(weight, name)[:]
            getattr(weight, name).extend(value)
        else:
            setattr(weight, name, value)
    return changed(lambda model: model.graph.initializer.append(weight))


def node(operator: str, domain: str = "", **attributes: Any) -> Callable[[Path, str], None]:
    """Add a node."""
    new = helper.make_node(operator, ["more"], ["most"], domain=domain, **attributes)
    return changed(lambda model: model.graph.node.append(new))


def packed(
    shape: tuple[int, ...] = (4, 2, 8), scales: int = 8, *more: str, **said: int
) -> Callable[[Path, str], None]:
    """Add a product with 4 x 64 integers of 2 bits, in blocks of 32, but for what is given."""
    attributes: dict[str, Any] = {"K": 64, "N": 4, "bits": 2, "block_size": 32} | said
    inputs = ["x", "integers", "scales", *more]
    new = helper.make_node("MatMulNBits", inputs, ["most"], domain="com.microsoft", **attributes)
    weights = (
        numpy_helper.from_array(np.zeros(shape, np.uint8), "integers"),
        numpy_helper.from_array(np.zeros(scales, np.float32), "scales"),
    )

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(new)
        model.graph.initializer.extend(weights)

    return changed(change)


def constant(change: Callable[[TensorProto], object]) -> Callable[[Path, str], None]:
    """Add a node whose attribute is a tensor."""
    tensor = numpy_helper.from_array(VALUES)
    change(tensor)
    return node("Constant", value=tensor)


def content(change: Callable[[bytes], bytes]) -> Callable[[Path, str], object]:
    """Change the file's bytes."""
    return lambda path, data: path.write_bytes(change(path.read_bytes()))


def raw(graph: bytes) -> Callable[[Path, str], object]:
    """Add bytes to the graph as another parser reads them: merged with what is there."""
    whole = b"\x3a" + _varint(len(graph)) + graph  # ModelProto.graph
    return content(lambda old: old + whole)


def _node(operator: str, more: bytes = b"") -> bytes:
    """GraphProto.node: its outputs, its operator, and bytes behind."""
    body = b"\x12\x04most" + b"\x22" + _varint(len(operator)) + operator.encode() + more
    return b"\x0a" + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    pieces = []
    while number >= 0x80:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*pieces, number])


# A field of 4 bytes where a text is due: parsers drop it, and a reader that took it would be lied
# to. And the tag of a node in 5 bytes with a bit above 2^32, which parsers cut off.
_COVER = b"\x25Relu"
_LONG_TAG = b"\x8a\x80\x80\x80\x10"


def _elsewhere(tensor: TensorProto) -> None:
    tensor.external_data.add(key="location", value=_ELSEWHERE)


HOSTILE = (
    Hostile("weights outside the bundle", outside(location="../../other.data"), _OWN),
    Hostile("weights in an absolute place", outside(location=_ELSEWHERE), _ELSEWHERE),
    Hostile("weights on a drive", outside(location="C:\\x"), _OWN),
    Hostile("weights nowhere", outside(location=None), _OWN),
    Hostile("the graph itself as weights", outside(location="model.onnx"), _OWN),
    Hostile("too few bytes", outside(length="92"), "takes 96 bytes and asks for 92"),
    Hostile("too many bytes", outside(length="100"), "takes 96 bytes and asks for 100"),
    Hostile("no length", outside(length=None), "does not say where"),
    Hostile("a negative length", outside(length="-96"), "does not say where"),
    Hostile("a negative offset", outside(offset="-8"), "does not say where"),
    Hostile("an offset in other digits", outside(offset="\u0664"), "does not say where"),
    Hostile("an offset beyond the end", outside(offset=str(FAR)), "ends at byte"),
    Hostile("an offset of 5,000 digits", outside(offset=DIGITS), "does not say where"),
    Hostile("an operator nobody asked for", node("Softplus"), "operator 'Softplus'"),
    Hostile("a loop", node("Loop", body=_BODY), "holds a graph"),
    Hostile("a condition", node("If", then_branch=_BODY, else_branch=_BODY), "holds a graph"),
    Hostile("a graph in a harmless node", node("Add", body=_BODY), "holds a graph"),
    Hostile("an operator of somebody's own", node("Run", "evil.com"), "operator 'evil.com:Run'"),
    Hostile(
        "somebody's set of operators", changed(lambda m: m.opset_import.add(domain="x")), "of 'x'"
    ),
    Hostile("a function", changed(lambda m: m.functions.add(name="Relu")), "functions"),
    Hostile("a training step", changed(lambda m: m.training_info.add()), "training"),
    Hostile("sparse weights", changed(lambda m: m.graph.sparse_initializer.add()), "sparse"),
    Hostile("a byte too few", inside(raw_data=bytes(95)), "takes 96 bytes and has 95"),
    Hostile("no bytes", inside(raw_data=b"", dims=[1 << 40]), "bytes and has 0"),
    Hostile("more values than there are", inside(dims=[1 << 40, 1 << 40]), "bytes and has 96"),
    Hostile("a negative size", inside(dims=[-6, -4]), "a negative size"),
    Hostile("strings", inside(data_type=TensorProto.STRING), "not known"),
    Hostile("values of no type", inside(data_type=0), "not known"),
    Hostile("a constant elsewhere", constant(_elsewhere), _OWN),
    Hostile("a constant that lies", constant(lambda t: t.dims.append(1000)), "bytes and has 96"),
    Hostile("integers of 3 bits", packed(bits=3), "integers of 3 bits in blocks of 32"),
    Hostile("integers of no bits", packed(bits=0), "integers of 0 bits"),
    Hostile("blocks of none", packed(block_size=0), "in blocks of 0"),
    Hostile("blocks of 7", packed(block_size=7), "in blocks of 7"),
    Hostile("4 bits where 2 are stored", packed(bits=4), _SHAPE),
    Hostile("integers of too few outputs", packed((1, 2, 8)), _SHAPE),
    Hostile("integers of too few inputs", packed((4, 1, 8)), _SHAPE),
    Hostile("no integers", packed((0, 2, 8)), _SHAPE),
    Hostile("more outputs than there are", packed(N=1 << 40), _SHAPE),
    Hostile("fewer inputs than none", packed(K=-64), _SHAPE),
    Hostile("too few scales", packed((4, 2, 8), 7), "'scales' has not a scale"),
    Hostile("points of zero", packed((4, 2, 8), 8, "integers"), "other inputs than"),
    Hostile("an operator under another name", raw(_node("RandomNormal", _COVER)), _READ),
    Hostile("a node that readers do not see", raw(_LONG_TAG + _node("If")[1:]), _READ),
    Hostile("a field without a number", content(lambda old: old + b"\x02\x00"), _READ),
    Hostile("100,000 axes", inside(dims=[1 << 40] * 100_000), "too large"),
    Hostile("17 axes", inside(dims=[1] * 17), "too large"),
    Hostile("fewer values than there are", inside(raw_data=None, float_data=[0.0]), "1 values of"),
    Hostile("two graphs", content(lambda old: old * 2), "2 graphs"),
    Hostile("half a graph", content(lambda old: old[:-CUT]), _READ),
    Hostile("nothing", content(lambda old: b""), _READ),
    Hostile("another text", content(lambda old: b"<html>" * 50), _READ),
    Hostile("a number without end", content(lambda old: b"\xff" * 4096), _READ),
)
