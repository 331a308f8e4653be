"""An ONNX graph that also says how large the values inside it get."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import DataType, Graph, Model, Node, TensorType, Value
from onnx_ir.convenience import create_value_mapping

from quantization.onnx_files import add_initializer, real_locations
from runtimes.engines.base import Feeds, Tensors

Floats = NDArray[np.float32]
Run = Callable[[Feeds], tuple[Tensors, dict[str, Floats]]]


def instrumented(path: Path, axes: Mapping[str, list[int]]) -> Run:
    """Load the graph at `path` with a largest absolute value for each tensor in `axes`.

    The maximum is taken over the given axes (none: over all). A run returns the graph's own
    outputs and those maxima. Weights stay in their file: graphs over 2 GB work.
    """
    model = onnx_ir.load(path)
    outputs = [value.name or "" for value in model.graph.outputs]
    values = create_value_mapping(model.graph)
    for name, over in axes.items():
        absolute = append(model.graph, "Abs", [values[name]], f"{name}_abs", {})
        _reduce(model.graph, "ReduceMax", absolute, f"{name}_range", over)
    session = open_session(model, path.parent)

    def run(feeds: Feeds) -> tuple[Tensors, dict[str, Floats]]:
        names = [*outputs, *(f"{name}_range" for name in axes)]
        results = session.run(names, dict(feeds))
        ranges = dict(zip(axes, results[len(outputs) :], strict=True))
        return dict(zip(outputs, results[: len(outputs)], strict=True)), ranges

    return run


def channel_extremes(
    path: Path, names: Collection[str], feeds: Iterable[Tensors]
) -> dict[str, tuple[Floats, Floats]]:
    """The least and the largest value per channel, (C,), of the named tensors over all feeds.

    Channels are axis 1 of pictures (B,C,H,W), the last of everything else.
    """
    model = onnx_ir.load(path)
    values = create_value_mapping(model.graph)
    for name in names:
        shape = values[name].shape
        assert shape is not None
        channels = 1 if len(shape) == 4 else len(shape) - 1
        over = [axis for axis in range(len(shape)) if axis != channels]
        _reduce(model.graph, "ReduceMin", values[name], f"{name}_least", over)
        _reduce(model.graph, "ReduceMax", values[name], f"{name}_largest", over)
    session = open_session(model, path.parent)
    ends: dict[str, tuple[Floats, Floats]] = {}
    wanted = [f"{name}_{which}" for which in ("least", "largest") for name in names]
    for sample in feeds:
        rows = session.run(wanted, dict(sample))
        for name, least, largest in zip(names, rows, rows[len(names) :], strict=False):
            low, high = ends.get(name, (least, largest))
            ends[name] = (np.minimum(low, least), np.maximum(high, largest))
    return ends


def _reduce(graph: Graph, kind: str, value: Value, name: str, over: list[int]) -> None:
    """Have the graph give a reduction of a tensor over some axes (none: over all), too."""
    inputs = [value]
    if over:
        axes = onnx_ir.tensor(np.array(over, np.int64), name=f"{name}_axes")
        inputs.append(add_initializer(graph, axes))
    graph.outputs.append(append(graph, kind, inputs, name, {"keepdims": 0}))


def append(
    graph: Graph, kind: str, inputs: list[Value], name: str, attributes: Mapping[str, int]
) -> Value:
    """The fp32 result, called `name`, of a new node at the end of a graph."""
    integers = [onnx_ir.AttrInt64(key, value) for key, value in attributes.items()]
    node = Node("", kind, inputs, integers, name=name)
    graph.append(node)
    node.outputs[0].name, node.outputs[0].type = name, TensorType(DataType.FLOAT)
    return node.outputs[0]


def open_session(model: Model, folder: Path) -> Any:
    """A session of a graph whose external data lies in `folder`."""
    import onnxruntime

    proto = onnx_ir.to_proto(model)  # names the files of its weights, and reads none
    folder = real_locations(proto, folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Maxima are taken as soon as they can be: the default order keeps every value until the end.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
