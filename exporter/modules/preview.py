"""The previewer: Stage C's latents to a small picture."""

import torch
from torch import Tensor, nn

from exporter.checkpoint.previewer import PreviewConfig, PreviewLayer


class Shift(nn.Module):
    """A number added to every channel: what a batch norm leaves that no bias can hold.

    Where a convolution pads with zeros, its borders see less of the number than its middle does;
    each of the four pixels that a transposed one makes of a cell sees it by other weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class Preview(nn.Module):
    """`latents` (B,C,h,w), Stage C's -> `image` (B,3,8h,8w) in 0..1.

    The scale of each batch norm is folded into the weights of the convolution behind it, and its
    shift into that one's bias where its kernel is of one cell.
    """

    def __init__(self, config: PreviewConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(_layer, config.layers))

    def forward(self, latents: Tensor) -> Tensor:
        x = latents.to(next(self.parameters()).dtype)
        for layer in self.layers:
            x = layer(x)
        return x.float().clamp(0, 1)


def shifts(layer: PreviewLayer) -> bool:
    """Whether the shift of the norm in front of a layer stays in front of it."""
    return layer.kernel > 1 and layer.at > 0


def _layer(layer: PreviewLayer) -> nn.Module:
    parts = nn.Sequential()
    if shifts(layer):
        parts.add_module("before", Shift(layer.c_in))
    if layer.doubles:
        convolution: nn.Module = nn.ConvTranspose2d(layer.c_in, layer.c_out, 2, stride=2)
    else:
        padding = layer.kernel // 2
        convolution = nn.Conv2d(layer.c_in, layer.c_out, layer.kernel, padding=padding)
    parts.add_module("convolution", convolution)
    if layer.normed:
        parts.add_module("gelu", nn.GELU())
    return parts
