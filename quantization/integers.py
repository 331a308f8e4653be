"""The arithmetic of integer weights, the same for every format that stores them."""

from collections.abc import MutableMapping

import numpy as np
from numpy.typing import NDArray

from quantization.roles import Use

KEPT_GROUP = 64  # inputs per scale of a weight that a plan keeps in int8
KEPT_BLOCK = 32  # the same in ONNX, where activations are rounded by the same blocks
SMALLEST_BLOCK = 16  # of MatMulNBits
# From so many inputs on blocks are twice a recipe's group: their fp32 scales take half as much, the
# kernel is a quarter faster, and 0.7 dB are lost (docs/quantization.md).
WIDE = 1024
# Steps of integers of two bits that are tried, of a block's largest value.
FOUR_LEVELS = np.linspace(0.3, 0.8, 11).astype(np.float32)
Floats = NDArray[np.floating]
# Integers and scales by weight, bits and block (0: a column), for a graph that is quantised in many
# ways: at the public size rounding is most of what that takes.
Rounded = MutableMapping[tuple[str, int, int], tuple[NDArray[np.generic], NDArray[np.float32]]]


def quantized(
    weight: NDArray[np.float32],
    use: Use,
    bits: int,
    group: int,
    scale_type: type[np.floating] = np.float32,
) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric integers and their scales, per output channel or per group of inputs."""
    top = 2 ** (bits - 1) - 1
    rows = np.moveaxis(weight, (use.output_axis, use.input_axis), (0, 1))
    blocks = rows.reshape(rows.shape[0], -1, group or rows.shape[1], *rows.shape[2:])
    axes = tuple(range(2, blocks.ndim))
    exact = np.maximum(np.abs(blocks).max(axis=axes, keepdims=True), 1e-12) / top
    scale = exact.astype(scale_type)
    # Rounded up: the largest weight must not need one integer more than there are.
    scale = np.where(scale < exact, np.nextafter(scale, scale_type(np.inf)), scale)
    integers = np.clip(np.rint(blocks / scale.astype(np.float32)), -top, top)
    integers = integers.astype(np.int8).reshape(rows.shape)
    integers = np.moveaxis(integers, (0, 1), (use.output_axis, use.input_axis))
    narrow = scale.reshape(rows.shape[0], -1, *(1,) * (rows.ndim - 2))
    if not group:
        return np.ascontiguousarray(integers), narrow.reshape(-1)
    return np.ascontiguousarray(integers), np.ascontiguousarray(
        np.moveaxis(narrow, (0, 1), (use.output_axis, use.input_axis))
    )


def group_of(inputs: int, group: int) -> int:
    """The group that divides a weight's inputs: `group`, or the next smaller down to a quarter.

    0, a scale per output channel, where none does or the group is all inputs.
    """
    sizes = range(group, max(group // 4, 1) - 1, -1)
    divisor = next((size for size in sizes if inputs % size == 0), 0)
    return 0 if divisor == inputs else divisor


def block_of(inputs: int, largest: int, bits: int) -> int:
    """The block of a weight's inputs that takes the fewest bytes: a power of two up to `largest`,
    or to twice that where there are many inputs.

    A last block that is not full is stored whole, and each has an fp32 scale: 1296 inputs take
    1428 bytes in blocks of 64 and 1452 in blocks of 128.
    """
    sizes = [2 * largest if inputs >= WIDE else largest]
    while sizes[-1] > SMALLEST_BLOCK:
        sizes.append(sizes[-1] // 2)
    return min(sizes, key=lambda size: -(-inputs // size) * (size * bits // 8 + 4))


def blocks_of(
    weight: NDArray[np.float32], bits: int, block: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers (N, blocks, block) of a weight (K,N) and their scales (N, blocks).

    Of two bits all four levels are used.
    """
    columns = np.ascontiguousarray(weight.T)
    count = -(-columns.shape[1] // block)
    whole = np.pad(columns, ((0, 0), (0, count * block - columns.shape[1])))
    blocks = whole.reshape(len(columns), count, block)
    if bits == 2:
        return _four_levels(blocks)
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(blocks).max(axis=2), 1e-12) / top
    integers = np.clip(np.rint(blocks / scale[..., None]), -top, top).astype(np.int8)
    return integers, scale.astype(np.float32)


def _four_levels(blocks: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers from -2 to 1 with the scale, of either sign, that leaves the least square error.

    A scale from the largest value alone would round most of a block to 0.
    """
    top = np.maximum(np.abs(blocks).max(axis=2), 1e-12)
    least = np.full(top.shape, np.inf, np.float32)
    best, scales = np.zeros(blocks.shape, np.int8), np.ones(top.shape, np.float32)
    for size in FOUR_LEVELS:
        for scale in (size * top, -size * top):
            integers = np.clip(np.rint(blocks / scale[..., None]), -2, 1)
            error = np.square(integers * scale[..., None] - blocks).sum(axis=2)
            better = error < least
            best[better], scales[better] = integers[better].astype(np.int8), scale[better]
            least = np.minimum(error, least)
    return best, scales
