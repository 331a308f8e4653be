"""A bundle with a compressor and a previewer of an operator or two, whose answers NumPy knows."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from runtimes.bundle.manifest import Graph, PictureSide, Tensor
from runtimes.bundle.manifest_json import read_manifest
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.write import seal

STRIDE = 4  # pixels of the compressor's picture a cell
_CELL = 8  # of a preview's


def with_picture_graphs(bundle: Bundle, folder: Path, graphs=("compressor", "preview")) -> Bundle:
    """A copy in `folder` with some of the optional graphs; its linear map is `mixed`'s."""
    shutil.copytree(bundle.folder, folder)
    manifest = read_manifest(folder)
    channels = manifest.sampling.stage_c.channels
    for name in graphs:
        (folder / name).mkdir()
        onnx.save(_MODELS[name](channels), folder / name / "model.onnx")
    weights = np.concatenate([mixed(channels), np.full((3, 1), 0.5)], axis=1).tolist()
    side = PictureSide(
        compressor_stride=STRIDE if "compressor" in graphs else None,
        linear_preview=tuple(map(tuple, weights)),
        preview_pictures=3,
    )
    added = {name: _graph(name, channels) for name in graphs}
    manifest = replace(manifest, graphs=manifest.graphs | added, picture_side=side)
    seal(folder, manifest)
    return open_bundle(folder, hashes="fresh")


def colours(channels: int) -> np.ndarray:
    """(C,3): the compressor's channels are these mixtures of a cell's mean colour."""
    return np.random.RandomState(1).randn(channels, 3).astype(np.float32)


def mixed(channels: int) -> np.ndarray:
    """(3,C): a preview's colours are these mixtures of a cell's channels, and 0.5."""
    return (np.random.RandomState(2).randn(3, channels) / 16).astype(np.float32)


def _compressor(channels: int) -> onnx.ModelProto:
    weight = colours(channels)[:, :, None, None]
    sides = {"kernel_shape": [STRIDE] * 2, "strides": [STRIDE] * 2}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["means"], **sides),
        helper.make_node("Conv", ["means", "weight"], ["image_embedding"]),
    ]
    return _model("compressor", channels, nodes, {"weight": weight})


def _preview(channels: int) -> onnx.ModelProto:
    weight = np.tile(mixed(channels).T[:, :, None, None], (1, 1, _CELL, _CELL))
    sides = {"kernel_shape": [_CELL] * 2, "strides": [_CELL] * 2}
    nodes = [
        helper.make_node("ConvTranspose", ["latents", "weight", "grey"], ["colours"], **sides),
        helper.make_node("Clip", ["colours", "black", "white"], ["image"]),
    ]
    values = {"weight": weight, "grey": np.full(3, 0.5), "black": np.array(0), "white": np.array(1)}
    return _model("preview", channels, nodes, values)


_MODELS = {"compressor": _compressor, "preview": _preview}


def _graph(name: str, channels: int) -> Graph:
    cells = ("batch", channels, "height", "width")
    if name == "compressor":
        image = ("batch", 3, f"{STRIDE}*height", f"{STRIDE}*width")
        tensors = Tensor("image", "float32", image), Tensor("image_embedding", "float32", cells)
    else:
        image = ("batch", 3, f"{_CELL}*height", f"{_CELL}*width")
        tensors = Tensor("latents", "float32", cells), Tensor("image", "float32", image)
    return Graph(f"{name}/model.onnx", "fp32", tensors[:1], tensors[1:])


def _model(name: str, channels: int, nodes, values) -> onnx.ModelProto:
    spec = _graph(name, channels)
    taken, given = (
        helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, tensor.shape)
        for tensor in (*spec.inputs, *spec.outputs)
    )
    weights = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()]
    graph = helper.make_graph(nodes, name, [taken], [given], weights)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
