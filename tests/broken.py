"""Copies of a bundle in which one graph gives what it should not, sealed as if it were meant so."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from runtimes.bundle.manifest_json import read_manifest
from runtimes.bundle.read import Bundle
from runtimes.bundle.write import seal


def giving(bundle: Bundle, graph: str, value: float, folder: Path) -> Path:
    """A copy in `folder` whose `graph` gives `value` in place of each number of its last output."""

    def put(model: onnx.ModelProto) -> None:
        name = model.graph.output[-1].name
        for node in model.graph.node:
            node.output[:] = [f"{name}_before" if x == name else x for x in node.output]
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), "value"))
        model.graph.node.append(helper.make_node("Shape", [f"{name}_before"], ["value_shape"]))
        model.graph.node.append(helper.make_node("Expand", ["value", "value_shape"], [name]))

    return _changed(bundle, graph, put, folder)


def with_weight(bundle: Bundle, graph: str, value: float, folder: Path) -> Path:
    """A copy in `folder` whose `graph` has `value` as one number of its largest weight."""

    def spoil(model: onnx.ModelProto) -> None:
        weight = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
        values = numpy_helper.to_array(weight).copy()
        values.flat[0] = value
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    return _changed(bundle, graph, spoil, folder)


def _changed(bundle: Bundle, graph: str, change, folder: Path) -> Path:
    shutil.copytree(bundle.folder, folder)
    path = folder / bundle.graph(graph).file
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    path.with_name("model.onnx.data").unlink(missing_ok=True)  # the weights are in the graph now
    seal(folder, read_manifest(folder))
    return folder
