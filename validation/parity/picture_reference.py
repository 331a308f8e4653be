"""The picture side by its authors' modules: torchvision's EfficientNet, diffusers' VQGAN.

What they read is the picture of the reference run, and Stage C's latents of it.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.compressor import Block, CompressorConfig, Convolution, Squeeze
from exporter.checkpoint.open import Component
from exporter.checkpoint.previewer import PreviewConfig
from validation.torchvision_models import torchvision_models

_EPS = 1e-3  # torchvision's, of EfficientNetV2's norms
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's


def compressed(component: Component[CompressorConfig], image: Tensor) -> Tensor:
    """The image embedding (B,16,h,w) of a picture (B,3,S*h,S*w) in 0..1."""
    config, weights = component.config, load_file(component.files[0])
    mean, std = (weights.pop(name, torch.tensor(values)).float().view(1, 3, 1, 1)
                 for name, values in (("mean", _MEAN), ("std", _STD)))  # fmt: skip
    network = nn.ModuleDict(
        {
            "backbone": _efficientnet(config),
            "mapper": nn.Sequential(
                nn.Conv2d(config.width, config.c_latent, 1, bias=False),
                nn.BatchNorm2d(config.c_latent, affine=config.affine),
            ),
        }
    )
    _fill(network, weights)
    return network["mapper"](network["backbone"]((image - mean) / std))


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """The picture as large as the compressor reads it."""
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)


def encoded(vqgan: PaellaVQModel, image: Tensor) -> Tensor:
    """Stage B's latents of a picture: what Stage A, which scales them, makes it of again."""
    return vqgan.encode(image).latents / vqgan.config.scale_factor


def previewed(component: Component[PreviewConfig], latents: Tensor) -> Tensor:
    """The small picture (B,3,8h,8w) of Stage C's latents."""
    layers = list(_previewer(component.config))
    network = nn.ModuleDict({"blocks": nn.Sequential(*layers)})
    _fill(network, load_file(component.files[0]))
    return network["blocks"](latents).clamp(0, 1)


def _previewer(config: PreviewConfig) -> Iterator[nn.Module]:
    for layer in config.layers:
        if layer.doubles:
            yield nn.ConvTranspose2d(layer.c_in, layer.c_out, 2, stride=2)
        else:
            yield nn.Conv2d(layer.c_in, layer.c_out, layer.kernel, padding=layer.kernel // 2)
        if layer.normed:
            yield nn.GELU()
            yield nn.BatchNorm2d(layer.c_out)


def _efficientnet(config: CompressorConfig) -> nn.Module:
    """torchvision's network of these stages; it makes its own layers, widths and strides."""
    efficientnet = torchvision_models().efficientnet
    stages: dict[str, list[Block]] = {}
    for block in config.blocks[1:-1]:
        stages.setdefault(block.layers[0].name.split(".")[1], []).append(block)
    strides = config.strides[1:]
    settings = [
        _stage(efficientnet, blocks, stride)
        for blocks, stride in zip(stages.values(), strides, strict=True)
    ]
    found = efficientnet.EfficientNet(
        settings,
        dropout=0.0,
        last_channel=config.width,
        norm_layer=partial(nn.BatchNorm2d, eps=_EPS),
    )
    return found.features


def _stage(efficientnet: Any, blocks: list[Block], stride: int) -> Any:
    first = blocks[0]
    convolutions = [layer for layer in first.layers if isinstance(layer, Convolution)]
    squeezes = any(isinstance(layer, Squeeze) for layer in first.layers)
    kind = efficientnet.MBConvConfig if squeezes else efficientnet.FusedMBConvConfig
    c_in, c_out = convolutions[0].c_in, convolutions[-1].c_out
    # Fused blocks that expand nothing are one convolution, squeezing ones then begin depthwise.
    plain = len(convolutions) == (2 if squeezes else 1)
    ratio = 1 if plain else convolutions[0].c_out / c_in
    spatial = next((layer for layer in convolutions if layer.depthwise), convolutions[0])
    return kind(ratio, spatial.kernel, stride, c_in, c_out, len(blocks))


def _fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a network its weights, all of them, as fp32."""
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    kept = {name: value.float() for name, value in weights.items() if name not in counters}
    lacking = network.load_state_dict(kept, strict=False)
    if lacking.unexpected_keys or {*lacking.missing_keys} - counters:
        raise AssertionError(f"the reference has other weights: {lacking}")
    network.eval().requires_grad_(False)
