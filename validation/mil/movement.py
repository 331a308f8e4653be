"""Operations that move values and compute none."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.errors import RunError


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor) -> Tensor:
    if bool(interleave):
        raise RunError("interleave is not supported")
    if len({value.dtype for value in values}) > 1:
        raise RunError("the values' types differ")
    return torch.cat(list(values), dim=int(axis))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """New axes, counted in the result."""
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def gather(
    x: Tensor, indices: Tensor, axis: Tensor, batch_dims: Tensor, validate_indices: Tensor
) -> Tensor:
    """Rows of a table; every index must be inside it, whatever `validate_indices` says."""
    if int(axis) != 0 or int(batch_dims) != 0:
        raise RunError(f"axis {int(axis)} and batch_dims {int(batch_dims)} are not 0")
    if int(indices.min()) < 0 or int(indices.max()) >= x.shape[0]:
        raise RunError(f"indices outside 0..{x.shape[0] - 1}")
    return x[indices.long()]


def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    return F.pixel_shuffle(x, int(upscale_factor))


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if min(sizes) < 1:
        raise RunError(f"shape {sizes} has sizes to infer")
    return x.reshape(sizes)


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """x[begin:end] on every axis; a mask's True leaves that end open, or takes one and squeezes."""
    if stride is not None and stride.tolist() != [1] * x.ndim:
        raise RunError(f"stride {stride.tolist()} is not 1")
    open_begin, open_end, squeezed = (
        [False] * x.ndim if mask is None else mask.tolist()
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    index: list[int | slice] = []
    for axis, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        if squeezed[axis]:
            index.append(first)
        else:
            bounds = None if open_begin[axis] else first, None if open_end[axis] else last
            index.append(slice(*bounds))
    return x[tuple(index)]


def split(x: Tensor, split_sizes: Tensor, axis: Tensor) -> tuple[Tensor, ...]:
    return x.split(split_sizes.tolist(), dim=int(axis))


def squeeze(x: Tensor, axes: Tensor) -> Tensor:
    wrong = [axis for axis in axes.tolist() if x.shape[axis] != 1]
    if wrong:
        raise RunError(f"axes {wrong} of {list(x.shape)} are not 1")
    return x.squeeze(axes.tolist())


def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    if len({value.dtype for value in values}) > 1:
        raise RunError("the values' types differ")
    return torch.stack(list(values), dim=int(axis))


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(perm.tolist())
