"""One graph to OpenVINO IR, by way of its ONNX graph.

OpenVINO's own PyTorch front end gives the same errors and times on these modules
(docs/performance.md); going through ONNX leaves one converter to check, and an ONNX bundle opened
on OpenVINO computes exactly what the IR does.
"""

from pathlib import Path
from shutil import rmtree

from exporter.checkpoint.weights import Deferred
from exporter.formats.onnx import write_onnx
from exporter.graphs import GraphPlan

IR_NAME = "openvino_model.xml"


def write_openvino(
    plan: GraphPlan, deferred: Deferred, folder: Path, *, static: bool, compress_to_fp16: bool
) -> Path:
    """Write `folder/openvino_model.xml` and `.bin`; the ONNX graph lies there meanwhile.

    `compress_to_fp16` stores weights in half the bytes; OpenVINO widens them when it loads.
    """
    import openvino

    onnx_folder = folder / "onnx"
    graph = write_onnx(plan, deferred, onnx_folder, static=static)
    model = openvino.Core().read_model(str(graph))
    path = folder / IR_NAME
    openvino.save_model(model, str(path), compress_to_fp16=compress_to_fp16)
    del model  # it maps the ONNX weights
    rmtree(onnx_folder)
    return path
