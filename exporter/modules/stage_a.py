"""Stage A, the decoder half of the VQGAN: latents to pixels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.configs import StageAConfig
from exporter.modules.layout import ChannelNorm, Convolution, Layout, Pointwise, to_layout, to_nchw


class RepeatedEdge(nn.Module):
    """A padding of 1 by the nearest value, (B,C,H,W) to (B,C,H+2,W+2), as slices side by side.

    ONNX Runtime's Core ML provider has no Pad of this kind.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
        return torch.cat([x[..., :1], x, x[..., -1:]], dim=3)


class MixingResidualBlock(nn.Module):
    """Depthwise and channelwise residuals; the reference's six gammas are folded into weights."""

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        padded = nn.Sequential(RepeatedEdge(), nn.Conv2d(width, width, 3, groups=width))
        self.norm = ChannelNorm(layout)
        self.depthwise = Convolution(padded, layout)
        self.expand = Pointwise(width, 4 * width, layout)
        self.contract = Pointwise(4 * width, width, layout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.depthwise(self.norm(x))
        return x + self.contract(F.gelu(self.expand(self.norm(x))))


class StageA(nn.Module):
    """`latents` (B,4,H,W) -> `image` (B,3,4H,4W) in 0..1.

    The checkpoint's scale factor is folded into the first layer's weights.
    """

    def __init__(self, config: StageAConfig, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        widths = config.widths
        self.embed = Pointwise(config.latent_channels, widths[0], layout)
        self.blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            for _ in range(config.bottleneck_blocks if i == 0 else 1):
                self.blocks.append(MixingResidualBlock(width, layout))
            if i < config.levels - 1:
                up = nn.ConvTranspose2d(width, widths[i + 1], 4, stride=2, padding=1)
                self.blocks.append(Convolution(up, layout))
        self.shuffle = config.up_down_scale_factor
        self.out = Pointwise(widths[-1], config.out_channels * self.shuffle**2, layout)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.embed(to_layout(latents.to(self.embed.weight.dtype), self.layout))
        for block in self.blocks:
            x = block(x)
        pixels = F.pixel_shuffle(to_nchw(self.out(x), self.layout), self.shuffle)
        return pixels.float().clamp(0, 1)


class StageAEncoder(nn.Module):
    """`image` (B,3,4H,4W) in 0..1 -> `latents` (B,4,H,W) as Stage A reads them.

    The last batch norm and the checkpoint's scale factor are folded into the last layer's weights;
    what the reference unshuffles first is the first convolution's stride.
    """

    def __init__(self, config: StageAConfig, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        widths, shuffle = config.widths[::-1], config.up_down_scale_factor
        unshuffle = nn.Conv2d(config.in_channels, widths[0], shuffle, stride=shuffle)
        self.embed = Convolution(unshuffle, layout)
        self.blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            if i > 0:
                down = nn.Conv2d(widths[i - 1], width, 4, stride=2, padding=1)
                self.blocks.append(Convolution(down, layout))
            self.blocks.append(MixingResidualBlock(width, layout))
        self.out = Pointwise(widths[-1], config.latent_channels, layout)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(to_layout(image, self.layout))
        for block in self.blocks:
            x = block(x)
        return to_nchw(self.out(x), self.layout).float()
