"""From a checkpoint's weights to the export-form modules: where the exact rewrites happen.

Every function gives a module without memory behind its weights, and a recipe for each of them.
Products of weights are taken in fp64 and rounded once, so a rewrite costs one rounding.
"""

from functools import partial

import torch
from torch import Tensor

from exporter.checkpoint.configs import StageAConfig, StageBConfig, StageCConfig, TextConfig
from exporter.checkpoint.weights import Deferred, Recipe, Recipes, WeightSource
from exporter.modules.layout import Layout
from exporter.modules.stage_a import StageA
from exporter.modules.stage_b import StageB, StageBCondition, plan_blocks
from exporter.modules.stage_c import StageC, StageCCondition
from exporter.modules.text_encoder import TextEncoder


def load_text_encoder(config: TextConfig, weights: WeightSource) -> Deferred:
    """CLIPTextModel's weights under the names of the export form."""
    with torch.device("meta"):
        module = TextEncoder(config)
    recipes = {}
    for name in module.state_dict():
        source = name.replace(".fc", ".mlp.fc").replace("layers.", "encoder.layers.")
        if name.startswith(("token_embedding", "position_embedding")):
            source = f"embeddings.{name}"
        recipes[name] = _read(weights, f"text_model.{source}")
    return Deferred(module, recipes)


def load_stage_c_condition(config: StageCConfig, weights: WeightSource) -> Deferred:
    """`cond_mapper` and every block's text projections (rewrite 5)."""
    with torch.device("meta"):
        module = StageCCondition(config)
    recipes = copied(weights, "cond_mapper.0", "cond_mapper.0")
    recipes |= copied(weights, "cond_mapper.2", "cond_mapper.2")
    for i in range(config.depth):
        recipes |= _text_key_value(weights, f"blocks.{3 * i + 2}", f"blocks.{i}")
    return Deferred(module, recipes)


def load_stage_c(config: StageCConfig, weights: WeightSource, layout: Layout) -> Deferred:
    """Everything of Stage C that depends on the step."""
    with torch.device("meta"):
        module = StageC(config, layout)
    recipes = _pointwise(weights, "projection", "projection")
    recipes |= _pointwise(weights, "out.1", "out")
    for i in range(0, 3 * config.depth, 3):
        recipes |= _res(weights, f"blocks.{i}", f"blocks.{i}")
        recipes |= _timestep(weights, f"blocks.{i + 1}", f"blocks.{i + 1}", config.c)
        recipes |= _attention(weights, f"blocks.{i + 2}", f"blocks.{i + 2}")
    return Deferred(module, recipes)


def load_stage_b_condition(config: StageBConfig, weights: WeightSource, text: bool) -> Deferred:
    """The text's projection, norm and every block's keys and values; the resize has no weights."""
    with torch.device("meta"):
        module = StageBCondition(config, text)
    recipes: Recipes = {}
    if text:
        recipes |= copied(weights, "clip_mapper", "clip_mapper")
        count = dict.fromkeys(config.text_widths, 0)
        for block in plan_blocks(config):
            if block.kind == "attention":
                target = f"blocks.{block.width}.{count[block.width]}"
                recipes |= _text_key_value(weights, block.name, target)
                count[block.width] += 1
    return Deferred(module, recipes)


def load_stage_b(
    config: StageBConfig, weights: WeightSource, layout: Layout, zero_tokens: int | None = None
) -> Deferred:
    """Everything of Stage B that depends on the step, the image embedding at rank 16.

    With `zero_tokens`, the text-free form: that many tokens of zero text (rewrite 6).
    """
    with torch.device("meta"):
        module = StageB(config, layout, zero_tokens)
    recipes: Recipes = {
        "embedding.convolution.weight": lambda: _unshuffled(weights["embedding.1.weight"], config),
        "embedding.convolution.bias": _read(weights, "embedding.1.bias"),
    }
    recipes |= _pointwise(weights, "clf.1", "clf")
    for i, block in enumerate(plan_blocks(config)):
        source, target = block.name, f"blocks.{i}"
        if block.kind == "res":
            recipes |= _res(weights, source, target, block.mapper, config.c_cond)
        elif block.kind == "timestep":
            recipes |= _timestep(weights, source, target, block.width)
        elif block.kind == "attention":
            recipes |= _attention(weights, source, target)
            if zero_tokens is not None:
                recipes[f"{target}.constant_kv"] = partial(_constant_kv, weights, source)
        else:
            recipes |= copied(weights, f"{source}.1", f"{target}.convolution")
    return Deferred(module, recipes)


def load_stage_a(config: StageAConfig, weights: WeightSource, layout: Layout) -> Deferred:
    """The VQGAN's decoder, the latents' scale and the blocks' gammas folded in."""
    with torch.device("meta"):
        module = StageA(config, layout)
    recipes = _pointwise(weights, "up_blocks.0.0", "embed")
    embed = recipes["embed.weight"]
    recipes["embed.weight"] = lambda: embed() * config.scale_factor
    recipes |= _pointwise(weights, "out_block.0", "out")
    for i, block in enumerate(module.blocks):
        source = f"up_blocks.{i + 1}"
        if hasattr(block, "depthwise"):
            recipes |= mixing(weights, source, f"blocks.{i}")
        else:
            recipes |= copied(weights, source, f"blocks.{i}.convolution")
    return Deferred(module, recipes)


def _read(weights: WeightSource, name: str) -> Recipe:
    return partial(weights.__getitem__, name)


def copied(weights: WeightSource, source: str, target: str) -> Recipes:
    """A layer's weight and bias as they are."""
    names = ("weight", "bias")
    return {f"{target}.{name}": _read(weights, f"{source}.{name}") for name in names}


def _pointwise(weights: WeightSource, source: str, target: str) -> Recipes:
    """A Linear or a 1x1 convolution as (c_out, c_in)."""
    return {
        f"{target}.weight": lambda: weights[f"{source}.weight"].flatten(1),
        f"{target}.bias": _read(weights, f"{source}.bias"),
    }


def _res(
    weights: WeightSource, source: str, target: str, mapper: str | None = None, c_cond: int = 0
) -> Recipes:
    """Rewrites 1 (with a `mapper`, its c_cond channels come last in the Linear) and 7."""
    expand, contract = f"{source}.channelwise.0", f"{source}.channelwise.4"
    recipes = copied(weights, f"{source}.depthwise", f"{target}.depthwise.convolution")
    recipes |= copied(weights, expand, f"{target}.expand")
    if mapper is not None:
        recipes[f"{target}.expand.weight"] = partial(_low_rank, weights, expand, mapper, c_cond)
        recipes[f"{target}.expand.bias"] = partial(_low_rank_bias, weights, expand, mapper, c_cond)
    recipes[f"{target}.grn.gamma"] = partial(_flat, weights, f"{source}.channelwise.2.gamma")
    recipes[f"{target}.contract.weight"] = _read(weights, f"{contract}.weight")

    def bias() -> Tensor:
        beta = _flat(weights, f"{source}.channelwise.2.beta").double()
        folded = weights[f"{contract}.weight"].double() @ beta
        return (weights[f"{contract}.bias"].double() + folded).float()

    return recipes | {f"{target}.contract.bias": bias}


def _flat(weights: WeightSource, name: str) -> Tensor:
    return weights[name].flatten()


def _low_rank(weights: WeightSource, expand: str, mapper: str, c_cond: int) -> Tensor:
    """The Linear's last c_cond columns times the effnet mapper, behind its own columns."""
    weight = weights[f"{expand}.weight"]
    embedded = weight[:, -c_cond:].double() @ weights[f"{mapper}.weight"].flatten(1).double()
    return torch.cat([weight[:, :-c_cond], embedded.float()], dim=1)


def _low_rank_bias(weights: WeightSource, expand: str, mapper: str, c_cond: int) -> Tensor:
    embedded = weights[f"{expand}.weight"][:, -c_cond:].double()
    folded = embedded @ weights[f"{mapper}.bias"].double()
    return (weights[f"{expand}.bias"].double() + folded).float()


def _timestep(weights: WeightSource, source: str, target: str, width: int) -> Recipes:
    def bias() -> Tensor:
        folded = weights[f"{source}.mapper.bias"].clone()
        folded[:width] += 1  # the 1 of x * (1 + a) + b
        return folded

    return copied(weights, f"{source}.mapper", f"{target}.mapper") | {f"{target}.mapper.bias": bias}


def _attention(weights: WeightSource, source: str, target: str) -> Recipes:
    recipes = copied(weights, f"{source}.attention.to_out.0", f"{target}.to_out")
    for name in ("to_q", "to_k", "to_v"):
        recipes |= copied(weights, f"{source}.attention.{name}", f"{target}.{name}")
    return recipes


def _text_key_value(weights: WeightSource, source: str, target: str) -> Recipes:
    recipes = copied(weights, f"{source}.kv_mapper.1", f"{target}.kv_mapper")
    for name in ("to_k", "to_v"):
        recipes |= copied(weights, f"{source}.attention.{name}", f"{target}.{name}")
    return recipes


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


def mixing(weights: WeightSource, source: str, target: str) -> Recipes:
    """scale * f(norm(x) * (1 + m) + n): all of it linear around f, so all of it folds.

    Replication padding commutes with the affine part, zero padding would not.
    """

    def read(name: str) -> Tensor:
        return weights[f"{source}.{name}"].double()

    def depthwise() -> Tensor:
        gammas = read("gammas")
        return (read("depthwise.1.weight") * (1 + gammas[0]) * gammas[2]).float()

    def depthwise_bias() -> Tensor:
        gammas, sums = read("gammas"), read("depthwise.1.weight").sum(dim=(1, 2, 3))
        return ((read("depthwise.1.bias") + gammas[1] * sums) * gammas[2]).float()

    def expand() -> Tensor:
        return (read("channelwise.0.weight") * (1 + read("gammas")[3])).float()

    def expand_bias() -> Tensor:
        sums = read("channelwise.0.weight").sum(dim=1)
        return (read("channelwise.0.bias") + read("gammas")[4] * sums).float()

    def contract(name: str) -> Tensor:
        return (read(f"channelwise.2.{name}") * read("gammas")[5]).float()

    return {
        f"{target}.depthwise.convolution.1.weight": depthwise,
        f"{target}.depthwise.convolution.1.bias": depthwise_bias,
        f"{target}.expand.weight": expand,
        f"{target}.expand.bias": expand_bias,
        f"{target}.contract.weight": partial(contract, "weight"),
        f"{target}.contract.bias": partial(contract, "bias"),
    }


def _unshuffled(weight: Tensor, config: StageBConfig) -> Tensor:
    """A 1x1 convolution after PixelUnshuffle as one convolution of stride `patch_size`."""
    patch = config.patch_size
    return weight.view(weight.shape[0], config.c_in, patch, patch)
