"""Graphs of fixed size: what every named dimension is for one picture size and batch."""

import dataclasses
from collections.abc import Mapping, Sequence

from exporter.dimensions import numbers
from exporter.graphs import GraphPlan
from runtimes.manifest import Sampling, Tensor
from runtimes.options import batch_rows
from runtimes.sizes import Sizes


def close(plan: GraphPlan, sizes: Sequence[Mapping[str, int]]) -> GraphPlan:
    """The plan with every dimension that is the same at all `sizes` as its number.

    One size makes it static, none leaves it as it is.
    """

    def fixed(tensor: Tensor) -> Tensor:
        values = zip(*(numbers(tensor, named) for named in sizes), strict=True)
        pairs = zip(tensor.shape, values, strict=True)
        shape = tuple(found[0] if len(set(found)) == 1 else name for name, found in pairs)
        return Tensor(tensor.name, tensor.dtype, shape)

    if not sizes:
        return plan
    inputs, outputs = (tuple(map(fixed, tensors)) for tensors in (plan.inputs, plan.outputs))
    return dataclasses.replace(plan, inputs=inputs, outputs=outputs)


def named_sizes(plan: GraphPlan, batch: int, constants: Sampling, size: Sizes) -> dict[str, int]:
    """Batch and sides of a graph for `batch` pictures of one size, guidance as by default."""
    scales = constants.stage_c.guidance, constants.stage_b.guidance
    height, width = size.stage_c if plan.name == "stage_c" else size.stage_b
    return {
        "batch": batch_rows(plan.name, batch, *scales),
        "height": height,
        "width": width,
        "embedding_height": size.stage_c[0],
        "embedding_width": size.stage_c[1],
    }
