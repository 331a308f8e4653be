"""Epsilon's error when single weights of the fp32 graph are rounded: one session for all of them.

A graph's constants that are its inputs, too, can be given other values for a run. So nothing is
written and nothing loaded again, as it would be to quantise one weight after another.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from quantization.instrumented import open_session
from quantization.onnx_files import load
from runtimes.engines.base import Tensors

Rounding = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]


class RoundedAlone:
    """The graph at `path`, whose `weights` can be rounded for one run."""

    def __init__(self, path: Path, weights: Collection[str], rounding: Rounding) -> None:
        model = onnx_ir.load(path)
        for name in weights:
            model.graph.inputs.append(model.graph.initializers[name])
        self._session = open_session(model, path.parent)
        self._values = load(path).graph.initializers
        self._rounding = rounding

    def run(
        self,
        weights: Sequence[str],
        feeds: Sequence[Tensors],
        on_run: Callable[[], None] = lambda: None,
    ) -> list[NDArray[np.float32]]:
        """Epsilon of each feed with these weights rounded."""
        given, epsilons = {name: self._rounded(name) for name in weights}, []
        for feed in feeds:
            epsilons.append(np.asarray(self._session.run(["epsilon"], {**feed, **given})[0]))
            on_run()
        return epsilons

    def _rounded(self, name: str) -> NDArray[np.float32]:
        tensor = self._values[name].const_value
        assert tensor is not None
        return self._rounding(name, np.asarray(tensor.numpy(), np.float32))
