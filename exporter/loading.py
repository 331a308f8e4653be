"""From a checkpoint's weights to the export-form modules: where the exact rewrites happen.

Products of weights are taken in fp64 and rounded once, so a rewrite costs one rounding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from exporter.configs import StageAConfig, StageBConfig, StageCConfig, TextConfig
from exporter.modules.layout import Layout
from exporter.modules.stage_a import StageA
from exporter.modules.stage_b import StageB, StageBCondition, plan
from exporter.modules.stage_c import StageC, StageCCondition
from exporter.modules.text_encoder import TextEncoder
from exporter.weights import WeightSource, fill

Tensors = Iterator[tuple[str, Tensor]]


def load_text_encoder(config: TextConfig, weights: WeightSource) -> TextEncoder:
    """CLIPTextModel's weights under the names of the export form."""
    with torch.device("meta"):
        module = TextEncoder(config)
    tensors = {}
    for name in module.state_dict():
        source = name.replace(".fc", ".mlp.fc").replace("layers.", "encoder.layers.")
        if name.startswith(("token_embedding", "position_embedding")):
            source = f"embeddings.{name}"
        tensors[name] = weights[f"text_model.{source}"]
    fill(module, tensors)
    return module


def load_stage_c_condition(config: StageCConfig, weights: WeightSource) -> StageCCondition:
    """`cond_mapper` and every block's text projections (rewrite 5)."""
    with torch.device("meta"):
        module = StageCCondition(config)
    tensors = dict(_copy(weights, "cond_mapper.0", "cond_mapper.0"))
    tensors |= _copy(weights, "cond_mapper.2", "cond_mapper.2")
    for i in range(config.depth):
        tensors |= _text_key_value(weights, f"blocks.{3 * i + 2}", f"blocks.{i}")
    fill(module, tensors)
    return module


def load_stage_c(config: StageCConfig, weights: WeightSource, layout: Layout) -> StageC:
    """Everything of Stage C that depends on the step."""
    with torch.device("meta"):
        module = StageC(config, layout)
    tensors = dict(_pointwise(weights, "projection", "projection"))
    tensors |= _pointwise(weights, "out.1", "out")
    for i in range(0, 3 * config.depth, 3):
        tensors |= _res(weights, f"blocks.{i}", f"blocks.{i}")
        tensors |= _timestep(weights, f"blocks.{i + 1}", f"blocks.{i + 1}", config.c)
        tensors |= _attention(weights, f"blocks.{i + 2}", f"blocks.{i + 2}")
    fill(module, tensors)
    return module


def load_stage_b_condition(
    config: StageBConfig, weights: WeightSource, text: bool
) -> StageBCondition:
    """The text's projection, norm and every block's keys and values; the resize has no weights."""
    with torch.device("meta"):
        module = StageBCondition(config, text)
    tensors: dict[str, Tensor] = {}
    if text:
        tensors |= _copy(weights, "clip_mapper", "clip_mapper")
        count = dict.fromkeys(config.text_widths, 0)
        for name, kind, level, _ in plan(config):
            if kind == "attention":
                width = config.c_hidden[level]
                tensors |= _text_key_value(weights, name, f"blocks.{width}.{count[width]}")
                count[width] += 1
    fill(module, tensors)
    return module


def load_stage_b(
    config: StageBConfig, weights: WeightSource, layout: Layout, zero_tokens: int | None = None
) -> StageB:
    """Everything of Stage B that depends on the step, the image embedding at rank 16.

    With `zero_tokens`, the text-free form: that many tokens of zero text (rewrite 6).
    """
    with torch.device("meta"):
        module = StageB(config, layout, zero_tokens)
    tensors = {
        "embedding.convolution.weight": _unshuffled(weights["embedding.1.weight"], config),
        "embedding.convolution.bias": weights["embedding.1.bias"],
    }
    tensors |= _pointwise(weights, "clf.1", "clf")
    for i, (name, kind, level, _) in enumerate(plan(config)):
        if kind == "res":
            mapper = _mapper_name(name, config) if config.inject_effnet[level] else None
            tensors |= _res(weights, name, f"blocks.{i}", mapper, config.c_cond)
        elif kind == "timestep":
            tensors |= _timestep(weights, name, f"blocks.{i}", config.c_hidden[level])
        elif kind == "attention":
            tensors |= _attention(weights, name, f"blocks.{i}")
            if zero_tokens is not None:
                tensors[f"blocks.{i}.constant_kv"] = _constant_kv(weights, name)
        else:
            tensors |= _copy(weights, f"{name}.1", f"blocks.{i}.convolution")
    fill(module, tensors)
    return module


def load_stage_a(config: StageAConfig, weights: WeightSource, layout: Layout) -> StageA:
    """The VQGAN's decoder, the latents' scale and the blocks' gammas folded in."""
    with torch.device("meta"):
        module = StageA(config, layout)
    embed = dict(_pointwise(weights, "up_blocks.0.0", "embed"))
    tensors = {**embed, "embed.weight": embed["embed.weight"] * config.scale_factor}
    tensors |= _pointwise(weights, "out_block.0", "out")
    for i, block in enumerate(module.blocks):
        source = f"up_blocks.{i + 1}"
        if hasattr(block, "depthwise"):
            tensors |= _mixing(weights, source, f"blocks.{i}")
        else:
            tensors |= _copy(weights, source, f"blocks.{i}.convolution")
    fill(module, tensors)
    return module


def _copy(weights: WeightSource, source: str, target: str) -> Tensors:
    for name in ("weight", "bias"):
        yield f"{target}.{name}", weights[f"{source}.{name}"]


def _pointwise(weights: WeightSource, source: str, target: str) -> Tensors:
    """A Linear or a 1x1 convolution as (c_out, c_in)."""
    yield f"{target}.weight", weights[f"{source}.weight"].flatten(1)
    yield f"{target}.bias", weights[f"{source}.bias"]


def _res(
    weights: WeightSource, source: str, target: str, mapper: str | None = None, c_cond: int = 0
) -> Tensors:
    """Rewrites 1 (with a `mapper`, its c_cond channels come last in the Linear) and 7."""
    yield from _copy(weights, f"{source}.depthwise", f"{target}.depthwise.convolution")
    expand = weights[f"{source}.channelwise.0.weight"].double()
    bias = weights[f"{source}.channelwise.0.bias"].double()
    if mapper is not None:
        own, embedded = expand[:, :-c_cond], expand[:, -c_cond:]
        low_rank = embedded @ weights[f"{mapper}.weight"].flatten(1).double()
        bias = bias + embedded @ weights[f"{mapper}.bias"].double()
        expand = torch.cat([own, low_rank], dim=1)
    yield f"{target}.expand.weight", expand.float()
    yield f"{target}.expand.bias", bias.float()
    contract = weights[f"{source}.channelwise.4.weight"]
    beta = weights[f"{source}.channelwise.2.beta"].flatten().double()
    yield f"{target}.grn.gamma", weights[f"{source}.channelwise.2.gamma"].flatten()
    yield f"{target}.contract.weight", contract
    folded = weights[f"{source}.channelwise.4.bias"].double() + contract.double() @ beta
    yield f"{target}.contract.bias", folded.float()


def _timestep(weights: WeightSource, source: str, target: str, width: int) -> Tensors:
    yield f"{target}.mapper.weight", weights[f"{source}.mapper.weight"]
    bias = weights[f"{source}.mapper.bias"].clone()
    bias[:width] += 1
    yield f"{target}.mapper.bias", bias


def _attention(weights: WeightSource, source: str, target: str) -> Tensors:
    for name in ("to_q", "to_k", "to_v"):
        yield from _copy(weights, f"{source}.attention.{name}", f"{target}.{name}")
    yield from _copy(weights, f"{source}.attention.to_out.0", f"{target}.to_out")


def _text_key_value(weights: WeightSource, source: str, target: str) -> Tensors:
    yield from _copy(weights, f"{source}.kv_mapper.1", f"{target}.kv_mapper")
    for name in ("to_k", "to_v"):
        yield from _copy(weights, f"{source}.attention.{name}", f"{target}.{name}")


def _constant_kv(weights: WeightSource, source: str) -> Tensor:
    """Key and value (1,2,1,width) that zero text gives in one attention block (rewrite 6)."""
    text = weights["clip_mapper.bias"].double()
    text = torch.nn.functional.layer_norm(text, text.shape, eps=1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        weight, bias = weights[f"{source}.{name}.weight"], weights[f"{source}.{name}.bias"]
        return weight.double() @ x + bias.double()

    mapped = linear("kv_mapper.1", torch.nn.functional.silu(text))
    pair = [linear("attention.to_k", mapped), linear("attention.to_v", mapped)]
    return torch.stack(pair)[None, :, None].float()


def _mixing(weights: WeightSource, source: str, target: str) -> Tensors:
    """scale * f(norm(x) * (1 + m) + n): all of it linear around f, so all of it folds.

    Replication padding commutes with the affine part, zero padding would not.
    """
    gammas = weights[f"{source}.gammas"].double()
    conv = weights[f"{source}.depthwise.1.weight"].double()
    bias = weights[f"{source}.depthwise.1.bias"].double()
    inner = f"{target}.depthwise.convolution.1"
    yield f"{inner}.weight", (conv * (1 + gammas[0]) * gammas[2]).float()
    yield f"{inner}.bias", ((bias + gammas[1] * conv.sum(dim=(1, 2, 3))) * gammas[2]).float()
    expand = weights[f"{source}.channelwise.0.weight"].double()
    yield f"{target}.expand.weight", (expand * (1 + gammas[3])).float()
    bias = weights[f"{source}.channelwise.0.bias"].double()
    yield f"{target}.expand.bias", (bias + gammas[4] * expand.sum(dim=1)).float()
    for name in ("weight", "bias"):
        tensor = weights[f"{source}.channelwise.2.{name}"].double()
        yield f"{target}.contract.{name}", (tensor * gammas[5]).float()


def _unshuffled(weight: Tensor, config: StageBConfig) -> Tensor:
    """A 1x1 convolution after PixelUnshuffle as one convolution of stride `patch_size`."""
    patch = config.patch_size
    return weight.view(weight.shape[0], config.c_in, patch, patch)


def _mapper_name(block: str, config: StageBConfig) -> str:
    """The effnet mapper of a block's level: the down levels' come first, then the up levels'."""
    path, level = block.split(".")[:2]
    return f"effnet_mappers.{int(level) + (config.levels if path == 'up_blocks' else 0)}"
