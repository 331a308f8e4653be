"""ExecuTorch and LiteRT where their packages are not: what is said, and the reader of their files.

What takes the packages is in test_executorch.py and test_litert.py.
"""

import random
import struct
import sys

import flatbuffers
import phones
import pytest

from exporter.cli import main as exporter
from runtimes.bundle.executorch_schema import PROGRAM
from runtimes.bundle.executorch_trust import executorch_faults
from runtimes.bundle.flatbuffer import Schema, read
from runtimes.bundle.graph_trust import UNREADABLE
from runtimes.bundle.litert_schema import MODEL
from runtimes.bundle.litert_trust import litert_faults
from runtimes.engines import executorch, litert
from runtimes.engines.base import Execution
from runtimes.errors import UsageError

FILES = {
    "executorch": (phones.GRAPHS / "model.pte", executorch_faults),
    "executorch-int8": (phones.GRAPHS / "model-int8.pte", executorch_faults),
    "litert": (phones.GRAPHS / "model.tflite", litert_faults),
}


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [("executorch", "executorch", "executorch"), ("litert", "litert_torch", "litert-export")],
)
def test_a_missing_writer_is_named_with_its_extra(
    tmp_path, capsys, monkeypatch, backend, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    assert exporter([str(tmp_path / "out"), "--backend", backend]) == 2
    error = capsys.readouterr().err
    assert f"pip install 'wuerstchen-export[{extra}]'" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [(executorch, "executorch", "executorch"), (litert, "ai_edge_litert", "litert")],
)
def test_a_missing_engine_is_named_with_its_extra(monkeypatch, engine, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"pip install 'wuerstchen-export\[{extra}\]'"):
        engine.check(Execution())
    with pytest.raises(UsageError, match=r"--device gpu: .* bundles on cpu here"):
        engine.check(Execution(device="gpu"))


def test_the_reader_gives_what_the_files_say():
    program = read(memoryview(FILES["executorch"][0].read_bytes()), PROGRAM)
    (plan,) = program["execution_plan"]
    assert plan["name"] == "forward" and plan["delegates"][0]["id"] == "XnnpackBackend"
    assert [o["name"] for o in plan["operators"]] == ["aten::sum"]
    model = read(memoryview(FILES["litert"][0].read_bytes()), MODEL)
    (signature,) = model["signature_defs"]
    assert [entry["name"] for entry in signature["inputs"]] == ["x"]
    assert sorted(entry["name"] for entry in signature["outputs"]) == ["y", "z"]


def test_a_text_that_is_named_from_many_places_is_refused():
    """Five hundred times four megabytes would be read for seconds."""
    builder = flatbuffers.Builder()
    text = builder.CreateString("n" * 4_000_000)
    builder.StartVector(4, 500, 4)
    for _ in range(500):
        builder.PrependUOffsetTRelative(text)
    texts = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, texts, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TEST")
    schema = Schema({"Root": (("texts", "[text]"),)}, {}, "Root", b"TEST")
    with pytest.raises(ValueError, match="more values than any graph has"):
        read(memoryview(builder.Output()), schema)


def test_a_long_list_of_fields_is_read_once():
    """Not for each of the tables that share it: 100,000 times 32,000 fields take minutes."""
    count, size = 100_000, 0xFFFE
    vtable = struct.pack("<HH", size, 4) + bytes(size - 4)
    # The root's own vtable and the root, whose one field is a vector of offsets to one table.
    head = struct.pack("<I4sHHHHiI", 16, b"TEST", 6, 8, 4, 0, 8, 4) + struct.pack("<I", count)
    first = len(head)
    last = first + 4 * count + len(vtable)
    offsets = struct.pack(f"<{count}I", *(last - place for place in range(first, last, 4)[:count]))
    content = head + offsets + vtable + struct.pack("<i", len(vtable))
    schema = Schema({"Root": (("all", "[Empty]"),), "Empty": ()}, {}, "Root", b"TEST")
    assert read(memoryview(content), schema) == {"all": [{}] * count}


@pytest.mark.parametrize("format_", FILES)
def test_a_changed_byte_is_read_or_refused(tmp_path, format_):
    """Never another error, and never for long: as the opener of a bundle asks it."""
    source, faults = FILES[format_]
    content, chance, path = source.read_bytes(), random.Random(0), tmp_path / source.name
    refused = 0
    for _ in range(1000):
        changed = bytearray(content)
        changed[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            refused += any(faults(path, {}))
        except UNREADABLE:
            refused += 1
    assert refused > 200
