"""The picture side's reference: its files' own weights, every batch norm as it is.

Plain PyTorch over names; tests hold it, and the graphs, to torchvision's module.
"""

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from exporter.checkpoint.compressor import Block, CompressorConfig, Squeeze
from exporter.checkpoint.open import Component
from exporter.checkpoint.previewer import PreviewConfig

_BACKBONE_EPS, _EPS = 1e-3, 1e-5
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def compress(component: Component[CompressorConfig], image: Tensor) -> Tensor:
    """The image embedding (B,C,h,w) of pictures (B,3,S*h,S*w) in 0..1."""
    weights, config = _weights(component), component.config
    mean, std = (
        weights.get(name, known).view(1, 3, 1, 1)
        for name, known in (("mean", _MEAN), ("std", _STD))
    )
    x = (image - mean) / std
    for block in config.blocks:
        x = _block(weights, block, x)
    return _norm(weights, "mapper.1", F.conv2d(x, weights["mapper.0.weight"]), _EPS)


def preview(component: Component[PreviewConfig], latents: Tensor) -> Tensor:
    """The picture (B,3,8h,8w) in 0..1 of Stage C's latents (B,C,h,w)."""
    weights, x = _weights(component), latents
    for layer in component.config.layers:
        weight, bias = (weights[f"{layer.name}.{part}"] for part in ("weight", "bias"))
        if layer.doubles:
            x = F.conv_transpose2d(x, weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=layer.kernel // 2)
        if layer.normed:
            x = _norm(weights, layer.norm, F.gelu(x), _EPS)
    return x.clamp(0, 1)


def _weights(
    component: Component[CompressorConfig] | Component[PreviewConfig],
) -> dict[str, Tensor]:
    return {name: value.float() for name, value in load_file(component.files[0]).items()}


def _block(weights: dict[str, Tensor], block: Block, x: Tensor) -> Tensor:
    inner = x
    for layer in block.layers:
        if isinstance(layer, Squeeze):
            scale = F.adaptive_avg_pool2d(inner, 1)
            for name in ("fc1", "fc2"):
                weight, bias = (weights[f"{layer.name}.{name}.{p}"] for p in ("weight", "bias"))
                scale = F.conv2d(scale, weight, bias)
                scale = F.silu(scale) if name == "fc1" else scale.sigmoid()
            inner = inner * scale
            continue
        groups = layer.c_in if layer.depthwise else 1
        weight, padding = weights[f"{layer.name}.0.weight"], layer.kernel // 2
        inner = F.conv2d(inner, weight, stride=layer.stride, padding=padding, groups=groups)
        inner = _norm(weights, f"{layer.name}.1", inner, _BACKBONE_EPS)
        inner = F.silu(inner) if layer.activated else inner
    return x + inner if block.residual else inner


def _norm(weights: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale, shift = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    return F.batch_norm(x, mean, variance, scale, shift, eps=eps)
