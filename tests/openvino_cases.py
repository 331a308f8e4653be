"""What both tests of quantised OpenVINO bundles use: the demo in IR, and measures of it."""

import dataclasses
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.write import seal
from runtimes.engines.base import Tensors

IR = "openvino_model.xml"
# The three of Stage B's weights that do the damage, by `python -m quantization sensitivity`.
KEEP = tuple(f"blocks.{name}.weight" for name in ("40.contract", "38.contract", "38.expand"))


def as_ir(theirs: Bundle, folder: Path) -> Bundle:
    """An ONNX bundle's OpenVINO twin, graph by graph with the two calls that the exporter uses."""
    shutil.copytree(
        theirs.folder, folder, ignore=shutil.ignore_patterns("*.onnx", "*.data", MANIFEST_NAME)
    )
    graphs = {}
    for name, graph in theirs.manifest.graphs.items():
        model = openvino.Core().read_model(theirs.path(graph.file))
        openvino.save_model(model, folder / name / IR, compress_to_fp16=False)
        graphs[name] = dataclasses.replace(graph, file=f"{name}/{IR}")
    seal(folder, dataclasses.replace(theirs.manifest, backend="openvino", graphs=graphs, files={}))
    return open_bundle(folder)


def source(bundle: Bundle, name: str) -> Path:
    """The file of a graph."""
    return bundle.path(bundle.graph(name).file)


def damage(ir: Bundle, path: Path, name: str, feeds: Iterable[Tensors]) -> float:
    """The worst step's SQNR of a denoiser's IR against the fp32 one, in dB."""
    found = []
    first, second = (
        openvino.Core().compile_model(str(p), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for p in (source(ir, name), path)
    )
    for sample in feeds:
        expected = first(sample)["epsilon"]
        error = np.square(second(sample)["epsilon"] - expected).sum()
        found.append(10 * np.log10(np.square(expected).sum() / error))
    return float(min(found))


def weighted(model: Any) -> Iterator[tuple[Any, Any]]:
    """Every node with a weight, and its Constant: found without the module under test."""
    ports = {"Gather": 0} | dict.fromkeys(
        ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"), 1
    )
    for node in model.get_ordered_ops():
        if node.get_type_name() in ports:
            above = [node.input_value(ports[node.get_type_name()]).get_node()]
            for each in above:
                above += [value.get_node() for value in each.input_values()]
                if each.get_type_name() == "Parameter":
                    break
            else:
                stored = [n for n in above if n.get_type_name() == "Constant"]
                largest = max(stored, key=lambda n: np.prod(n.get_output_shape(0)))
                if largest.get_element_type().to_string() in ("f32", "i8", "i4"):
                    yield node, largest
