"""An ONNX graph that also says how large the values inside it get."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from runtimes.engine import Feeds, Tensors

Floats = NDArray[np.float32]
Run = Callable[[Feeds], tuple[Tensors, dict[str, Floats]]]


def instrumented(path: Path, axes: Mapping[str, list[int]]) -> Run:
    """Load the graph at `path` with a largest absolute value for each tensor in `axes`.

    The maximum is taken over the given axes (none: over all). A run returns the graph's own
    outputs and those maxima. Weights stay in their file: graphs over 2 GB work.
    """
    import onnxruntime

    model = onnx.load(path, load_external_data=False)
    outputs = [value.name for value in model.graph.output]
    for name, over in axes.items():
        inputs = [f"{name}_abs"]
        if over:
            inputs.append(f"{name}_axes")
            tensor = helper.make_tensor(inputs[1], onnx.TensorProto.INT64, [len(over)], over)
            model.graph.initializer.append(tensor)
        model.graph.node.append(helper.make_node("Abs", [name], inputs[:1]))
        model.graph.node.append(
            helper.make_node("ReduceMax", inputs, [f"{name}_range"], keepdims=0)
        )
        value = helper.make_tensor_value_info(f"{name}_range", onnx.TensorProto.FLOAT, None)
        model.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Maxima are taken as soon as they can be: the default order keeps every value until the end.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent)
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(feeds: Feeds) -> tuple[Tensors, dict[str, Floats]]:
        names = [*outputs, *(f"{name}_range" for name in axes)]
        values = session.run(names, dict(feeds))
        ranges = dict(zip(axes, values[len(outputs) :], strict=True))
        return dict(zip(outputs, values[: len(outputs)], strict=True)), ranges

    return run


def channel_ranges(path: Path, names: Iterable[str], feeds: Iterable[Tensors]) -> dict[str, Floats]:
    """The largest absolute value per channel of the named tensors (B,C,H,W) over all feeds."""
    run = instrumented(path, {name: [0, 2, 3] for name in names})
    found: dict[str, Floats] = {}
    for sample in feeds:
        for name, largest in run(sample)[1].items():
            found[name] = np.maximum(found.get(name, largest), largest)
    return found
