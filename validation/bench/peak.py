"""This machine's peak: the best matrix product per precision, by OpenVINO, on CUDA by PyTorch."""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtimes.console import installed

# A chain of square products: what is converted at its ends does not count against it.
SIZES, LENGTH, RUNS = (1024, 2048), 4, 6
TORCH_SIZE = 8192
TORCH_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16", "int8": "INT8"}


def matrix_peaks(device: str = "cpu") -> dict[str, float]:
    """FLOP/s (int8: operations a second) by precision, best of several; none without OpenVINO."""
    if device != "cpu":
        return {name: max(_torch_rate(device, dtype) for _ in range(RUNS))
                for name, dtype in TORCH_TYPES.items()}  # fmt: skip
    if not installed("openvino"):
        return {}
    import openvino

    core = openvino.Core()
    has = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precisions = [name for name, capability in CAPABILITIES.items() if capability in has]
    return {name: max(_rate(core, name, size) for size in SIZES) for name in precisions}


def _rate(core: Any, precision: str, size: int) -> float:
    import openvino
    from openvino import opset13 as ops

    generator = np.random.default_rng(0)
    parameter = ops.parameter([size, size], np.float32)
    product = parameter
    for _ in range(LENGTH):
        values = generator.standard_normal((size, size), np.float32) * size**-0.5
        weight = ops.constant(values)
        if precision == "int8":  # as in quantised graphs: a scale a tensor, 256 and 255 levels
            product = ops.fake_quantize(product, *_range(-4, 4 * 127 / 128), 256)
            weight = ops.fake_quantize(weight, *_range(-4 * size**-0.5, 4 * size**-0.5), 255)
        product = ops.matmul(product, weight, False, False)
    hint = "f32" if precision == "int8" else precision
    model = openvino.Model([product], [parameter])
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    request = compiled.create_infer_request()
    request.infer([generator.standard_normal((size, size), np.float32)])
    return 2 * LENGTH * size**3 / min(_seconds(request) for _ in range(RUNS))


def _torch_rate(device: str, dtype: torch.dtype) -> float:
    """Of a chain of products that ends in one number on the host."""
    size = TORCH_SIZE
    weight = torch.randn(size, size).mul(size**-0.5).to(device, dtype)
    product = weight @ weight
    float(product[0, 0])
    start = time.perf_counter()
    for _ in range(LENGTH):
        product = product @ weight
    float(product[0, 0])
    return 2 * LENGTH * size**3 / (time.perf_counter() - start)


def _seconds(request: Any) -> float:
    start = time.perf_counter()
    request.infer()
    return time.perf_counter() - start


def _range(low: float, high: float) -> tuple[NDArray[np.float32], ...]:
    return tuple(np.array(value, np.float32) for value in (low, high, low, high))
