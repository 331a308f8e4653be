"""The picture side unfolded, with its authors' names: EfficientNet, VQGAN, previewer.

What they read is the picture of the reference run, and Stage C's latents of it.
"""

from collections.abc import Iterator

import torch
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.compressor import Block, CompressorConfig, Convolution, Squeeze
from exporter.checkpoint.open import Component
from exporter.checkpoint.previewer import PreviewConfig

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
    # The class that it returns otherwise cannot be made by diffusers 0.39 itself.
    (latents,) = vqgan.encode(image, return_dict=False)
    return latents / vqgan.config.scale_factor


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


class _Squeeze(nn.Module):
    """Squeeze-and-excitation (torchvision's SqueezeExcitation, with SiLU)."""

    def __init__(self, layer: Squeeze) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(layer.width, layer.inner, 1)
        self.fc2 = nn.Conv2d(layer.inner, layer.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.silu(self.fc1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


class _Block(nn.Module):
    """MBConv or FusedMBConv."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = nn.Sequential(*map(_layer, block.layers))
        self._residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self._residual else self.block(x)


def _layer(layer: Convolution | Squeeze) -> nn.Module:
    if isinstance(layer, Squeeze):
        return _Squeeze(layer)
    groups = layer.c_in if layer.depthwise else 1
    convolution = nn.Conv2d(
        layer.c_in, layer.c_out, layer.kernel, layer.stride, layer.kernel // 2, groups=groups,
        bias=False,
    )  # fmt: skip
    activation = [nn.SiLU()] if layer.activated else []
    return nn.Sequential(convolution, nn.BatchNorm2d(layer.c_out, eps=_EPS), *activation)


def _efficientnet(config: CompressorConfig) -> nn.Module:
    """The features as torchvision lays them out: stem, stages of blocks, head.

    By hand, for a torchvision in the environment is imported by transformers, and fails there
    beside another build of PyTorch; the tests hold this one to torchvision's own.
    """
    stem, *blocks, head = config.blocks
    stages: dict[str, list[nn.Module]] = {}
    for block in blocks:
        stages.setdefault(block.layers[0].name.split(".")[1], []).append(_Block(block))
    parts = [nn.Sequential(*found) for found in stages.values()]
    return nn.Sequential(_layer(stem.layers[0]), *parts, _layer(head.layers[0]))


def _fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a network its weights, all of them, as fp32."""
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    kept = {name: value.float() for name, value in weights.items() if name not in counters}
    lacking = network.load_state_dict(kept, strict=False)
    if lacking.unexpected_keys or {*lacking.missing_keys} - counters:
        raise AssertionError(f"the reference has other weights: {lacking}")
    network.eval().requires_grad_(False)
