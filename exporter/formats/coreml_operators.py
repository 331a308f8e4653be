"""PyTorch operators that coremltools 9 does not take, or would run in another type.

coremltools types a Python number as fp32 and promotes the fp16 tensor beside it, and with it
all that follows: the attention's `query * scale` would make the product with the keys fp32. Here
such a number takes the tensor's type, so that the program has the types of the PyTorch module.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def _typed(operator: Any) -> Callable[..., Tensor]:
    """The operator with a number as its second argument in the first one's type."""

    def decomposed(x: Tensor, other: Tensor | float, **options: Any) -> Tensor:
        if isinstance(other, Tensor) or x.dtype != torch.float16:
            return NotImplemented
        return operator(x, torch.full((), other, dtype=x.dtype), **options)

    return decomposed


def _pad(x: Tensor, padding: list[int], mode: str = "constant", value: Any = None) -> Tensor:
    """Replication padding as concatenation: `pad` has a number, the value it would fill with."""
    if mode != "replicate":
        return NotImplemented
    for axis, before, after in zip((3, 2), padding[::2], padding[1::2], strict=True):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        x = torch.cat([first] * before + [x] + [last] * after, dim=axis)
    return x


# For ExportedProgram.run_decompositions; NotImplemented leaves an operator as it is.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _aten.__and__.Tensor: torch.logical_and,
    _aten.pad.default: _pad,
    **{
        operator: _typed(operator)
        for operator in (
            _aten.add.Tensor,
            _aten.sub.Tensor,
            _aten.mul.Tensor,
            _aten.div.Tensor,
        )
    },
}
