"""A graph through ONNX Runtime's optimisations, written in its own format or as ONNX.

'extended' has the fused operators that ONNX Runtime has on every CPU; 'basic' keeps to ONNX's own
operators, which accelerators (NNAPI, Core ML, XNNPACK) take over. Neither lays convolutions out for
this machine's vectors (NCHWc), as the level above them does.
"""

from collections import Counter
from pathlib import Path

import onnxruntime

from runtimes.bundle.manifest import Quantization
from runtimes.bundle.ort_format import nodes_of, open_model
from runtimes.errors import RunError, one_line

_LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
# With fixed shapes, this one puts products of integers between roundings into Gemm in fp32.
_GEMM = "MatMulAddFusion"


def write_ort(source: Path, target: Path, level: str, done: Quantization | None) -> None:
    """Write the ONNX graph `source` in ORT format.

    `done`: what quantisation did to it. RunError where ONNX Runtime does not take the graph, or
    would compute products of integers in fp32.
    """
    # The format is for any CPU, and this one's need of unsigned integers is none of a phone's.
    config = {"session.save_model_format": "ORT", "session.qdqisint8allowed": "1"}
    _optimise(source, target, level, config, integers=bool(done and done.kernels))
    if level == "extended" and done is not None:
        _check_kernels(source, target, done.kernels)


def write_optimised(source: Path, target: Path, level: str, done: Quantization | None) -> None:
    """The same as an ONNX graph, its weights in a file beside it."""
    config = {"session.optimized_model_external_initializers_file_name": f"{target.name}.data"}
    _optimise(source, target, level, config, integers=bool(done and done.kernels))


def operators(path: Path) -> Counter[str]:
    """How many nodes of each operator a graph in ORT format has."""
    return Counter(node.get("op_type", "") for node in nodes_of(open_model(path)))


def _optimise(
    source: Path, target: Path, level: str, config: dict[str, str], *, integers: bool
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal ones: errors are raised, in one line of our own
    options.graph_optimization_level = _LEVELS[level]
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")  # nothing is run
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(
            str(source),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[_GEMM] if integers else [],
        )
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise RunError(f"ONNX Runtime cannot convert {source}: {one_line(error)}") from error


def _check_kernels(source: Path, target: Path, kernels: dict[str, int]) -> None:
    found = operators(target)
    for name, count in kernels.items():
        if found[name] < count:
            raise RunError(
                f"{source.parent.name}: {count - found[name]} of {count} products of integers "
                f"({name}) would run in fp32 in this ONNX Runtime"
            )
