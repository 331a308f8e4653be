"""ONNX Runtime, on the CPU or on CUDA with the condition tensors kept on the device."""

import contextlib
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.bundle.manifest import Graph, Tensor
from runtimes.engines.base import (
    Engine,
    Execution,
    Feeds,
    Footprint,
    GraphFile,
    Placement,
    Tensors,
    check_inputs,
    no_such_options,
)
from runtimes.engines.onnxruntime_device import (
    PROVIDERS,
    computed_precision,
    has_fixed_shapes,
    import_onnxruntime,
    provider_for,
    provider_options,
    split_device,
)
from runtimes.errors import RunError, UsageError, one_line

# What takes a denoiser's time: none of these may end up on another device than the one asked for.
HEAVY_OPS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "Attention",
             "MultiHeadAttention", "LayerNormalization", "Softmax", "QLinearConv", "ConvInteger",
             "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"}  # fmt: skip
# fp32 weights are packed anew, fp16 ones widened more than once. Integers are held once, packed as
# their kernels read them, with a scale a block; embeddings stay in the mapped file.
# fp16-weights was measured on twelve layers of Stage C's width (fp16 there: 4.9).
FOOTPRINT = Footprint(
    {
        "fp32": 1.3,
        "fp16": 4.7,
        "fp16-weights": 5.3,
        "int8": 1.2,
        "int8-dynamic": 1.2,
        "int8-weights": 1.2,
        "int4-weights": 1.3,
        "mixed-bits": 1.3,
    },
    positions=1.6,
    # Sixteen products of Stage C's widths, 0.1 to 0.6 GB: ORT format is read into memory and its
    # weights copied from there, where those of an ONNX file are mapped (docs/performance.md).
    whole={
        "fp32": (1.3, 2.1),
        "int8": (1.6, 2.5),
        "int8-dynamic": (1.6, 2.5),
        "int8-weights": (2.3, 3.1),
        "int4-weights": (2.6, 3.3),
    },
)
FUSED_ATTENTION = {"Attention", "MultiHeadAttention"}
# Bundles made before products said so in their nodes: MatMulNBits, which ONNX Runtime makes of
# integer weights in front of a MatMul, rounds activations to int8 unless told otherwise (level 4):
# 9e-3 off in a condition graph. Level 1 is fp32.
NBITS_LEVEL = ("session.qdq_matmulnbits_accuracy_level", "1")


def open_graph(file: GraphFile, execution: Execution) -> Engine:
    """A graph in a session of its own."""
    return OnnxRuntimeEngine(file, execution)


def check(execution: Execution) -> None:
    """UsageError when ONNX Runtime, or this build of it, does not have what is asked for."""
    no_such_options("ONNX Runtime", execution)
    provider_for(import_onnxruntime(), execution.device)


def footprint(execution: Execution) -> Footprint:
    """What it takes of the CPU's memory, whatever is asked for."""
    return FOOTPRINT


class OnnxRuntimeEngine:
    """One ONNX graph in an InferenceSession.

    On CUDA, a denoiser of fixed shapes is captured at its first run and replayed from then on.
    """

    def __init__(self, file: GraphFile, execution: Execution) -> None:
        start = time.perf_counter()
        graph = file.graph
        self._ort = import_onnxruntime()
        self._device, self._index = split_device(execution.device)
        self._session = self._open(file, execution)
        self._check_heavy_nodes(file.path, PROVIDERS[self._device])
        name = f"ONNX Runtime {self._ort.__version__}"
        operators = self._operators()
        precision = computed_precision(graph.precision, self._device, operators)
        notes = self._notes(graph, operators)
        self.placement = Placement(name, execution.device.upper(), precision, notes)
        self._outputs = [tensor.name for tensor in graph.outputs]
        self._inputs = {tensor.name for tensor in graph.inputs}
        self._buffers = (
            FixedBuffers(self._ort, self._session, graph, self._device, self._index)
            if has_fixed_shapes(graph)
            else None
        )
        self.load_seconds = time.perf_counter() - start

    def _open(self, file: GraphFile, execution: Execution) -> Any:
        """The session, on the provider asked for alone."""
        provider = provider_for(self._ort, execution.device)
        if self._device == "cuda":
            with contextlib.redirect_stdout(sys.stderr):  # where it says what it did not find
                self._ort.preload_dlls()  # CUDA and cuDNN from pip's packages, where they are
        options = self._ort.SessionOptions()
        options.log_severity_level = 4  # fatal ones: errors are raised, in one line of our own
        options.intra_op_num_threads = execution.threads or 0  # 0: one a core
        # Laying a run out ahead takes a second block beside the arena's own: twice the memory from
        # the second run on (docs/performance.md), and on the CPU not a millisecond less.
        options.enable_mem_pattern = self._device != "cpu"
        options.add_session_config_entry(*NBITS_LEVEL)
        # Without this entry the session cannot be asked where its nodes went.
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers = [(provider, provider_options(file.graph, self._device, self._index))]
        try:
            return self._ort.InferenceSession(str(file.path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise RunError(f"ONNX Runtime cannot load {file.path}: {one_line(error)}") from error

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        # A dict of this binding's own: the buffers know by it whose constants they hold.
        kept = dict(constants)
        bound = self._bind_open(kept) if self._buffers is None else self._buffers.bind(kept)

        def run(feeds: Feeds) -> Tensors:
            check_inputs(self._inputs, kept, feeds)
            try:
                return bound(feeds)
            except RunError:
                raise
            except Exception as error:  # as above: no base class
                raise RunError(f"ONNX Runtime failed: {one_line(error)}") from error

        return run

    def _bind_open(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        """For shapes that may change from run to run: outputs are placed anew in each."""
        binding = self._session.io_binding()
        kept = {name: self._on_device(value) for name, value in constants.items()}
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)

        def run(feeds: Feeds) -> Tensors:
            for name, value in feeds.items():
                binding.bind_cpu_input(name, value)
            for name in self._outputs:  # anew: their shapes follow from the inputs' each time
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))

        return run

    def close(self) -> None:
        # A session has no `close`: it goes with the last reference to it.
        del self._buffers, self._session

    def _on_device(self, value: Any) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(value, self._device, self._index)

    def _operators(self) -> list[str]:
        """Each node's operator, as the nodes were when they were given to providers."""
        parts = self._session.get_provider_graph_assignment_info()
        return [node.op_type for part in parts for node in part.get_nodes()]

    def _notes(self, graph: Graph, operators: Collection[str]) -> tuple[str, ...]:
        """What a user wants to see to be so: fused attention, a captured CUDA graph."""
        fused = sum(kind in FUSED_ATTENTION for kind in operators)
        captured = "enable_cuda_graph" in provider_options(graph, self._device)
        return (*[f"{fused} fused attention"] * (fused > 0), *["CUDA graph"] * captured)

    def _check_heavy_nodes(self, path: Path, provider: str) -> None:
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


class FixedBuffers:
    """Inputs and outputs of a session at fixed addresses on its device, and a binding to them.

    They are shared by all that is bound to the session: a captured CUDA graph replays a run with
    the addresses it saw, so whatever is fed must be copied there.
    """

    def __init__(self, ort: Any, session: Any, graph: Graph, device: str, index: int) -> None:
        def buffer(tensor: Tensor) -> Any:
            dtype = np.dtype(tensor.dtype)
            return ort.OrtValue.ortvalue_from_shape_and_type(tensor.shape, dtype, device, index)

        self._session = session
        self._tensors = {tensor.name: tensor for tensor in graph.inputs}
        self._binding = session.io_binding()
        self._inputs = {tensor.name: buffer(tensor) for tensor in graph.inputs}
        self._outputs = {tensor.name: buffer(tensor) for tensor in graph.outputs}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._constants: Feeds | None = None  # whose constants the buffers hold now

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        """A run with some inputs fixed; they are copied again only after another one's run."""

        def run(feeds: Feeds) -> Tensors:
            if self._constants is not constants:
                self._fill(constants)
                self._constants = constants
            self._fill(feeds)
            self._session.run_with_iobinding(self._binding)
            # Copies: the next replay writes to the same addresses.
            return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

        return run

    def _fill(self, feeds: Feeds) -> None:
        for name, value in feeds.items():
            tensor = self._tensors[name]
            # What fits the buffer's bytes would be copied, whatever its type and shape.
            if (str(value.dtype), value.shape) != (tensor.dtype, tensor.shape):
                raise RunError(
                    f"'{name}' is {value.dtype} {list(value.shape)}, the graph takes "
                    f"{tensor.dtype} {list(tensor.shape)}"
                )
            self._inputs[name].update_inplace(np.ascontiguousarray(value))
