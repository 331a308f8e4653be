"""What ONNX Runtime runs a graph on: provider, its options, and the precision it computes in."""

import platform
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from runtimes.bundle.manifest import Graph
from runtimes.console import imported
from runtimes.engines.base import unknown_precision
from runtimes.errors import UsageError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# What products of graphs of these precisions compute in on a CPU; fp16 also depends on the CPU.
COMPUTED = {
    "fp32": "f32",
    "fp16": "f32",
    "fp16-weights": "f32",
    "int8": "int8",
    "int8-dynamic": "int8",
    "int8-weights": "f32",
    "int4-weights": "f32",
    "mixed-bits": "f32",
}


def import_onnxruntime() -> Any:
    """onnxruntime, of whichever package; UsageError where there is none."""
    return imported("onnxruntime", "cpu", other=" (or [cuda])")


def provider_for(ort: Any, named: str) -> str:
    """The execution provider that `--device` names; UsageError when this build has it not."""
    available, device = ort.get_available_providers(), split_device(named)[0]
    if device not in PROVIDERS:
        raise UsageError(f"--device {named}: ONNX Runtime bundles run on {', '.join(PROVIDERS)}")
    if PROVIDERS[device] not in available:
        twice = ""
        if _both_installed():
            twice = (
                " (onnxruntime and onnxruntime-gpu are both installed, and hide each other: "
                "uninstall both, then install one)"
            )
        raise UsageError(
            f"--device {named} needs {PROVIDERS[device]}; this onnxruntime has "
            f"{', '.join(available)}{twice}; pip install 'wuerstchen-export[{device}]'"
        )
    return PROVIDERS[device]


def _both_installed() -> bool:
    """Whether two packages brought the same module: pip lets them overwrite each other."""
    names = {str(package.metadata["Name"]).lower() for package in metadata.distributions()}
    return {"onnxruntime", "onnxruntime-gpu"} <= names


def split_device(text: str) -> tuple[str, int]:
    """What `--device` names: 'cuda:1' is CUDA's second GPU, a name alone the first one."""
    name, colon, index = text.lower().partition(":")
    if colon and not (name == "cuda" and index.isdecimal()):
        raise UsageError(f"--device {text}: ONNX Runtime numbers GPUs only, such as cuda:0")
    return name, int(index or 0)


def provider_options(graph: Graph, device: str, index: int = 0) -> dict[str, str]:
    """Options of a graph's execution provider on the GPU `index`.

    TF32 keeps 10 bits of fp32's 23: an fp32 bundle would miss its limits. Shapes that change
    cannot be captured.
    """
    if device != "cuda":
        return {}
    steps = any(tensor.name == "epsilon" for tensor in graph.outputs)  # the others run once
    captured = {"enable_cuda_graph": "1"} if steps and has_fixed_shapes(graph) else {}
    return {"use_tf32": "0"} | ({"device_id": str(index)} if index else {}) | captured


def has_fixed_shapes(graph: Graph) -> bool:
    """Whether every dimension of every input and output is a number."""
    return all(
        isinstance(size, int) for tensor in (*graph.inputs, *graph.outputs) for size in tensor.shape
    )


def computed_precision(stored: str, device: str, operators: Collection[str] = ()) -> str:
    """What a graph's products compute in, from the precision it is stored in.

    The CPU provider has fp16 kernels on ARM64 only: elsewhere each node is widened. Graphs whose
    weights alone are integers have sums and results in fp32. `operators` are those of the graph's
    nodes: bundles made before products were matrices round activations to int8 in front of
    convolutions, for which there is no int8 kernel. RunError for a precision that no bundle of this
    version has.
    """
    rounded, matrices = (list(operators).count(kind) for kind in ("QuantizeLinear", "MatMul"))
    if stored == "int8" and rounded > matrices:
        return "f32"
    if stored == "fp16" and (device != "cpu" or has_half_arithmetic()):
        return "f16"
    if stored not in COMPUTED:
        raise unknown_precision(stored)
    return COMPUTED[stored]


def cpu_flags() -> frozenset[str]:
    """What this CPU says it can do, in Linux's names; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, ":").split(":", 1)[1].split())


def has_half_arithmetic() -> bool:
    """Whether this is an ARM64 CPU that computes in fp16 (FEAT_FP16; every Apple chip does).

    Where the system does not list features the architecture decides.
    """
    flags = cpu_flags()
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return arm and (not flags or "asimdhp" in flags)
