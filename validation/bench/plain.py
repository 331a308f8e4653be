"""Plain exports of the public modules, as their users make them: default options, no rewrites.

In ONNX Runtime by way of torch.onnx.export; in OpenVINO by way of openvino.convert_model with an
example input and its fixed shapes, as OpenVINO's public Wuerstchen notebook does it. Both graphs
take fixed sizes, and do in every step what our condition graphs do once.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch

from runtimes.console import installed
from validation.bench.cases import Case, named
from validation.bench.ready import Prepare, Ready
from validation.bench.settings import Report


def peers(report: Report) -> dict[str, Prepare]:
    """The plain exports whose engines are installed."""
    exports: dict[str, Prepare] = {}
    if installed("onnxruntime"):
        exports["plain export, ONNX Runtime"] = _onnxruntime
    else:
        report("without the plain ONNX export: onnxruntime is not installed")
    if installed("openvino"):
        exports["plain export, OpenVINO f32"] = _openvino({"INFERENCE_PRECISION_HINT": "f32"})
        exports["plain export, OpenVINO default"] = _openvino({})
    else:
        report("without OpenVINO's plain conversion: openvino is not installed")
    return exports


@contextlib.contextmanager
def _onnxruntime(case: Case) -> Iterator[Ready]:
    """torch.onnx.export with its defaults, run by a session with its defaults."""
    import onnxruntime

    path = case.folder / "plain-onnx" / "model.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True)
        with _quiet(), torch.no_grad():
            torch.onnx.export(case.module, case.inputs, str(path), verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, case.inputs, strict=True)}
    yield Ready(
        lambda: named(case.file.graph, session.run(None, feeds)), lambda: "f32", case.module_flops
    )


def _openvino(config: dict[str, str]) -> Prepare:
    @contextlib.contextmanager
    def prepare(case: Case) -> Iterator[Ready]:
        import openvino

        path = case.folder / "plain-openvino" / "model.xml"
        if not path.exists():
            shapes = [tuple(tensor.shape) for tensor in case.inputs]
            example = case.inputs if len(case.inputs) > 1 else case.inputs[0]
            with _quiet(), torch.no_grad():
                model = openvino.convert_model(case.module, example_input=example, input=shapes)
            openvino.save_model(model, str(path), compress_to_fp16=False)
            del model
        compiled = openvino.Core().compile_model(str(path), "CPU", config)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        feeds = [tensor.numpy() for tensor in case.inputs]
        yield Ready(
            lambda: named(case.file.graph, compiled(feeds).to_tuple()),
            lambda: used,
            case.module_flops,
        )

    return prepare


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters and tracers say about the public modules' code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
