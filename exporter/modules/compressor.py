"""The semantic compressor: pictures to Stage C's image embedding."""

import torch
from torch import Tensor, nn

from exporter.checkpoint.compressor import Block, CompressorConfig, Convolution, Squeeze


class SqueezeExcitation(nn.Module):
    """Every channel times a number that follows from all channels' means; the means in fp32."""

    def __init__(self, layer: Squeeze) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(layer.width, layer.inner, 1)
        self.fc2 = nn.Conv2d(layer.inner, layer.width, 1)
        self.silu = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        means = x.float().mean(dim=(2, 3), keepdim=True).to(x.dtype)
        return x * self.fc2(self.silu(self.fc1(means))).sigmoid()


class MBConv(nn.Module):
    """A block of EfficientNet; batch norms are folded into the convolutions in front of them."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(_layer, block.layers))
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for layer in self.layers:
            inner = layer(inner)
        return x + inner if self.residual else inner


class Compressor(nn.Module):
    """`image` (B,3,S*h,S*w) in 0..1 -> `image_embedding` (B,C,h,w), S the product of all strides.

    The picture's mean is taken off here, for zeros are what the stem pads with; its standard
    deviation is folded into the stem's weights.
    """

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.empty(1, 3, 1, 1))
        self.blocks = nn.ModuleList(map(MBConv, config.blocks))
        self.mapper = nn.Conv2d(config.width, config.c_latent, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = image.to(self.mean.dtype) - self.mean
        for block in self.blocks:
            x = block(x)
        return self.mapper(x).float()


def _layer(layer: Convolution | Squeeze) -> nn.Module:
    if isinstance(layer, Squeeze):
        return SqueezeExcitation(layer)
    convolution = nn.Conv2d(
        layer.c_in,
        layer.c_out,
        layer.kernel,
        stride=layer.stride,
        padding=layer.kernel // 2,
        groups=layer.c_in if layer.depthwise else 1,
    )
    return nn.Sequential(convolution, nn.SiLU() if layer.activated else nn.Identity())
