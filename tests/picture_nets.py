"""The picture side's networks by their own authors' modules, with random weights, and their files.

Every batch norm has statistics and a scale and shift that matter.
"""

from functools import partial
from pathlib import Path

import torch
from host_tools import required
from safetensors.torch import save_file
from torch import Tensor, nn

from exporter.checkpoint.picture_files import PictureFiles
from validation.torchvision_models import has_torchvision, torchvision_models

# What a stage of torchvision's EfficientNet is: squeezing (MBConv) or fused, expansion, kernel,
# stride, channels in and out, blocks.
Stage = tuple[bool, int, int, int, int, int, int]
# Odd widths; blocks that expand nothing, of both kinds; kernels of 3 and 5.
ODD: tuple[Stage, ...] = (
    (False, 1, 3, 1, 5, 8, 2),
    (True, 1, 5, 2, 8, 9, 2),
    (False, 3, 3, 2, 9, 11, 1),
    (True, 4, 3, 1, 11, 11, 2),
)
ODD_STRIDES = "2,1,2,2,1"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's


class Compressor(nn.Module):
    """As the public code has it: features, a 1x1 convolution, a batch norm; ImageNet's numbers."""

    def __init__(self, backbone: nn.Module, width: int, c_latent: int, affine: bool) -> None:
        super().__init__()
        self.backbone = backbone
        norm = nn.BatchNorm2d(c_latent, affine=affine)
        self.mapper = nn.Sequential(nn.Conv2d(width, c_latent, 1, bias=False), norm)
        self.register_buffer("mean", MEAN.clone())
        self.register_buffer("std", STD.clone())

    def forward(self, image: Tensor) -> Tensor:
        centred = image - self.mean.view(1, 3, 1, 1)
        return self.mapper(self.backbone(centred / self.std.view(1, 3, 1, 1)))


class Previewer(nn.Module):
    """As the public code has it, at other widths."""

    def __init__(self, c_latent: int, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        layers = [
            *_normed(nn.Conv2d(c_latent, width, 1)),
            *_normed(nn.Conv2d(width, width, 3, padding=1)),
            *_normed(nn.ConvTranspose2d(width, half, 2, stride=2)),
            *_normed(nn.Conv2d(half, half, 3, padding=1)),
            *_normed(nn.ConvTranspose2d(half, quarter, 2, stride=2)),
            *_normed(nn.Conv2d(quarter, quarter, 3, padding=1)),
            *_normed(nn.ConvTranspose2d(quarter, quarter, 2, stride=2)),
            *_normed(nn.Conv2d(quarter, quarter, 3, padding=1)),
            nn.Conv2d(quarter, 3, 1),
        ]
        self.blocks = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        return self.blocks(latents).clamp(0, 1)


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [layer, nn.GELU(), nn.BatchNorm2d(layer.out_channels)]


def draw_norms(module: nn.Module) -> None:
    """Give every batch norm statistics, scales of either sign and shifts."""
    module.eval().requires_grad_(False)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 2)
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)


def v2_s(c_latent: int = 16) -> Compressor:
    """torchvision's own efficientnet_v2_s."""
    torch.manual_seed(1)
    net = Compressor(_models().efficientnet_v2_s().features, 1280, c_latent, affine=False)
    draw_norms(net)
    return net


def compressor(
    c_latent: int, *, affine: bool = False, stages: tuple[Stage, ...] = ODD
) -> Compressor:
    """torchvision's EfficientNet of other stages."""
    models = _models()
    efficientnet = models.efficientnet
    # Their own configs round widths to multiples of 8.
    config = efficientnet._MBConvConfig
    kinds = {True: efficientnet.MBConv, False: efficientnet.FusedMBConv}
    torch.manual_seed(2)
    net = efficientnet.EfficientNet(
        [config(*numbers, block=kinds[squeezes]) for squeezes, *numbers in stages],
        dropout=0.0,
        last_channel=23,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    )
    found = Compressor(net.features, 23, c_latent, affine)
    draw_norms(found)
    return found


def previewer(c_latent: int, width: int = 20) -> Previewer:
    torch.manual_seed(3)
    found = Previewer(c_latent, width)
    draw_norms(found)
    found.blocks[-1].weight.mul_(0.2)  # most pixels inside 0..1
    found.blocks[-1].bias.fill_(0.5)
    found.blocks[8].weight[1] *= -1  # scales may be negative
    return found


def save(module: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write a module's weights by their own names, training's counters included."""
    tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(tensors, path, metadata)
    return path


def files(folder: Path, c_latent: int) -> PictureFiles:
    """Small files of both for a checkpoint of so many channels."""
    first = save(compressor(c_latent), folder / "compressor.safetensors", {"strides": ODD_STRIDES})
    return PictureFiles(first, save(previewer(c_latent), folder / "preview.safetensors"))


def _models():
    required(has_torchvision(), "torchvision beside the environment", "make test")
    return torchvision_models()
