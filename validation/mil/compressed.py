"""Weights stored in fewer bits, as MIL widens them: its constexpr operations of iOS 16 and 18.

https://apple.github.io/coremltools (MIL ops). Products are taken in fp32 and rounded once to the
type of the scale.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from runtimes.errors import RunError
from validation.mil.program import unpack


def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor
) -> Tensor:
    """(data - zero_point) * scale, either one value or one per index of `axis`. iOS 16."""
    along = [1] * quantized_data.ndim
    along[int(axis)] = -1
    centred = quantized_data.float() - zero_point.float().reshape(along)
    return (centred * scale.float().reshape(along)).to(scale.dtype)


def constexpr_blockwise_shift_scale(
    data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensor:
    """(data - offset) * scale, one of each per block: as many as scale's sides say. iOS 18."""
    centred = data.float() - (0 if offset is None else _spread(offset.float(), data))
    return (centred * _spread(scale.float(), data)).to(scale.dtype)


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """The table's values at the indices.

    iOS 16: one table (entries,); indices packed in bytes, for a weight of `shape`. iOS 18: indices
    as the weight, lut (*blocks, entries, 1): a table per block, as many as its first sides say.
    """
    if shape is not None:
        sides = shape.tolist()
        bits, count = lut.numel().bit_length() - 1, torch.Size(sides).numel()
        return lut[torch.from_numpy(unpack(indices.numpy(), bits, count)).long()].reshape(sides)
    if vector_axis is not None or lut.shape[-1] != 1:
        raise RunError("tables of vectors are not supported")
    *blocks, entries, _ = lut.shape
    tables = torch.arange(lut.numel() // entries).reshape(blocks) * entries
    return lut.reshape(-1)[_spread(tables, indices) + indices.long()]


def _spread(values: Tensor, weight: Tensor) -> Tensor:
    """One value per block of a weight as one per element of it."""
    for axis, (size, blocks) in enumerate(zip(weight.shape, values.shape, strict=True)):
        if size % blocks:
            raise RunError(f"{blocks} blocks do not divide {size} along axis {axis}")
        values = values.repeat_interleave(size // blocks, dim=axis)
    return values


# Not of the seven graphs, but of what quantisation makes of their weights.
COMPRESSED: dict[str, Callable[..., Tensor]] = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
}
