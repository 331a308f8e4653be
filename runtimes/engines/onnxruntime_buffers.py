"""Inputs and outputs of an ONNX Runtime session at fixed addresses on its device.

A captured CUDA graph replays a run with the addresses it saw: whatever is fed must be copied there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from runtimes.bundle.manifest import Graph, Tensor
from runtimes.engines.base import Feeds, Tensors
from runtimes.errors import RunError


def has_fixed_shapes(graph: Graph) -> bool:
    """Whether every dimension of every input and output is a number."""
    return all(
        isinstance(size, int) for tensor in (*graph.inputs, *graph.outputs) for size in tensor.shape
    )


class FixedBuffers:
    """The buffers of one session, shared by all that is bound to it, and a binding to them."""

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
