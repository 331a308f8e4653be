"""Convolutions and matrix products: accumulated in fp32, rounded once to the inputs' type.

Core ML does not say how a device accumulates fp16; the Neural Engine may do less.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.errors import RunError


def conv(
    x: Tensor,
    weight: Tensor,
    strides: Tensor,
    pad_type: str,
    pad: Tensor,
    dilations: Tensor,
    groups: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """x (B,C,H,W), weight (C_out, C / groups, kh, kw); `pad` counts with pad_type 'custom'."""
    inputs = _float(F.pad(x, _sides(pad_type, pad)), weight, bias)
    out = F.conv2d(*inputs, strides.tolist(), 0, dilations.tolist(), int(groups))
    return out.to(x.dtype)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    strides: Tensor,
    pad_type: str,
    pad: Tensor,
    dilations: Tensor,
    groups: Tensor,
    bias: Tensor | None = None,
    output_shape: Tensor | None = None,
) -> Tensor:
    """x (B,C,H,W), weight (C, C_out / groups, kh, kw); `pad` crops the result."""
    inputs = _float(x, weight, bias)
    out = F.conv_transpose2d(*inputs, strides.tolist(), 0, 0, int(groups), dilations.tolist())
    out = F.pad(out, [-size for size in _sides(pad_type, pad)]).to(x.dtype)
    if output_shape is not None and output_shape.tolist() != list(out.shape):
        raise RunError(f"output_shape {output_shape.tolist()} is not {list(out.shape)}")
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., C), weight (C_out, C)."""
    return F.linear(*_float(x, weight, bias)).to(x.dtype)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor, transpose_y: Tensor) -> Tensor:
    """Batched x @ y, either one with its last two axes swapped."""
    if x.dtype != y.dtype:
        raise RunError(f"types {x.dtype} and {y.dtype} differ")
    left = x.transpose(-1, -2) if bool(transpose_x) else x
    right = y.transpose(-1, -2) if bool(transpose_y) else y
    return torch.matmul(left.float(), right.float()).to(x.dtype)


def _sides(pad_type: str, pad: Tensor) -> list[int]:
    """torch's left, right, top, bottom from MIL's top, bottom, left, right."""
    if pad_type not in ("custom", "valid"):
        raise RunError(f"pad_type {pad_type} is neither custom nor valid")
    top, bottom, left, right = pad.tolist() if pad_type == "custom" else (0, 0, 0, 0)
    return [left, right, top, bottom]


def _float(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in fp32, once they are known to be of one type."""
    types = {t.dtype for t in (x, weight, bias) if t is not None}
    if len(types) > 1:
        raise RunError(f"types {sorted(map(str, types))} differ")
    return x.float(), weight.float(), None if bias is None else bias.float()
