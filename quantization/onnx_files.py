"""ONNX graphs, read and written with their weights: wherever those lie, and as the exporter does.

onnx and onnx_ir refuse weights that are links, or files under several names, because a model from
a stranger could read any file by them. A bundle's files were verified when it was opened: those of
a hub's cache are links into its `blobs`, and copies by `cp -al` share their files.
"""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from runtimes.bundle.graph_files import EXTERNAL_DATA_BYTES, SMALL_TENSOR_BYTES

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators, which OpenVINO knows, too
# How the integers of a weight are called in a graph.
STORED = re.compile(r"(?P<weight>.+)_int(?P<bits>[248])")


def load(path: Path) -> onnx_ir.Model:
    """A graph whose weights are mapped: they are read when they are used, and not kept.

    Where only names, shapes and nodes matter, `onnx_ir.load` is enough.
    """
    model = onnx_ir.load(path)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        # Numbers of less than a byte are packed; no graph that is read here has such.
        if isinstance(tensor, onnx_ir.ExternalTensor) and tensor.dtype.bitwidth >= 8:
            file = (path.parent / tensor.location).resolve()
            shape = tuple(tensor.shape.numpy())
            mapped: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = (
                np.memmap(file, tensor.dtype.numpy(), "r", tensor.offset or 0, shape)
                if tensor.size  # nothing can be mapped of an empty one
                else np.empty(shape, tensor.dtype.numpy())
            )
            value.const_value = onnx_ir.Tensor(mapped, dtype=tensor.dtype, name=tensor.name)
    return model


def save(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph the way the exporter does: from 1 MB on, weights in one file beside it.

    Raises onnx.checker's error when the file does not pass it: a fault of this program.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if total < EXTERNAL_DATA_BYTES:
        onnx_ir.external_data.load_to_model(model)  # what is left of the source's file
        onnx_ir.save(model, path)
    else:
        data = f"{path.name}.data"
        onnx_ir.save(model, path, external_data=data, size_threshold_bytes=SMALL_TENSOR_BYTES)
    onnx.checker.check_model(str(path), full_check=True)


def add_initializer(graph: onnx_ir.Graph, tensor: onnx_ir.TensorProtocol) -> onnx_ir.Value:
    """A new constant of the graph, called as the tensor is."""
    shape = onnx_ir.Shape(tensor.shape.numpy())
    kind = onnx_ir.TensorType(tensor.dtype)
    value = onnx_ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def recast(value: onnx_ir.Value, kind: onnx_ir.DataType) -> None:
    """Turn a constant into another type; its values are read when they are written."""
    source = value.const_value
    assert source is not None
    value.const_value = onnx_ir.LazyTensor(
        lambda: onnx_ir.tensor(source.numpy().astype(kind.numpy()), dtype=kind),
        kind,
        onnx_ir.Shape(source.shape.numpy()),
        name=value.name,
    )
    value.dtype = kind


def real_locations(model: onnx.ModelProto, folder: Path) -> Path:
    """Have a graph of `folder` name the real files of its weights; returns the folder they lie in.

    For ONNX Runtime, which takes only names inside the folder that it is given.
    """
    tensors = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    files = [(folder / ExternalDataInfo(tensor).location).resolve() for tensor in tensors]
    if not files:
        return folder
    root = Path(os.path.commonpath([file.parent for file in files]))
    for tensor, file in zip(tensors, files, strict=True):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = file.relative_to(root).as_posix()
    return root
