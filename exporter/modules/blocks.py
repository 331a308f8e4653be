"""The blocks Stage B and Stage C share: ResBlock, TimestepBlock, AttnBlock in export form.

They take and give the residual stream in fp32, whatever type their weights compute in, unless that
island is left out (`exporter.modules.islands`).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.modules.islands import WithIslands, inverse
from exporter.modules.layout import (
    ChannelNorm,
    Convolution,
    Layout,
    Pointwise,
    channel_axis,
    spatial_axes,
)

SMALL = 2.0**-20  # about the reference's 1e-6, and a number of fp16


class GlobalResponseNorm(WithIslands):
    """x * (gamma * |x| / mean |x| + 1), |x| over the positions; fp32 inside, where an island.

    The reference's beta is folded into the bias of the Linear that follows (rewrite 7).
    """

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        share = self._share(x) if "grn" in self.islands else self._half_share(x)
        shape = [1, 1, 1, 1]
        shape[channel_axis(self.layout)] = -1
        gamma = self.widened(self.gamma, "grn").view(shape)
        return x * (gamma * share + 1).to(x.dtype)

    def _share(self, x: Tensor) -> Tensor:
        """|x| / mean |x|, one value per channel, in fp32."""
        norm = x.float().square().sum(dim=spatial_axes(self.layout), keepdim=True).sqrt()
        return norm / (norm.mean(dim=channel_axis(self.layout), keepdim=True) + 1e-6)

    def _half_share(self, x: Tensor) -> Tensor:
        """The same of numbers that fp16 holds.

        It is no other for means of squares than for sums, nor for a multiple of x. So squares are
        of an eighth of x, finite up to |x| = 2047, and means are taken in two steps.
        """
        rows, columns = spatial_axes(self.layout)
        squares = (x * 0.125).square()
        norm = squares.mean(dim=columns, keepdim=True).mean(dim=rows, keepdim=True).sqrt()
        return norm * inverse(norm.mean(dim=channel_axis(self.layout), keepdim=True) + SMALL)


class ResBlock(WithIslands):
    """Depthwise convolution, norm, [concatenate `skip`], Linear, GELU, GRN, Linear; residual.

    Stage C's blocks concatenate nothing; Stage B's take the down path's output, the 16-channel
    image embedding, or both (rewrite 1: `c_skip` counts them as they enter the Linear).
    """

    def __init__(self, width: int, c_skip: int, kernel_size: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        depthwise = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.depthwise = Convolution(depthwise, layout)
        self.norm = ChannelNorm(layout)
        self.expand = Pointwise(width + c_skip, 4 * width, layout)
        self.grn = GlobalResponseNorm(4 * width, layout)
        self.contract = Pointwise(4 * width, width, layout)

    def forward(self, x: Tensor, skip: list[Tensor]) -> Tensor:
        inner = self.norm(self.depthwise(x))
        if skip:
            parts = [part.to(self.expand.weight.dtype) for part in (inner, *skip)]
            inner = torch.cat(parts, dim=channel_axis(self.layout))
        contracted = self.contract(self.grn(F.gelu(self.expand(inner))))
        return x + self.widened(contracted, "stream")


class TimestepBlock(WithIslands):
    """x * (1 + a) + b with a, b linear in the timestep embedding (B, c_r).

    The 1 is folded into the mapper's bias.
    """

    def __init__(self, width: int, c_r: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.mapper = nn.Linear(c_r, 2 * width)

    def forward(self, x: Tensor, timestep_embedding: Tensor) -> Tensor:
        mapped = self.mapper(timestep_embedding)
        mapped = mapped[:, :, None, None] if self.layout == "nchw" else mapped[:, None, None, :]
        scale, shift = self.widened(mapped, "stream").chunk(2, dim=channel_axis(self.layout))
        return x * scale + shift


class AttnBlock(WithIslands):
    """Attention from every position to all positions and to the text; residual.

    The text's keys and values come ready-made, (B, 2, T, width): they do not depend on the step
    (rewrite 5). Softmax runs in fp32.

    With `constant_tokens`, the text is that many equal tokens: `constant_kv` (1, 2, 1, width), a
    weight, stands for all of them, its logit raised by log(constant_tokens) (rewrite 6).

    With `fused` set, attention is one operator, which keeps no (H*W, H*W + T) scores in memory
    where the device has a kernel for it; softmax's type is then the kernel's affair.
    """

    fused = False

    def __init__(
        self, width: int, heads: int, layout: Layout, constant_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.layout = layout
        self.heads = heads
        self.constant_tokens = constant_tokens
        if constant_tokens is not None:
            self.constant_kv = nn.Parameter(torch.empty(1, 2, 1, width))
        self.norm = ChannelNorm(layout)
        self.to_q = Pointwise(width, width, layout)
        self.to_k = Pointwise(width, width, layout)
        self.to_v = Pointwise(width, width, layout)
        self.to_out = Pointwise(width, width, layout)

    def forward(self, x: Tensor, text_kv: Tensor | None) -> Tensor:
        if text_kv is None:
            text_kv = self.constant_kv.expand(x.shape[0], -1, -1, -1)
        normed = self.norm(x).to(self.to_out.weight.dtype)
        if self.fused and self.constant_tokens is not None:  # kernels are fast without a mask
            text_kv = text_kv.expand(-1, -1, self.constant_tokens, -1)
        # Keys stay transposed, (B, heads, d, tokens): in NCHW that is how they arrive.
        query, key, value = map(self._positions, self.project(normed))
        query = query.transpose(2, 3)
        # Slices; by an index it would be a Gather, which splits the graph on Core ML's provider.
        text_key, text_value = text_kv.unbind(dim=1)
        key = torch.cat([key, self._text(text_key)], dim=3)
        value = torch.cat([value, self._text(text_value)], dim=3)
        attend = self._attend_fused if self.fused else self._attend
        attended = self.to_out(self._back(attend(query, key, value), x))
        return x + self.widened(attended, "stream")

    def project(self, normed: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of the positions."""
        return self.to_q(normed), self.to_k(normed), self.to_v(normed)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = (query * query.shape[-1] ** -0.5) @ key
        if self.constant_tokens is not None:
            scores = scores + self._constant_bias(scores)
        weights = self.widened(scores, "softmax").softmax(dim=-1).to(value.dtype)
        return weights @ value.transpose(2, 3)

    def _attend_fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key.transpose(2, 3), value.transpose(2, 3))

    def _constant_bias(self, scores: Tensor) -> Tensor:
        """log(constant_tokens) on the last key, 0 elsewhere."""
        last = torch.arange(scores.shape[3]) == scores.shape[3] - 1
        return last.to(scores.dtype) * math.log(self.constant_tokens or 1)

    def _positions(self, x: Tensor) -> Tensor:
        """To (B, heads, d, H*W)."""
        if self.layout == "nchw":
            return x.flatten(2).unflatten(1, (self.heads, -1))
        return x.flatten(1, 2).unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)

    def _text(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, heads, d, T)."""
        return x.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)

    def _back(self, x: Tensor, like: Tensor) -> Tensor:
        """(B, heads, H*W, d) to the layout."""
        if self.layout == "nchw":
            return x.transpose(2, 3).reshape(like.shape)
        return x.transpose(1, 2).reshape(like.shape)


def fuse_attention(module: nn.Module) -> None:
    """Write every AttnBlock's attention as one operator."""
    for block in module.modules():
        if isinstance(block, AttnBlock):
            block.fused = True
