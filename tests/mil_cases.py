"""One program per operation and set of parameters, with what PyTorch computes for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """One operation with one set of parameters: how MIL builds it, what torch computes.

    `shapes` of the inputs; `w(*shape)` makes a constant of the case's type in either language.
    """

    kind: str
    what: str
    mil: Callable[..., Any]
    expected: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


def w(*shape: int, seed: int = 7) -> torch.Tensor:
    """A constant; small, so that products stay in fp16's range."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2


def const(value: torch.Tensor, like: Any) -> np.ndarray:
    """A constant in the type of a MIL variable."""
    return value.numpy().astype(types.nptype_from_builtin(like.dtype))


def conv(**given: Any) -> Callable[[Any], Any]:
    return lambda x: mb.conv(x=x, **weights(x, given))


def conv_transpose(**given: Any) -> Callable[[Any], Any]:
    return lambda x: mb.conv_transpose(x=x, **weights(x, given))


def weights(x: Any, given: dict[str, Any]) -> dict[str, Any]:
    return {k: const(v, x) if isinstance(v, torch.Tensor) else v for k, v in given.items()}


def typed(like: Any, value: float) -> Any:
    return types.nptype_from_builtin(like.dtype)(value)


X = (2, 6, 5, 4)
ONE = ((2, 3, 4),)
TWO = ((2, 3, 4), (3, 1))
# Computed in fp32 and in fp16.
FLOAT = [
    Case("abs", "", lambda x: mb.abs(x=x), torch.abs, ONE),
    Case("add", "broadcast", lambda x, y: mb.add(x=x, y=y), torch.add, TWO),
    Case("sub", "broadcast", lambda x, y: mb.sub(x=x, y=y), torch.sub, TWO),
    Case("mul", "broadcast", lambda x, y: mb.mul(x=x, y=y), torch.mul, TWO),
    Case("real_div", "broadcast", lambda x, y: mb.real_div(x=x, y=y), torch.div, TWO),
    Case("cast", "to fp32", lambda x: mb.cast(x=x, dtype="fp32"), lambda x: x.float(), ONE),
    Case("cast", "to fp16", lambda x: mb.cast(x=x, dtype="fp16"), lambda x: x.half(), ONE),
    Case("cast", "to int32", lambda x: mb.cast(x=x, dtype="int32"), lambda x: x.int(), ONE),
    Case("clip", "", lambda x: mb.clip(x=x, alpha=typed(x, -0.2), beta=typed(x, 0.7)),
         lambda x: x.clamp(-0.2, 0.7), ONE),
    Case("concat", "", lambda x, y: mb.concat(values=[x, y, x], axis=1),
         lambda x, y: torch.cat([x, y, x], dim=1), ((2, 3, 4), (2, 5, 4))),
    Case("concat", "negative axis", lambda x, y: mb.concat(values=[x, y], axis=-1),
         lambda x, y: torch.cat([x, y], dim=-1), ((2, 3, 4), (2, 3, 1))),
    Case("conv", "1x1 valid", conv(weight=w(8, 6, 1, 1), bias=w(8), pad_type="valid"),
         lambda x: F.conv2d(x, w(8, 6, 1, 1), w(8)), (X,)),
    Case("conv", "no bias", conv(weight=w(8, 6, 1, 1), pad_type="valid"),
         lambda x: F.conv2d(x, w(8, 6, 1, 1)), (X,)),
    Case("conv", "depthwise, padded",
         conv(weight=w(6, 1, 3, 3), bias=w(6), groups=6, pad_type="custom", pad=[1, 1, 1, 1]),
         lambda x: F.conv2d(x, w(6, 1, 3, 3), w(6), padding=1, groups=6), (X,)),
    Case("conv", "strided", conv(weight=w(8, 6, 2, 2), bias=w(8), strides=[2, 2], pad_type="valid"),
         lambda x: F.conv2d(x, w(8, 6, 2, 2), w(8), stride=2), (X,)),
    Case("conv", "dilated, unequal sides", conv(weight=w(8, 3, 3, 2), bias=w(8), groups=2,
         dilations=[2, 1], pad_type="custom", pad=[2, 1, 0, 3]),
         lambda x: F.conv2d(F.pad(x, (0, 3, 2, 1)), w(8, 3, 3, 2), w(8), groups=2,
                            dilation=(2, 1)), (X,)),
    Case("conv", "valid ignores pad", conv(weight=w(8, 6, 3, 3), bias=w(8), pad_type="valid",
         pad=[1, 1, 1, 1]), lambda x: F.conv2d(x, w(8, 6, 3, 3), w(8)), (X,)),
    Case("conv_transpose", "2x2, stride 2",
         conv_transpose(weight=w(6, 5, 2, 2), bias=w(5), strides=[2, 2], pad_type="valid"),
         lambda x: F.conv_transpose2d(x, w(6, 5, 2, 2), w(5), stride=2), (X,)),
    Case("conv_transpose", "4x4, stride 2, padded", conv_transpose(weight=w(6, 5, 4, 4), bias=w(5),
         strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
         lambda x: F.conv_transpose2d(x, w(6, 5, 4, 4), w(5), stride=2, padding=1), (X,)),
    Case("conv_transpose", "1x1", conv_transpose(weight=w(6, 5, 1, 1), bias=w(5), pad_type="valid"),
         lambda x: F.conv_transpose2d(x, w(6, 5, 1, 1), w(5)), (X,)),
    Case("conv_transpose", "groups, output shape",
         conv_transpose(weight=w(6, 2, 3, 3), bias=w(4), groups=2, strides=[2, 2],
                        pad_type="custom", pad=[1, 1, 1, 1], output_shape=[2, 4, 9, 7]),
         lambda x: F.conv_transpose2d(x, w(6, 2, 3, 3), w(4), stride=2, padding=1, groups=2), (X,)),
    Case("expand_dims", "two", lambda x: mb.expand_dims(x=x, axes=[0, 3]),
         lambda x: x[None, :, :, None], ONE),
    Case("expand_dims", "last", lambda x: mb.expand_dims(x=x, axes=[-1]), lambda x: x[..., None],
         ONE),
    Case("gelu", "exact", lambda x: mb.gelu(x=x, mode="EXACT"), F.gelu, ONE),
    Case("identity", "", lambda x: mb.identity(x=x), lambda x: x, ONE),
    Case("layer_norm", "channels", lambda x: mb.layer_norm(x=x, axes=[1], epsilon=typed(x, 1e-5)),
         lambda x: F.layer_norm(x.movedim(1, -1), (6,), eps=1e-5).movedim(-1, 1), (X,)),
    Case("layer_norm", "affine", lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=typed(x, 1e-5),
         gamma=const(w(4), x), beta=const(w(4, seed=8), x)),
         lambda x: F.layer_norm(x, (4,), w(4), w(4, seed=8), eps=1e-5), ONE),
    Case("layer_norm", "two axes", lambda x: mb.layer_norm(x=x, axes=[1, 2],
         epsilon=typed(x, 1e-3), gamma=const(w(3, 4), x), beta=const(w(3, 4, seed=8), x)),
         lambda x: F.layer_norm(x, (3, 4), w(3, 4), w(3, 4, seed=8), eps=1e-3), ONE),
    Case("leaky_relu", "", lambda x: mb.leaky_relu(x=x, alpha=typed(x, 0.2)),
         lambda x: F.leaky_relu(x, 0.2), ONE),
    Case("linear", "", lambda x: mb.linear(x=x, weight=const(w(5, 4), x), bias=const(w(5), x)),
         lambda x: F.linear(x, w(5, 4), w(5)), ONE),
    Case("linear", "no bias", lambda x: mb.linear(x=x, weight=const(w(5, 4), x)),
         lambda x: F.linear(x, w(5, 4)), ONE),
    Case("matmul", "", lambda x, y: mb.matmul(x=x, y=y), torch.matmul, ((2, 3, 4), (2, 4, 5))),
    Case("matmul", "both transposed, broadcast",
         lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
         lambda x, y: x.mT @ y.mT, ((3, 2, 4, 3), (2, 5, 4))),
    Case("pixel_shuffle", "", lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
         lambda x: F.pixel_shuffle(x, 2), ((1, 12, 3, 2),)),
    Case("reduce_max", "", lambda x: mb.reduce_max(x=x, axes=[1], keep_dims=True),
         lambda x: x.amax(dim=1, keepdim=True), (X,)),
    Case("reduce_mean", "keep", lambda x: mb.reduce_mean(x=x, axes=[1], keep_dims=True),
         lambda x: x.mean(dim=1, keepdim=True), (X,)),
    Case("reduce_mean", "drop", lambda x: mb.reduce_mean(x=x, axes=[-1], keep_dims=False),
         lambda x: x.mean(dim=-1), (X,)),
    Case("reduce_sum", "keep", lambda x: mb.reduce_sum(x=x, axes=[2, 3], keep_dims=True),
         lambda x: x.sum(dim=(2, 3), keepdim=True), (X,)),
    Case("reshape", "", lambda x: mb.reshape(x=x, shape=[2, 2, 3, 20]),
         lambda x: x.reshape(2, 2, 3, 20), (X,)),
    Case("rsqrt", "", lambda x: mb.rsqrt(x=mb.abs(x=x)), lambda x: x.abs().rsqrt(), ONE),
    Case("select", "", lambda x, y: mb.select(cond=mb.not_equal(x=x, y=typed(x, 0.0)), a=x, b=y),
         lambda x, y: torch.where(x != 0, x, y), ((2, 3), (2, 3))),
    Case("sigmoid", "", lambda x: mb.sigmoid(x=x), torch.sigmoid, ONE),
    Case("silu", "", lambda x: mb.silu(x=x), F.silu, ONE),
    Case("slice_by_index", "masks", lambda x: mb.slice_by_index(x=x, begin=[1, 1, 2, 0],
         end=[2, 3, 0, 9], begin_mask=[False, True, False, True],
         end_mask=[False, False, True, True], squeeze_mask=[True, False, False, False]),
         lambda x: x[1, :3, 2:], (X,)),
    Case("slice_by_index", "negative", lambda x: mb.slice_by_index(x=x, begin=[0, -3, 0, 0],
         end=[2, -1, 5, 4]), lambda x: x[:, -3:-1], (X,)),
    Case("softmax", "last", lambda x: mb.softmax(x=x, axis=-1), lambda x: x.softmax(-1), (X,)),
    Case("softmax", "second", lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1), (X,)),
    Case("split", "unequal", lambda x: mb.split(x=x, split_sizes=[1, 2, 3], axis=1),
         lambda x: x.split([1, 2, 3], dim=1), (X,)),
    Case("relu", "", lambda x: mb.relu(x=x), F.relu, ONE),
    Case("sqrt", "", lambda x: mb.sqrt(x=mb.abs(x=x)), lambda x: x.abs().sqrt(), ONE),
    Case("squeeze", "", lambda x: mb.squeeze(x=x, axes=[0, -1]), lambda x: x[0, ..., 0],
         ((1, 3, 2, 1),)),
    Case("stack", "", lambda x, y: mb.stack(values=[x, y, x], axis=1),
         lambda x, y: torch.stack([x, y, x], dim=1), ((2, 3), (2, 3))),
    Case("transpose", "", lambda x: mb.transpose(x=x, perm=[0, 2, 3, 1]),
         lambda x: x.permute(0, 2, 3, 1), (X,)),
]  # fmt: skip
TABLE = w(9, 4)
# Computed in int32.
INTEGER = [
    Case("add", "int", lambda x: mb.add(x=x, y=np.int32(49)), lambda x: x + 49, ((2, 5),)),
    Case("cast", "to bool", lambda x: mb.cast(x=x, dtype="bool"), lambda x: x != 0, ((2, 5),)),
    Case("gather", "rows", lambda x: mb.gather(x=TABLE.numpy(), indices=x, axis=0),
         lambda x: F.embedding(x, TABLE), ((2, 5),)),
    Case("greater_equal", "", lambda x: mb.greater_equal(x=x, y=np.int32(3)), lambda x: x >= 3,
         ((2, 5),)),
    Case("logical_and", "broadcast", lambda x, y: mb.logical_and(
         x=mb.not_equal(x=x, y=np.int32(3)), y=mb.not_equal(x=y, y=np.int32(2))),
         lambda x, y: (x != 3) & (y != 2), ((2, 5), (5,))),
    Case("not_equal", "int", lambda x: mb.not_equal(x=x, y=np.int32(3)), lambda x: x != 3,
         ((2, 5),)),
]  # fmt: skip
