"""ONNX graphs read with their weights, wherever those really lie.

onnx and onnx_ir refuse weights that are links, or files under several names, because a model from
a stranger could read any file by them. A bundle's files were verified when it was opened: those of
a hub's cache are links into its `blobs`, and copies by `cp -al` share their files.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx.external_data_helper import ExternalDataInfo, uses_external_data


def load(path: Path) -> onnx.ModelProto:
    """A graph with its weights in memory."""
    model = onnx.load(path, load_external_data=False)
    folder = real_locations(model, path.parent)
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            with (folder / info.location).open("rb") as file:
                file.seek(info.offset or 0)
                tensor.raw_data = file.read(info.length or -1)
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def load_ir(path: Path) -> onnx_ir.Model:
    """A graph whose weights are mapped: they are read when they are used."""
    model = onnx_ir.load(path)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        # Numbers of less than a byte are packed; no graph that is read here has such.
        if isinstance(tensor, onnx_ir.ExternalTensor) and tensor.dtype.bitwidth >= 8:
            file = (path.parent / tensor.location).resolve()
            shape = tuple(tensor.shape.numpy())
            mapped: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = (
                np.memmap(file, tensor.dtype.numpy(), "r", tensor.offset or 0, shape)
                if tensor.size
                else np.empty(shape, tensor.dtype.numpy())
            )
            value.const_value = onnx_ir.Tensor(mapped, dtype=tensor.dtype, name=tensor.name)
    return model


def real_locations(model: onnx.ModelProto, folder: Path) -> Path:
    """Have a graph of `folder` name the real files of its weights; returns the folder they lie in.

    onnx.checker and ONNX Runtime take only names inside the folder that they are given.
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
