"""One graph to a LiteRT model (.tflite) through torch.export.

Shapes are fixed. The model has one signature, whose tensors have the names of the manifest.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from exporter.dimensions import example_inputs
from exporter.graphs import GraphPlan
from runtimes.bundle.coreml import quiet

MODEL_NAME = "model.tflite"


class Named(nn.Module):
    """A graph's module by the names of its inputs and outputs, which the signature takes over."""

    def __init__(self, plan: GraphPlan, module: nn.Module) -> None:
        super().__init__()
        self.inputs = [tensor.name for tensor in plan.inputs]
        self.outputs = [tensor.name for tensor in plan.outputs]
        self.module = module

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        outputs = self.module(*(tensors[name] for name in self.inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip(self.outputs, outputs, strict=True))


def write_litert(plan: GraphPlan, module: nn.Module, folder: Path) -> Path:
    """Write `module` as `folder`/model.tflite and return that path.

    `plan` must be static. Inputs and outputs are fp32, token ids and masks int32: the converter
    makes them so.
    """
    named = dict(zip((t.name for t in plan.inputs), example_inputs(plan), strict=True))
    folder.mkdir(parents=True)
    path = folder / MODEL_NAME
    with quiet("litert-torch"), torch.no_grad():  # notices on import, too
        import litert_torch

        litert_torch.convert(Named(plan, module).eval(), sample_kwargs=named).export(str(path))
    return path
