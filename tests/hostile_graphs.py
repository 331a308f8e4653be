"""A sound graph of every format, to be spoiled."""

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import openvino
from coremltools.converters.mil import Builder as mb
from onnx import TensorProto, helper, numpy_helper

from exporter.mobile.optimised import write_ort
from runtimes.bundle.graph_trust import check_graph
from runtimes.bundle.manifest import File

# What CI's packages cannot write: the exporter did, of what tests/phones.py has.
GRAPHS = Path(__file__).parent / "graphs"
WEIGHT = np.arange(6 * 4, dtype=np.float32).reshape(6, 4)


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


def save_ort(folder: Path) -> Path:
    """The same product as ONNX Runtime writes it in its own format."""
    with tempfile.TemporaryDirectory() as scratch:
        write_ort(save_onnx(Path(scratch)), folder / "model.ort", "extended", None)
    return folder / "model.ort"


def save_openvino(folder: Path) -> Path:
    """One product; OpenVINO puts its weight beside it."""
    x = openvino.opset13.parameter([1, 6], np.float32, name="x")
    product = openvino.opset13.matmul(x, openvino.opset13.constant(WEIGHT), False, False)
    openvino.save_model(
        openvino.Model([product], [x]), folder / "model.xml", compress_to_fp16=False
    )
    return folder / "model.xml"


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


def sizes(folder: Path) -> dict[str, int]:
    """What a manifest would say of a folder's files."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check(backend: str, path: Path) -> None:
    """As an opener does, of a graph whose folder holds what the manifest lists."""
    files = {name: File(size, "") for name, size in sizes(path.parent).items()}
    graph = SimpleNamespace(file=path.name, data=())
    backend = "onnx" if backend == "ort" else backend  # whose bundles have such graphs
    check_graph(
        path.parent,
        SimpleNamespace(backend=backend, graphs={"g": graph}, files=files, tokenizers={}),
        "g",
    )


def save_executorch(folder: Path) -> Path:
    """A product by XNNPACK, rounded to 8 bits, and a sum by a kernel."""
    return Path(shutil.copy(GRAPHS / "model-int8.pte", folder))


def save_litert(folder: Path) -> Path:
    """The same product and sum."""
    return Path(shutil.copy(GRAPHS / "model.tflite", folder))


SAVE = {
    "onnx": save_onnx,
    "ort": save_ort,
    "openvino": save_openvino,
    "coreml": save_coreml,
    "executorch": save_executorch,
    "litert": save_litert,
}
