"""Graphs as a stranger would write them, of every format: a sound one, and ways to spoil it."""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import openvino
from coremltools.converters.mil import Builder as mb
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(6 * 4, dtype=np.float32).reshape(6, 4)


@dataclass(frozen=True)
class Hostile:
    """A way to spoil the graph at a path, and a word of what it is refused with."""

    what: str
    spoil: Callable[[Path], object]
    word: str


def sizes(folder: Path, but: str = "") -> dict[str, int]:
    """What a manifest would say of a folder's files."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != but
    }


def save_onnx(folder: Path) -> Path:
    """One product, its weight in a file beside it."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    path = folder / "model.onnx"
    onnx.save(
        helper.make_model(graph), path, save_as_external_data=True, size_threshold=0,
        location="model.onnx.data",
    )  # fmt: skip
    return path


def in_onnx(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        model = onnx.load(path, load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())

    return spoil


def place(**entries: str | None) -> Callable[[Path], None]:
    """Change where the weight is said to lie; None: leave that out."""

    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        known = {entry.key: entry.value for entry in weight.external_data} | entries
        del weight.external_data[:]
        for key, value in known.items():
            if value is not None:
                weight.external_data.add(key=key, value=value)

    return in_onnx(change)


def inline(**fields: object) -> Callable[[Path], None]:
    """The weight in the graph itself, with other fields."""

    def change(model: onnx.ModelProto) -> None:
        weight = numpy_helper.from_array(WEIGHT, "w")
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(weight, name)[:]
                getattr(weight, name).extend(value)
            else:
                setattr(weight, name, value)
        model.graph.initializer[0].CopyFrom(weight)

    return in_onnx(change)


def node(operator: str, domain: str = "", **attributes: object) -> Callable[[Path], None]:
    def change(model: onnx.ModelProto) -> None:
        new = helper.make_node(operator, ["x"], ["z"], domain=domain, **attributes)
        model.graph.node.append(new)

    return in_onnx(change)


def in_attribute(change: Callable[[onnx.TensorProto], object]) -> Callable[[Path], None]:
    tensor = numpy_helper.from_array(WEIGHT)
    change(tensor)
    return node("Constant", value=tensor)


EMPTY = helper.make_graph([], "body", [], [])
ELSEWHERE = [onnx.StringStringEntryProto(key="location", value="/etc/passwd")]
ONNX = [
    Hostile("weights elsewhere", place(location="../other.data"), "none of the graph's own files"),
    Hostile("weights in an absolute place", place(location="/etc/passwd"), "/etc/passwd"),
    Hostile("weights in a file of the system", place(location="C:\\x"), "none of the graph's own"),
    Hostile("no place", place(location=None), "none of the graph's own files"),
    Hostile("the graph itself as weights", place(location="model.onnx"), "none of the graph's own"),
    Hostile("too short", place(length="92"), "takes 96 bytes and asks for 92"),
    Hostile("too long", place(length="100"), "takes 96 bytes and asks for 100"),
    Hostile("no length", place(length=None), "does not say where"),
    Hostile("a negative length", place(length="-96"), "does not say where"),
    Hostile("a negative offset", place(offset="-8"), "does not say where"),
    Hostile("an offset in other digits", place(offset="\u0664"), "does not say where"),
    Hostile("beyond the end", place(offset="4"), "ends at byte 100"),
    Hostile("far beyond the end", place(offset=str(2**62)), "ends at byte"),
    Hostile("more digits than numbers have", place(offset="9" * 5000), "does not say where"),
    Hostile("another operator", node("Softplus"), "operator 'Softplus'"),
    Hostile("a loop", node("Loop", body=EMPTY), "holds a graph"),
    Hostile("a condition", node("If", then_branch=EMPTY, else_branch=EMPTY), "holds a graph"),
    Hostile("a graph in a harmless node", node("Add", body=EMPTY), "holds a graph"),
    Hostile("an operator of somebody's own", node("Run", "evil.com"), "operator 'evil.com:Run'"),
    Hostile("somebody's operators", in_onnx(lambda m: m.opset_import.add(domain="x")), "of 'x'"),
    Hostile("a function", in_onnx(lambda m: m.functions.add(name="Relu")), "functions"),
    Hostile("a training step", in_onnx(lambda m: m.training_info.add()), "training"),
    Hostile("sparse weights", in_onnx(lambda m: m.graph.sparse_initializer.add()), "sparse"),
    Hostile("too few bytes inside", inline(raw_data=b"\0" * 95), "takes 96 bytes and has 95"),
    Hostile("values one by one", inline(raw_data=b"", dims=[1 << 40]), "has 0"),
    Hostile("more values than there are", inline(dims=[1 << 40, 1 << 40]), "bytes and has 96"),
    Hostile("a negative size", inline(dims=[-6, -4]), "a negative size"),
    Hostile("strings", inline(data_type=TensorProto.STRING), "not known"),
    Hostile("no type", inline(data_type=0), "not known"),
    Hostile("a constant elsewhere",
            in_attribute(lambda t: t.external_data.extend(ELSEWHERE)), "none of the graph's own"),
    Hostile("a constant that lies", in_attribute(lambda t: t.dims.append(1000)), "and has 96"),
    Hostile("two graphs", lambda p: p.write_bytes(p.read_bytes() * 2), "2 graphs"),
    Hostile("half of it", lambda p: p.write_bytes(p.read_bytes()[:-20]), "cannot be read"),
    Hostile("nothing", lambda p: p.write_bytes(b""), "cannot be read"),
    Hostile("text", lambda p: p.write_text("<html>" * 50), "cannot be read"),
    Hostile("endless numbers", lambda p: p.write_bytes(b"\xff" * 4096), "cannot be read"),
]  # fmt: skip


def save_openvino(folder: Path) -> Path:
    """One product; OpenVINO puts its weight beside it."""
    x = openvino.opset13.parameter([1, 6], np.float32, name="x")
    product = openvino.opset13.matmul(x, openvino.opset13.constant(WEIGHT), False, False)
    openvino.save_model(
        openvino.Model([product], [x]), folder / "model.xml", compress_to_fp16=False
    )
    return folder / "model.xml"


def text(old: str, new: str) -> Callable[[Path], None]:
    """Write another word in the graph."""

    def spoil(path: Path) -> None:
        before = path.read_text()
        after, count = re.subn(old, lambda _: new, before, count=1)
        assert count == 1
        path.write_text(after)

    return spoil


ENTITIES = '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
SECOND = '<data element_type="f32" shape="6, 4" offset="8" size="96" />'
OPENVINO = [
    Hostile("an entity bomb", text("<net ", f"{ENTITIES}<net "), "a declaration"),
    Hostile("an entity from a file", text("<net ", f"{FILE}<net "), "a declaration"),
    Hostile("a comment", text("<layers>", "<!-- <layer --><layers>"), "a declaration or comment"),
    Hostile("an instruction", text("<layers>", "<?php ?><layers>"), "an instruction"),
    Hostile("beyond the end", text('offset="0"', 'offset="4"'), "ends at byte 100"),
    Hostile("far beyond the end", text('offset="0"', f'offset="{2**62}"'), "ends at byte"),
    Hostile("a negative offset", text('offset="0"', 'offset="-8"'), "does not say where"),
    Hostile("no offset", text(' offset="0"', ""), "does not say where"),
    Hostile("another size", text('size="96"', 'size="92"'), "takes 96 bytes and asks for 92"),
    Hostile("another shape", text('shape="6, 4"', 'shape="6, 4000000000"'), "and asks for 96"),
    Hostile("two places", text("<data element", f"{SECOND}<data element"), "does not say where"),
    Hostile("an unknown type", text(r'"f32"(?= shape="6)', '"string"'),
            "not known"),
    Hostile("a loop", text('type="MatMul"', 'type="Loop"'), "opset1:Loop"),
    Hostile("an extension", text('version="opset1"', 'version="extension"'), "not known"),
    Hostile("a layer that is written otherwise", text("<layer ", "<layer\t"), "cannot be read"),
    Hostile("no weights", lambda p: p.with_suffix(".bin").unlink(), "which has 0"),
    Hostile("cut weights", lambda p: p.with_suffix(".bin").write_bytes(b"\0" * 95), "which has 95"),
    Hostile("another encoding", lambda p: p.write_text(p.read_text(), "utf-16"), "cannot be read"),
    Hostile("nothing", lambda p: p.write_text(""), "cannot be read"),
]  # fmt: skip


def save_coreml(folder: Path) -> Path:
    """One product with a weight that is large enough to lie in a file."""
    import coremltools

    @mb.program(input_specs=[mb.TensorSpec((1, 6))])  # type: ignore[untyped-decorator]
    def program(x):
        return mb.matmul(x=x, y=WEIGHT)

    model = coremltools.convert(
        program, convert_to="mlprogram", compute_precision=coremltools.precision.FLOAT32
    )
    model.save(str(folder / "model.mlpackage"))
    return folder / "model.mlpackage"


def listed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the package's own manifest."""

    def spoil(package: Path) -> None:
        path = package / "Manifest.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return spoil


def in_program(change: Callable[[object], object]) -> Callable[[Path], None]:
    def spoil(package: Path) -> None:
        from coremltools.proto.Model_pb2 import Model

        path = package / "Data/com.apple.CoreML/model.mlmodel"
        model = Model.FromString(path.read_bytes())
        change(model)
        path.write_bytes(model.SerializeToString())

    return spoil


def operations(model) -> list:
    (function,) = model.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return block.operations


def blob(model):
    """The weight's value in the program."""
    return next(
        value
        for operation in operations(model)
        for value in operation.attributes.values()
        if value.HasField("blobFileValue")
    )


def blob_entry(place: int, layout: str, value: int) -> Callable[[Path], None]:
    """Write a number into what the weights say of the first constant, 64 bytes in."""

    def spoil(package: Path) -> None:
        path = package / "Data/com.apple.CoreML/weights/weight.bin"
        content = bytearray(path.read_bytes())
        struct.pack_into(layout, content, 64 + place, value)
        path.write_bytes(content)

    return spoil


def entry(value: dict) -> dict:
    return value["itemInfoEntries"][value["rootModelIdentifier"]]


def dimension(model):
    return blob(model).type.tensorType.dimensions[0].constant


COREML = [
    Hostile("a program elsewhere", listed(lambda v: entry(v).update(path="../../x")),
            "cannot be read"),
    Hostile("a program in an absolute place", listed(lambda v: entry(v).update(path="/etc/passwd")),
            "cannot be read"),
    Hostile("another file as program",
            listed(lambda v: entry(v).update(path="com.apple.CoreML/weights/weight.bin")),
            "not where it belongs"),
    Hostile("no program", listed(lambda v: v.update(rootModelIdentifier="x")), "cannot be read"),
    Hostile("no manifest", lambda p: (p / "Manifest.json").unlink(), "cannot be read"),
    Hostile("a neural network", in_program(lambda m: m.neuralNetwork.SetInParent()),
            "a model of another kind"),
    Hostile("an updatable model", in_program(lambda m: setattr(m, "isUpdatable", True)),
            "a model of another kind"),
    Hostile("somebody's own layer",
            in_program(lambda m: setattr(operations(m)[-1], "type", "custom_layer")),
            "operation 'custom_layer'"),
    Hostile("a loop", in_program(lambda m: operations(m)[-1].blocks.add()), "holds a program"),
    Hostile("weights elsewhere",
            in_program(lambda m: setattr(blob(m).blobFileValue, "fileName", "/etc/passwd")),
            "none of the graph's own files"),
    Hostile("weights outside", in_program(
            lambda m: setattr(blob(m).blobFileValue, "fileName", "@model_path/../../x")),
            "none of the graph's own files"),
    Hostile("an offset beyond the end",
            in_program(lambda m: setattr(blob(m).blobFileValue, "offset", 2**40)), "begins at"),
    Hostile("an offset where nothing is",
            in_program(lambda m: setattr(blob(m).blobFileValue, "offset", 0)), "no constant at"),
    Hostile("more values than there are",
            in_program(lambda m: setattr(dimension(m), "size", 2**40)), "and has 96"),
    Hostile("a size that lies", blob_entry(8, "<Q", 97), "takes 96 bytes and has 97"),
    Hostile("a place beyond the end", blob_entry(16, "<Q", 2**40), "ends at byte"),
    Hostile("half a program", lambda p: (p / "Data/com.apple.CoreML/model.mlmodel").write_bytes(
            (p / "Data/com.apple.CoreML/model.mlmodel").read_bytes()[:-9]), "cannot be read"),
]  # fmt: skip
