"""The demo's semantic compressor and previewer, laid out as Stable Cascade's published files."""

from functools import partial
from itertools import pairwise

import torch
from models import EMBEDDING_CHANNELS, EMBEDDING_SIDE
from torch import Tensor, nn
from torch.nn import functional as F

from validation.torchvision_models import torchvision_models

STRIDES = (2, 2, 2, 2, 1)  # the stem's and each stage's: 96 pixels become 6 cells
HEAD_WIDTH = 128
PREVIEW_WIDTHS = (48, 32, 24, 16)
PREVIEW_SIDE = 8 * EMBEDDING_SIDE
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resized(pictures: Tensor, side: int = 16 * EMBEDDING_SIDE) -> Tensor:
    """Pictures at another size, in floats: not rounded in between."""
    return F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)


class SemanticCompressor(nn.Module):
    """A small EfficientNetV2, a 1x1 convolution, a batch norm (Wuerstchen, section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        nets = torchvision_models().efficientnet
        fused, inverted = nets.FusedMBConvConfig, nets.MBConvConfig
        # Expansion, kernel, stride, width in, width out, blocks.
        stages = [
            fused(4, 3, STRIDES[1], 16, 32, 1),
            fused(3, 3, STRIDES[2], 32, 48, 1),
            inverted(4, 3, STRIDES[3], 48, 64, 1),
            inverted(4, 3, STRIDES[4], 64, 64, 2),
        ]
        net = nets.EfficientNet(
            stages,
            dropout=0.0,
            stochastic_depth_prob=0.0,
            norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
            last_channel=HEAD_WIDTH,
        )
        self.backbone = net.features
        self.mapper = nn.Sequential(
            nn.Conv2d(HEAD_WIDTH, EMBEDDING_CHANNELS, 1, bias=False),
            nn.BatchNorm2d(EMBEDDING_CHANNELS),
        )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN))
        self.register_buffer("std", torch.tensor(IMAGENET_STD))

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B,3,96,96) in 0..1 -> image embeddings (B,16,6,6), as Stage B reads them."""
        mean, std = self.mean.view(3, 1, 1), self.std.view(3, 1, 1)
        return self.mapper(self.backbone((pictures - mean) / std))


class Previewer(nn.Module):
    """Stage C's latents (B,16,6,6) -> small pictures (B,3,48,48) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        widths = PREVIEW_WIDTHS
        layers = [*_layer(nn.Conv2d(EMBEDDING_CHANNELS, widths[0], 1)), *_same(widths[0])]
        for before, after in pairwise(widths):
            layers += [*_layer(nn.ConvTranspose2d(before, after, 2, 2)), *_same(after)]
        self.blocks = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 1))

    def forward(self, latents: Tensor) -> Tensor:
        return self.blocks(latents)


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.GELU(), nn.BatchNorm2d(convolution.out_channels)]


def _same(width: int) -> list[nn.Module]:
    return _layer(nn.Conv2d(width, width, 3, padding=1))
