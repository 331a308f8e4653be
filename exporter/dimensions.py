"""The named dimensions of a graph plan: fixed as numbers, traced at examples, open as symbols.

Their names and spelling are in runtimes.dimensions, for a bundle's readers need them too.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch.export import Dim

from exporter.graphs import GraphPlan
from runtimes.bundle.manifest import Sampling, Tensor
from runtimes.dimensions import (
    BATCH,
    EMBEDDING_HEIGHT,
    EMBEDDING_WIDTH,
    HEIGHT,
    WIDTH,
    parse_dimension,
    shape_at,
    sizes_at,
)
from runtimes.plan import batch_rows
from runtimes.sizes import Sizes

# The sizes graphs are traced at: small; distinct, or torch.export would take two for one; above 1,
# for it specialises on 0 and 1.
_TRACED = {BATCH: 2, HEIGHT: 3, WIDTH: 4, EMBEDDING_HEIGHT: 5, EMBEDDING_WIDTH: 6}
_DTYPES = {"int64": torch.int64, "float32": torch.float32}


def named_sizes(plan: GraphPlan, batch: int, constants: Sampling, size: Sizes) -> dict[str, int]:
    """The named sizes of a graph for `batch` pictures of one size, guidance as by default."""
    scales = constants.stage_c.guidance, constants.stage_b.guidance
    return sizes_at(plan.name, batch_rows(plan.name, batch, *scales), size)


def close(plan: GraphPlan, sizes: Sequence[Mapping[str, int]]) -> GraphPlan:
    """The plan with every dimension that is the same at all `sizes` as its number.

    One size makes it static, none leaves it as it is.
    """

    def closed(tensor: Tensor) -> Tensor:
        shapes = [shape_at(tensor, named) for named in sizes]
        shape = tuple(
            values[0] if len(set(values)) == 1 else dimension
            for dimension, values in zip(tensor.shape, zip(*shapes, strict=True), strict=True)
        )
        return Tensor(tensor.name, tensor.dtype, shape)

    if not sizes:
        return plan
    inputs, outputs = (tuple(map(closed, tensors)) for tensors in (plan.inputs, plan.outputs))
    return dataclasses.replace(plan, inputs=inputs, outputs=outputs)


def make_static(plan: GraphPlan, sizes: Mapping[str, int]) -> GraphPlan:
    """The plan with every named dimension as its number in `sizes`."""
    return close(plan, [sizes])


def example_inputs(plan: GraphPlan) -> tuple[torch.Tensor, ...]:
    """Zero inputs of a graph: static dimensions as they are, open ones small."""
    sizes = {name: size * _multiple(plan, name) for name, size in _TRACED.items()}
    return tuple(
        torch.zeros(shape_at(tensor, sizes), dtype=_DTYPES[tensor.dtype]) for tensor in plan.inputs
    )


def dynamic_shapes(plan: GraphPlan) -> tuple[dict[int, Dim], ...]:
    """torch.export's symbol for each open axis of each input.

    Sides that are multiples are derived from one symbol, the deepest level's side ('height_cells'):
    torch.export relates dimensions by products, not by quotients.
    """
    symbols: dict[str, Dim] = {}

    def symbol(dimension: str) -> Dim:
        times, name, over = parse_dimension(dimension)
        multiple = _multiple(plan, name)
        factor = multiple * times // over
        base = symbols.setdefault(name, Dim(name if multiple == 1 else f"{name}_cells"))
        return base if factor == 1 else factor * base

    return tuple(
        {axis: symbol(d) for axis, d in enumerate(tensor.shape) if isinstance(d, str)}
        for tensor in plan.inputs
    )


def _multiple(plan: GraphPlan, name: str) -> int:
    """What a named size is a multiple of: Stage B's levels halve its latents' sides."""
    return plan.multiple if name in (HEIGHT, WIDTH) else 1
