"""The oldest version of each engine that graphs of a kind were run on.

Measured on the demo bundle and its quantised ones: every graph and every recorded step of the
golden run fed to the engine's wheel from PyPI by itself, the error that of the newest version. What
is not here was not tried. `runtimes/` itself asks more of ONNX Runtime: 1.24 (pyproject.toml).
"""

from runtimes.bundle.manifest import Graph, Quantization

OPSET = 18  # of the ONNX graphs that were measured
# By the precision a graph is stored in. ONNX Runtime: 1.15.1 is the oldest wheel for this Python;
# with it, Stage B in int8 was 30 % off; 1.16.3 does not load MatMulNBits. OpenVINO: tried were
# 2024.6.0, 2025.2.0 and 2026.4.1; only the last has the int8 graphs' MultiHeadAttention.
_ONNX = {
    "fp32": {"onnxruntime": "1.15.1", "openvino": "2024.6.0"},
    "fp16": {"onnxruntime": "1.15.1", "openvino": "2025.2.0"},
    "fp16-weights": {"onnxruntime": "1.15.1", "openvino": "2025.2.0"},
    "int8": {"onnxruntime": "1.16.3", "openvino": "2026.4.1"},
    "int8-dynamic": {"onnxruntime": "1.16.3", "openvino": "2026.4.1"},
    "int8-weights": {"onnxruntime": "1.23.0", "openvino": "2025.2.0"},
    "int4-weights": {"onnxruntime": "1.17.0", "openvino": "2025.2.0"},
}
# MatMulNBits of eight bits, which searched plans put into graphs of other recipes, too: 1.22.1 has
# it for rounded activations alone.
_EIGHT_BIT_BLOCKS = {"onnxruntime": "1.23.0"}
# The only ones that were tried: of IR, programs and models.
_TRIED = {
    "openvino": {"openvino": "2026.4.1"},
    "executorch": {"executorch": "1.5.1"},
    "litert": {"litert": "2.3.0"},
}


def oldest_engines(
    backend: str, graph: Graph, opset: int | None, done: Quantization | None
) -> dict[str, str]:
    """Engine and version, for a graph of an ONNX `opset` that quantisation did this to."""
    if backend in _TRIED:
        return _TRIED[backend]
    if graph.is_ort:
        return {}
    if backend != "onnx" or opset != OPSET or graph.precision not in _ONNX:
        return {}
    blocks = [weight for weight in done.weights if weight.kernel == "MatMulNBits"] if done else []
    eight_bits = any(weight.stored.startswith("int8") for weight in blocks)
    return _ONNX[graph.precision] | (_EIGHT_BIT_BLOCKS if eight_bits else {})
