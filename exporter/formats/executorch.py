"""One graph to an ExecuTorch program (.pte) through torch.export, for XNNPACK on CPUs.

What XNNPACK has no operator for runs in ExecuTorch's own kernels, between XNNPACK's parts. Shapes
are fixed: the program's memory is laid out when it is written.
"""

from pathlib import Path

import torch
from torch import nn

from exporter.dimensions import example_inputs
from exporter.formats.executorch_int8 import round_products
from exporter.graphs import GraphPlan
from runtimes.bundle.coreml import quiet

PROGRAM_NAME = "model.pte"


def write_executorch(
    plan: GraphPlan, module: nn.Module, folder: Path, *, dynamic: bool = False
) -> Path:
    """Write `module` as `folder`/model.pte, method 'forward', and return that path.

    `plan` must be static. Inputs and outputs have no names of their own: they come in the plan's
    order, in its types. With `dynamic`, products are rounded to 8 bits, in `module` as well.
    """
    inputs = example_inputs(plan)
    with quiet("executorch"), torch.no_grad():  # notices on import, too
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        if dynamic:
            round_products(module)
        program = torch.export.export(module, inputs)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        written = edge.to_executorch()
    folder.mkdir(parents=True)
    path = folder / PROGRAM_NAME
    with path.open("wb") as file:
        written.write_to_file(file)
    return path
