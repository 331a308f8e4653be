"""What is timed on: the CPU with all engines, or a CUDA GPU with PyTorch and ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from runtimes.engines.base import Execution
from runtimes.engines.table import ENGINES
from runtimes.errors import UsageError


@dataclass(frozen=True)
class Form:
    """How the public model's graphs are exported to be timed."""

    precision: str = "fp32"
    fused_attention: bool = False
    static: bool = False


@dataclass(frozen=True)
class Device:
    """Where things run: our graphs' form, the engines, and what PyTorch's modules are rounded to.

    `autocast`: whether PyTorch's bf16 autocast is timed; `compiled`: the type torch.compile gets.
    """

    name: str
    form: Form
    executions: Mapping[str, Execution]
    rounded: Mapping[str, torch.dtype]
    autocast: bool
    compiled: torch.dtype


DEVICES = {
    "cpu": Device(
        "cpu",
        Form(),
        {
            "ONNX Runtime": Execution(engine="onnxruntime"),
            "OpenVINO f32": Execution(engine="openvino", precision="f32"),
            "OpenVINO bf16": Execution(engine="openvino", precision="bf16"),
            "OpenVINO f16": Execution(engine="openvino", precision="f16"),
            "Core ML": Execution(engine="coreml"),
        },
        {},
        autocast=True,
        compiled=torch.float32,
    ),
    "cuda": Device(
        "cuda",
        Form("fp16", fused_attention=True, static=True),
        {"ONNX Runtime CUDA": Execution(device="cuda", engine="onnxruntime")},
        {"PyTorch fp16": torch.float16, "PyTorch bf16": torch.bfloat16},
        autocast=False,
        compiled=torch.float16,
    ),
}


def check_device(name: str) -> None:
    """UsageError when PyTorch or ONNX Runtime cannot run on it."""
    if name != "cuda":
        return
    if not torch.cuda.is_available():
        raise UsageError(
            f"--device cuda: PyTorch {torch.__version__} finds no CUDA GPU; bench needs a GPU, its "
            "driver, and PyTorch built for CUDA"
        )
    for execution in DEVICES[name].executions.values():
        ENGINES[execution.engine or ""].check(execution)


def device_name(name: str) -> str:
    """The GPU's name; empty for the CPU."""
    return torch.cuda.get_device_name() if name == "cuda" else ""
