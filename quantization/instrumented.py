"""An ONNX graph that also says how large the values inside it get."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from quantization.onnx_files import real_locations
from runtimes.engines.base import Feeds, Tensors

Floats = NDArray[np.float32]
Run = Callable[[Feeds], tuple[Tensors, dict[str, Floats]]]


def instrumented(path: Path, axes: Mapping[str, list[int]]) -> Run:
    """Load the graph at `path` with a largest absolute value for each tensor in `axes`.

    The maximum is taken over the given axes (none: over all). A run returns the graph's own
    outputs and those maxima. Weights stay in their file: graphs over 2 GB work.
    """
    model = onnx.load(path, load_external_data=False)
    outputs = [value.name for value in model.graph.output]
    for name, over in axes.items():
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}_abs"]))
        _reduce(model, "ReduceMax", f"{name}_abs", f"{name}_range", over)
    session = _session(model, path.parent)

    def run(feeds: Feeds) -> tuple[Tensors, dict[str, Floats]]:
        names = [*outputs, *(f"{name}_range" for name in axes)]
        values = session.run(names, dict(feeds))
        ranges = dict(zip(axes, values[len(outputs) :], strict=True))
        return dict(zip(outputs, values[: len(outputs)], strict=True)), ranges

    return run


def extremes(
    path: Path, names: Collection[str], feeds: Iterable[Tensors]
) -> dict[str, tuple[Floats, Floats]]:
    """The least and the largest value of each named tensor over all feeds."""
    model = onnx.load(path, load_external_data=False)
    for name in names:
        _reduce(model, "ReduceMin", name, f"{name}_least", [])
        _reduce(model, "ReduceMax", name, f"{name}_largest", [])
    session, count = _session(model, path.parent), len(names)
    wanted = [f"{name}_{which}" for which in ("least", "largest") for name in names]
    rows = np.array([session.run(wanted, dict(sample)) for sample in feeds], np.float32)
    least, largest = rows[:, :count].min(axis=0), rows[:, count:].max(axis=0)
    return {
        name: (np.array(low), np.array(high))
        for name, low, high in zip(names, least, largest, strict=True)
    }


def _reduce(model: onnx.ModelProto, kind: str, name: str, result: str, over: list[int]) -> None:
    """Have the graph give a reduction of a tensor over some axes (none: over all), too."""
    inputs = [name]
    if over:
        inputs.append(f"{result}_axes")
        tensor = helper.make_tensor(inputs[1], onnx.TensorProto.INT64, [len(over)], over)
        model.graph.initializer.append(tensor)
    model.graph.node.append(helper.make_node(kind, inputs, [result], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None))


def _session(model: onnx.ModelProto, folder: Path) -> Any:
    """A session of a graph whose external data lies in `folder`."""
    import onnxruntime

    folder = real_locations(model, folder)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Maxima are taken as soon as they can be: the default order keeps every value until the end.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def channel_ranges(path: Path, names: Iterable[str], feeds: Iterable[Tensors]) -> dict[str, Floats]:
    """The largest absolute value per channel of the named tensors (B,C,H,W) over all feeds."""
    run = instrumented(path, {name: [0, 2, 3] for name in names})
    found: dict[str, Floats] = {}
    for sample in feeds:
        for name, largest in run(sample)[1].items():
            found[name] = np.maximum(found.get(name, largest), largest)
    return found
