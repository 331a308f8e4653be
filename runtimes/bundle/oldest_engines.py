"""The oldest version of each engine that graphs of a kind were run on.

Measured on the demo bundle and its quantised ones: every graph and every recorded step of the
golden run fed to the engine's wheel from PyPI by itself, the error that of the newest version. What
is not here was not tried. `runtimes/` itself asks more of ONNX Runtime: 1.24 (pyproject.toml).
"""

from runtimes.bundle.manifest import Graph, Quantization

OPSET = 18  # of the graphs that were measured
# 1.15.1 is the oldest wheel for this Python. The next older one that was tried: for int8 and
# int8-dynamic 1.15.1, Stage B 30 % off; for int4-weights 1.16.3, which does not load MatMulNBits.
_ONNX_RUNTIME = {
    "fp32": "1.15.1",
    "fp16": "1.15.1",
    "int8": "1.16.3",
    "int8-dynamic": "1.16.3",
    "int8-weights": "1.23.0",
    "int4-weights": "1.17.0",
}
# MatMulNBits of eight bits, which searched plans put into graphs of other recipes, too: 1.22.1 has
# it for rounded activations alone.
_EIGHT_BIT_BLOCKS = "1.23.0"
_OPENVINO = "2026.4.1"  # the only one that was tried


def oldest_engines(
    backend: str, graph: Graph, opset: int | None, done: Quantization | None
) -> dict[str, str]:
    """Engine and version, for a graph of an ONNX `opset` that quantisation did this to."""
    if backend == "openvino":
        return {"openvino": _OPENVINO}
    if backend != "onnx" or opset != OPSET or graph.precision not in _ONNX_RUNTIME:
        return {}
    blocks = [w for w in done.weights if w.kernel == "MatMulNBits"] if done else []
    widest = any(weight.stored.startswith("int8") for weight in blocks)
    version = _EIGHT_BIT_BLOCKS if widest else _ONNX_RUNTIME[graph.precision]
    return {"onnxruntime": version, "openvino": _OPENVINO}
