"""Hostile Core ML packages: their manifest, their program or their weights say something else."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtimes.engines.coreml import import_coremltools
from validation.trust.hostile import CUT, FAR, Hostile

_PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
_OWN = "none of the graph's own files"
_FLOAT32, _ENTRY = 11, 64  # a DataType; where in the weights the first constant's entry is


def listed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, str], None]:
    """Change the package's own manifest."""

    def spoil(package: Path, data: str) -> None:
        path = package / "Manifest.json"
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    return spoil


def program_at(place: str) -> Callable[[Path, str], None]:
    """Say that the program is elsewhere."""
    return listed(lambda v: v["itemInfoEntries"][v["rootModelIdentifier"]].update(path=place))


def changed(change: Callable[[Any], object]) -> Callable[[Path, str], None]:
    """Change the parsed model."""

    def spoil(package: Path, data: str) -> None:
        import_coremltools()
        from coremltools.proto.Model_pb2 import Model

        path = package / _PROGRAM
        model = Model.FromString(path.read_bytes())
        change(model)
        path.write_bytes(model.SerializeToString())

    return spoil


def operation(kind: str = "const", **value: Any) -> Callable[[Path, str], None]:
    """Add an operation; `value`: where one of its values of 96 bytes is said to lie."""

    def change(model: Any) -> None:
        new = _block(model).operations.add(type=kind)
        if value:
            stored = new.attributes["val"]
            stored.type.tensorType.dataType = _FLOAT32
            stored.type.tensorType.dimensions.add().constant.size = value.get("count", 24)
            stored.blobFileValue.fileName = value.get("file", "@model_path/weights/weight.bin")
            stored.blobFileValue.offset = value.get("offset", _ENTRY)

    return changed(change)


def attribute(of: Callable[[Any], Any], *, nested: bool = False) -> Callable[[Path, str], None]:
    """Add a value that lies elsewhere to the attributes of a part of the program."""

    def change(model: Any) -> None:
        value = of(model).attributes["more"]
        if nested:
            value = value.immediateValue.tuple.values.add()
        value.type.tensorType.dataType = _FLOAT32
        value.blobFileValue.fileName = "/etc/passwd"

    return changed(change)


def _function(model: Any) -> Any:
    return next(iter(model.mlProgram.functions.values()))


def twice(package: Path, data: str) -> None:
    """The model's bytes once more behind them: parsers merge the two programs into one."""
    path = package / _PROGRAM
    content = path.read_bytes()
    path.write_bytes(content + content)


def _block(model: Any) -> Any:
    return next(iter(_function(model).block_specializations.values()))


def entry(place: int, value: int) -> Callable[[Path, str], None]:
    """Write a number into what the weights say of their first constant."""

    def spoil(package: Path, data: str) -> None:
        path = package / data
        content = bytearray(path.read_bytes())
        struct.pack_into("<Q", content, _ENTRY + place, value)
        path.write_bytes(content)

    return spoil


def _half(package: Path, data: str) -> None:
    (package / _PROGRAM).write_bytes((package / _PROGRAM).read_bytes()[:-CUT])


HOSTILE = (
    Hostile("a program outside the package", program_at("../../x"), "cannot be read"),
    Hostile("a program in an absolute place", program_at("/etc/passwd"), "cannot be read"),
    Hostile(
        "the weights as program",
        program_at("com.apple.CoreML/weights/weight.bin"),
        "not where it belongs",
    ),
    Hostile("no program", listed(lambda v: v.update(rootModelIdentifier="x")), "cannot be read"),
    Hostile("no manifest", lambda path, _: (path / "Manifest.json").unlink(), "cannot be read"),
    Hostile("half a program", _half, "cannot be read"),
    Hostile(
        "a model of another kind", changed(lambda m: m.neuralNetwork.SetInParent()), "another kind"
    ),
    Hostile("a trained model", changed(lambda m: setattr(m, "isUpdatable", True)), "another kind"),
    Hostile("somebody's own operation", operation("custom_layer"), "operation 'custom_layer'"),
    Hostile("a kept state", operation("read_state"), "operation 'read_state'"),
    Hostile("a loop", changed(lambda m: _block(m).operations[-1].blocks.add()), "holds a program"),
    Hostile("weights in an absolute place", operation(file="/etc/passwd"), _OWN),
    Hostile("a program's weights", attribute(lambda m: m.mlProgram), _OWN),
    Hostile("a function's weights", attribute(_function), _OWN),
    Hostile("a block's weights", attribute(_block), _OWN),
    Hostile("weights in a tuple", attribute(_block, nested=True), _OWN),
    Hostile("everything twice", twice, "2 programs"),
    Hostile("weights outside", operation(file="@model_path/../../x"), _OWN),
    Hostile("an offset beyond the end", operation(offset=FAR), "begins at byte"),
    Hostile("an offset where nothing is", operation(offset=0), "no constant at"),
    Hostile("more values than there are", operation(count=1 << 40), "bytes and has"),
    Hostile("a size that lies", entry(8, 1), "bytes and has 1"),
    Hostile("values beyond the end", entry(16, 1 << 40), "ends at byte"),
)
