"""Which of ONNX Runtime's kernels multiplies each integer weight: read from its optimised graph.

A pattern that is written for a kernel and not recognised still computes the same, in fp32 from
weights that are widened at every run: slower than no quantisation, and nothing says so.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir

from quantization.onnx_files import STORED
from runtimes.bundle.manifest import Weight
from runtimes.errors import RunError

# The form that is written -> what ONNX Runtime makes of it. Products that share a dynamic range
# have it measured once, by a node of its own.
KERNELS: Mapping[str, tuple[str, ...]] = {
    "MatMulNBits": ("MatMulNBits",),
    "MatMulIntegerToFloat": ("MatMulIntegerToFloat",),
    "DynamicQuantizeMatMul": ("DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
}


def with_kernels(path: Path, weights: Sequence[Weight]) -> list[Weight]:
    """The weights of the graph at `path` with the kernels that take them.

    Raises RunError for a weight whose kernel is none of those it was written for.
    """
    aims = {weight.name: weight.kernel for weight in weights if weight.kernel}
    if not aims:
        return list(weights)
    ran = kernels(path)
    missed = [name for name, aim in aims.items() if ran.get(name, "") not in KERNELS[aim]]
    if missed:
        name = missed[0]
        raise RunError(
            f"{path.parent.name}: {len(missed)} of {len(aims)} integer products do not run as such "
            f"in this ONNX Runtime: '{name}', written for {aims[name]}, runs in "
            f"{ran.get(name) or 'fp32'}"
        )
    return [
        dataclasses.replace(weight, kernel=ran.get(weight.name, "") if weight.kernel else "")
        for weight in weights
    ]


def kernels(path: Path) -> dict[str, str]:
    """The operator that takes each integer weight of the graph at `path`, by the weight's name.

    ONNX Runtime's fusions for the CPU are made as a session is built; without its weights' packing
    that takes about as long as reading the file.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimised)
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimised.name}.data"
        )
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return _integer_inputs(onnx_ir.load(optimised))


def _integer_inputs(model: onnx_ir.Model) -> dict[str, str]:
    used = {}
    for node in model.graph:
        for value in node.inputs:
            match = None if value is None or value.name is None else STORED.fullmatch(value.name)
            if match:
                used[match["weight"]] = node.op_type
    return used
