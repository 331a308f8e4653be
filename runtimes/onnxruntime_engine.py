"""ONNX Runtime, on the CPU or on CUDA with the condition tensors kept on the device."""

import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from runtimes.engine import COMPUTED, Feeds, GraphFile, Placement, Tensors
from runtimes.errors import RunError, UsageError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# What takes a denoiser's time: none of these may end up on another device than the one asked for.
HEAVY_OPS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "Attention",
             "MultiHeadAttention", "LayerNormalization", "Softmax"}  # fmt: skip


class OnnxRuntimeEngine:
    """One ONNX graph in an InferenceSession."""

    def __init__(self, file: GraphFile, device: str) -> None:
        self._ort = _import_onnxruntime()
        self._device = device
        path, graph = file.path, file.graph
        start = time.perf_counter()
        provider = _provider(self._ort, device)
        if device == "cuda":
            self._ort.preload_dlls()  # CUDA and cuDNN from pip's packages, where they are
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session = self._ort.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise RunError(f"ONNX Runtime cannot load {path}: {_one_line(error)}") from error
        self._check_device(path, provider)
        used = COMPUTED.get(graph.precision, "f32")  # integer weights are widened first
        self.load_seconds = time.perf_counter() - start
        self.placement = Placement(f"ONNX Runtime {self._ort.__version__}", device.upper(), used)
        self._outputs = [tensor.name for tensor in graph.outputs]
        self._inputs = {tensor.name for tensor in graph.inputs}

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        binding = self._session.io_binding()
        kept = {name: self._on_device(value) for name, value in constants.items()}
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)

        def run(feeds: Feeds) -> Tensors:
            missing = self._inputs - kept.keys() - feeds.keys()
            if missing:
                raise RunError(f"the graph needs inputs that were not given: {sorted(missing)}")
            for name, value in feeds.items():
                binding.bind_cpu_input(name, value)
            for name in self._outputs:  # bound anew: the shapes may have changed
                binding.bind_output(name, "cpu")
            try:
                self._session.run_with_iobinding(binding)
            except Exception as error:
                raise RunError(f"ONNX Runtime failed: {_one_line(error)}") from error
            return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))

        return run

    def close(self) -> None:
        del self._session

    def _on_device(self, value: Any) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(value, self._device, 0)

    def _check_device(self, path: Path, provider: str) -> None:
        """The asked-for device or an error: ONNX Runtime falls back to the CPU on its own."""
        if provider not in self._session.get_providers():
            raise UsageError(
                f"--device {self._device}: ONNX Runtime could not start {provider} (is the GPU "
                "driver there, and CUDA and cuDNN of the version onnxruntime-gpu was built for?)"
            )
        elsewhere = [
            f"{node.op_type} '{node.name}'"
            for part in self._session.get_provider_graph_assignment_info()
            if part.ep_name != provider
            for node in part.get_nodes()
            if node.op_type in HEAVY_OPS
        ]
        if elsewhere:
            raise UsageError(
                f"--device {self._device}: {len(elsewhere)} heavy nodes of {path.parent.name} "
                f"would not run on {provider}, the first of them {elsewhere[0]}"
            )


def check_device(device: str) -> None:
    """UsageError when ONNX Runtime, or this build of it, cannot run on `device`."""
    _provider(_import_onnxruntime(), device)


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            "onnxruntime is not installed: pip install 'wuerstchen-export[cpu]' (or [cuda])"
        ) from None
    return onnxruntime


def _provider(ort: Any, device: str) -> str:
    installed = ort.get_available_providers()
    if device not in PROVIDERS:
        raise UsageError(f"--device {device}: ONNX Runtime bundles run on {', '.join(PROVIDERS)}")
    if PROVIDERS[device] not in installed:
        twice = " (onnxruntime and onnxruntime-gpu are both installed, and hide each other: " \
                "uninstall both, then install one)" if _both_installed() else ""  # fmt: skip
        raise UsageError(
            f"--device {device} needs {PROVIDERS[device]}; this onnxruntime has "
            f"{', '.join(installed)}{twice}; pip install 'wuerstchen-export[{device}]'"
        )
    return PROVIDERS[device]


def _both_installed() -> bool:
    names = {str(found.metadata["Name"]).lower() for found in metadata.distributions()}
    return {"onnxruntime", "onnxruntime-gpu"} <= names


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
