"""The named dimensions of a graph: example sizes, torch.export's symbols, static numbers."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import torch
from torch.export import Dim

from exporter.graphs import GraphPlan
from runtimes.bundle.manifest import Sampling, Tensor
from runtimes.plan import batch_rows
from runtimes.sizes import Sizes

# Small, distinct, above 1 (torch.export specialises on 0 and 1): the sizes graphs are traced at.
_TRACED = {"batch": 2, "height": 3, "width": 4, "embedding_height": 5, "embedding_width": 6}
_DIMENSION = re.compile(r"(?:(\d+)\*)?([a-z_]+)(?:/(\d+))?")


def make_static(plan: GraphPlan, sizes: Mapping[str, int]) -> GraphPlan:
    """The plan with every named dimension replaced by its number in `sizes`."""
    inputs = tuple(resolve(tensor, sizes) for tensor in plan.inputs)
    outputs = tuple(resolve(tensor, sizes) for tensor in plan.outputs)
    return dataclasses.replace(plan, inputs=inputs, outputs=outputs)


def example_inputs(plan: GraphPlan) -> tuple[torch.Tensor, ...]:
    """Zero inputs of a graph: static dimensions as they are, open ones small."""
    sizes = {name: n * (plan.multiple if name in ("height", "width") else 1)
             for name, n in _TRACED.items()}  # fmt: skip
    dtypes = {"int64": torch.int64, "float32": torch.float32}
    return tuple(
        torch.zeros(numbers(tensor, sizes), dtype=dtypes[tensor.dtype]) for tensor in plan.inputs
    )


def resolve(tensor: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """A tensor's specification with its named dimensions replaced by numbers."""
    return Tensor(tensor.name, tensor.dtype, numbers(tensor, sizes))


def numbers(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A tensor's shape at the given sizes."""

    def number(dimension: int | str) -> int:
        if isinstance(dimension, int):
            return dimension
        times, name, over = _parse(dimension)
        return sizes[name] * times // over

    return tuple(number(dimension) for dimension in tensor.shape)


def dynamic_shapes(plan: GraphPlan) -> tuple[dict[int, Dim], ...]:
    """torch.export's dynamic dimensions of each input, sides derived from the deepest level's."""
    symbols: dict[str, Dim] = {}

    def symbol(dimension: str) -> Dim:
        times, name, over = _parse(dimension)
        multiple = plan.multiple if name in ("height", "width") else 1
        factor = multiple * times // over
        base = symbols.setdefault(name, Dim(name if multiple == 1 else f"{name}_cells"))
        return base if factor == 1 else factor * base

    return tuple(
        {axis: symbol(d) for axis, d in enumerate(tensor.shape) if isinstance(d, str)}
        for tensor in plan.inputs
    )


def _parse(dimension: str) -> tuple[int, str, int]:
    """'4*height' -> (4, 'height', 1); 'height/4' -> (1, 'height', 4)."""
    match = _DIMENSION.fullmatch(dimension)
    assert match is not None, dimension
    return int(match[1] or 1), match[2], int(match[3] or 1)


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
