"""The picture side's weights in export form: its batch norms are folded, in fp64, rounded once.

A norm behind a convolution is all folded into it. Of one in front of a convolution of more than a
cell the shift stays, which is added before zeros are padded.
"""

from functools import partial

import torch
from torch import Tensor

from exporter.checkpoint.compressor import CompressorConfig, Squeeze
from exporter.checkpoint.configs import StageAConfig
from exporter.checkpoint.previewer import PreviewConfig, PreviewLayer
from exporter.checkpoint.weights import Deferred, Recipes, WeightSource
from exporter.modules.compressor import Compressor
from exporter.modules.layout import Layout
from exporter.modules.preview import Preview, shifts
from exporter.modules.rewrites import copied, mixing
from exporter.modules.stage_a import StageAEncoder
from runtimes.errors import RunError

# torchvision's EfficientNetV2, and PyTorch's default.
_BACKBONE_EPS, _EPS = 1e-3, 1e-5
# ImageNet's, by which the backbone's pictures are normalised where its file does not say.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of a norm's shift: a scale this much smaller adds nothing that fp32 would keep.
_LEAST_SCALE = 1e-9


def load_compressor(config: CompressorConfig, weights: WeightSource) -> Deferred:
    """EfficientNet's features and the mapper, every norm folded."""
    with torch.device("meta"):
        module = Compressor(config)
    recipes: Recipes = {"mean": lambda: _picture(weights, config, "mean", _MEAN).float()}
    for i, block in enumerate(config.blocks):
        for j, layer in enumerate(block.layers):
            target = f"blocks.{i}.layers.{j}"
            if isinstance(layer, Squeeze):
                recipes |= copied(weights, f"{layer.name}.fc1", f"{target}.fc1")
                recipes |= copied(weights, f"{layer.name}.fc2", f"{target}.fc2")
            else:
                source, norm = f"{layer.name}.0", f"{layer.name}.1"
                recipes |= _normed(weights, source, norm, f"{target}.0", _BACKBONE_EPS)
    stem = recipes["blocks.0.layers.0.0.weight"]

    def scaled_stem() -> Tensor:
        deviation = _picture(weights, config, "std", _STD).view(1, 3, 1, 1)
        return (stem().double() / deviation).float()

    recipes["blocks.0.layers.0.0.weight"] = scaled_stem
    affine = config.affine
    return Deferred(
        module, recipes | _normed(weights, "mapper.0", "mapper.1", "mapper", _EPS, affine=affine)
    )


def load_stage_a_encoder(config: StageAConfig, weights: WeightSource, layout: Layout) -> Deferred:
    """The VQGAN's encoder, its norm and the latents' scale folded into the last layer."""
    with torch.device("meta"):
        module = StageAEncoder(config, layout)
    patch = config.up_down_scale_factor

    def unshuffled() -> Tensor:
        weight = weights["in_block.1.weight"]
        return weight.view(weight.shape[0], config.in_channels, patch, patch)

    recipes = copied(weights, "in_block.1", "embed.convolution")
    recipes["embed.convolution.weight"] = unshuffled
    for i, block in enumerate(module.blocks):
        if hasattr(block, "depthwise"):
            recipes |= mixing(weights, f"down_blocks.{i}", f"blocks.{i}")
        else:
            recipes |= copied(weights, f"down_blocks.{i}", f"blocks.{i}.convolution")
    last = f"down_blocks.{len(module.blocks)}"
    scale = 1 / config.scale_factor
    recipes |= _normed(weights, f"{last}.0", f"{last}.1", "out", _EPS, scale=scale)
    weight = recipes["out.weight"]
    return Deferred(module, recipes | {"out.weight": lambda: weight().flatten(1)})


def load_preview(config: PreviewConfig, weights: WeightSource) -> Deferred:
    """The previewer's convolutions, each with the norm in front of it."""
    with torch.device("meta"):
        module = Preview(config)
    recipes: Recipes = {}
    before: PreviewLayer | None = None
    for i, layer in enumerate(config.layers):
        target = f"layers.{i}.convolution"
        recipes |= copied(weights, layer.name, target)
        if before is not None:
            recipes |= _behind_norm(weights, before, layer, f"layers.{i}")
        before = layer if layer.normed else None
    return Deferred(module, recipes)


def _behind_norm(
    weights: WeightSource, before: PreviewLayer, layer: PreviewLayer, target: str
) -> Recipes:
    """A convolution of s*x + t: its weights times s, and t in its bias or added before."""

    def weight() -> Tensor:
        scale, _ = _behind(weights, before)
        inputs = scale.view(-1, 1, 1, 1) if layer.doubles else scale.view(-1, 1, 1)
        return (weights[f"{layer.name}.weight"].double() * inputs).float()

    def shift() -> Tensor:
        scale, shift = _behind(weights, before)
        return (shift / scale).float().view(1, -1, 1, 1)

    def bias() -> Tensor:
        own, kernel = (weights[f"{layer.name}.{part}"].double() for part in ("bias", "weight"))
        _, shift = _affine(weights, before.norm, _EPS)
        return (own + kernel.flatten(1) @ shift).float()

    recipes: Recipes = {f"{target}.convolution.weight": weight}
    if shifts(layer):
        return recipes | {f"{target}.before.shift": shift}
    return recipes | {f"{target}.convolution.bias": bias}


def _behind(weights: WeightSource, before: PreviewLayer) -> tuple[Tensor, Tensor]:
    """Scale and shift of a norm; no scale is 0 where a shift has to be divided by it."""
    scale, shift = _affine(weights, before.norm, _EPS)
    least = (_LEAST_SCALE * shift.abs()).clamp(min=1e-30)
    return torch.where(scale.abs() < least, torch.copysign(least, scale), scale), shift


def _normed(
    weights: WeightSource,
    source: str,
    norm: str,
    target: str,
    eps: float,
    *,
    affine: bool = True,
    scale: float = 1.0,
) -> Recipes:
    """A convolution without a bias, the norm behind it, and a number that multiplies both."""

    def weight() -> Tensor:
        factor, _ = _affine(weights, norm, eps, affine)
        return (weights[f"{source}.weight"].double() * (factor * scale).view(-1, 1, 1, 1)).float()

    def bias() -> Tensor:
        return (_affine(weights, norm, eps, affine)[1] * scale).float()

    return {f"{target}.weight": weight, f"{target}.bias": bias}


def _affine(
    weights: WeightSource, norm: str, eps: float, affine: bool = True
) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation as scale and shift, (width) each, in fp64."""
    read = partial(_read, weights, norm)
    variance = read("running_var")
    if variance.device.type != "meta" and bool((variance < 0).any()):
        raise RunError(f"'{norm}.running_var' has a negative variance; the file is damaged")
    scale = torch.rsqrt(variance + eps)
    if affine:
        scale = scale * read("weight")
    shift = -read("running_mean") * scale
    return scale, shift + read("bias") if affine else shift


def _read(weights: WeightSource, norm: str, part: str) -> Tensor:
    return weights[f"{norm}.{part}"].double()


def _picture(
    weights: WeightSource, config: CompressorConfig, name: str, otherwise: tuple[float, ...]
) -> Tensor:
    """Mean or standard deviation of the channels, (1,3,1,1)."""
    values = weights[name].double() if config.normalised else torch.tensor(otherwise).double()
    if name == "std" and values.device.type != "meta" and not bool((values > 0).all()):
        raise RunError("'std' of the compressor is not above 0; the file is damaged")
    return values.view(1, 3, 1, 1)
