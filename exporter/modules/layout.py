"""Pointwise layers that work in either memory layout (rewrite 4).

NCHW writes Linear as a 1x1 convolution and normalises over axis 1; NHWC keeps channels last and
moves them only around depthwise convolutions. Both compute the same; engines differ in which is
faster. Reductions run in fp32 whatever the compute type: GlobalResponseNorm sums squares over
all positions and leaves fp16's range where its input's RMS passes 2.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.modules.islands import Island, WithIslands, half_norm

Layout = Literal["nchw", "nhwc"]
EPS = 1e-6  # of norms over channels


def spatial_axes(layout: Layout) -> tuple[int, int]:
    return (2, 3) if layout == "nchw" else (1, 2)


def channel_axis(layout: Layout) -> int:
    return 1 if layout == "nchw" else 3


def to_layout(x: Tensor, layout: Layout) -> Tensor:
    """(B,C,H,W) into the layout."""
    return x if layout == "nchw" else x.permute(0, 2, 3, 1)


def to_nchw(x: Tensor, layout: Layout) -> Tensor:
    """From the layout back to (B,C,H,W)."""
    return x if layout == "nchw" else x.permute(0, 3, 1, 2)


class Pointwise(nn.Module):
    """Linear over channels: weight (c_out, c_in), bias (c_out).

    In NCHW the weight is kept as the convolution's kernel: reshaped inside the graph it would be
    no constant to a quantiser.
    """

    def __init__(self, c_in: int, c_out: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(self.kernel(torch.empty(c_out, c_in)))
        self.bias = nn.Parameter(torch.empty(c_out))
        self.register_load_state_dict_pre_hook(_to_kernel)

    def kernel(self, weight: Tensor) -> Tensor:
        """The weight (c_out, c_in) as it is kept."""
        return weight[:, :, None, None] if self.layout == "nchw" else weight

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.layout == "nchw":
            return F.conv2d(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class LastProjection(WithIslands, Pointwise):
    """The Linear in front of epsilon, in NCHW a 1x1 *transposed* convolution: the same function.

    OpenVINO's bf16 mode keeps f32 from the output back to the first convolution or matrix product
    it meets, and a transposed one does not count: so the whole residual stream and this layer stay
    f32. Epsilon divides what is left of `latents - a` by a noise level that goes to 0, which
    magnifies rounding; figures are in docs/performance.md. In an fp16 module this layer is fp32 by
    type, as is what the norm in front of it gives, unless their island is left out.
    """

    def kernel(self, weight: Tensor) -> Tensor:
        if self.layout == "nchw":
            return weight.t().contiguous()[:, :, None, None]
        return weight

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.widened(self.weight, "end"), self.widened(self.bias, "end")
        if self.layout == "nchw":
            return F.conv_transpose2d(x, weight, bias)
        return F.linear(x, weight, bias)


def _to_kernel(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Checkpoints hold (c_out, c_in)."""
    assert isinstance(module, Pointwise)
    weight = state[f"{prefix}weight"]
    if weight.ndim == 2:
        state[f"{prefix}weight"] = module.kernel(weight)


class ChannelNorm(WithIslands):
    """LayerNorm over channels, eps 1e-6, no affine part; gives fp32, what follows rounds it.

    `island` is what it belongs to in an fp16 module; where that is left out, it gives fp16.
    """

    def __init__(self, layout: Layout, island: Island = "norm") -> None:
        super().__init__()
        self.layout, self.island = layout, island

    def forward(self, x: Tensor) -> Tensor:
        if self.island not in self.islands:
            return half_norm(x.half(), channel_axis(self.layout), EPS)
        x = x.float()
        if self.layout == "nhwc":
            return F.layer_norm(x, x.shape[-1:], eps=EPS)
        centred = x - x.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(variance + EPS)


class Convolution(nn.Module):
    """A convolution (or its transpose) over NCHW weights, from and to the layout."""

    def __init__(self, convolution: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        x = to_nchw(x, self.layout).to(next(self.convolution.parameters()).dtype)
        return to_layout(self.convolution(x), self.layout)
