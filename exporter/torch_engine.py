"""The export-form modules as an engine: what the golden run is recorded with."""

from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack

import torch

from exporter.graphs import GraphPlan
from exporter.modules.islands import Island, keep_islands
from runtimes.engines.base import Engine, Feeds, Placement, Tensors


class TorchEngine:
    """One export-form module, its weights mapped from the checkpoint.

    In fp32; with `islands`, what is kept of that in fp16.
    """

    def __init__(self, plan: GraphPlan, islands: Collection[Island] | None = None) -> None:
        self._plan = plan
        self._stack = ExitStack()
        self._module = self._stack.enter_context(plan.module())
        if islands is not None:
            keep_islands(self._module.half(), islands)
        self.load_seconds = 0.0
        computed = "f32" if islands is None else "f16"
        self.placement = Placement(f"PyTorch {torch.__version__}", "CPU", computed)

    def run(self, feeds: Feeds) -> Tensors:
        inputs = [torch.from_numpy(feeds[tensor.name]) for tensor in self._plan.inputs]
        with torch.inference_mode():
            outputs = self._module(*inputs)
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        names = [tensor.name for tensor in self._plan.outputs]
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        return lambda feeds: self.run({**constants, **feeds})

    def close(self) -> None:
        del self._module
        self._stack.close()


class TorchGraphs:
    """A pipeline's graphs, from the checkpoint itself."""

    def __init__(self, plans: Iterable[GraphPlan]) -> None:
        self._plans = {plan.name: plan for plan in plans}

    def open(self, name: str) -> Engine:
        return TorchEngine(self._plans[name])
