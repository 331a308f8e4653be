"""Every weight a component must have, by its name in the checkpoint, with its shape.

From the configs alone: the strict check of a checkpoint and `inspect`'s parameter counts both
read this table, so neither needs the weights in memory.
"""

from collections.abc import Iterator

from exporter.checkpoint.configs import StageAConfig, StageBConfig, StageCConfig, TextConfig
from exporter.modules.stage_b import Block, plan_blocks

Shapes = dict[str, tuple[int, ...]]
TEXT_PREFIX = "text_model."  # transformers 5 leaves it out
_Shape = tuple[str, tuple[int, ...]]


def stage_c_shapes(config: StageCConfig) -> Shapes:
    """WuerstchenPrior's state dict."""
    c = config.c
    items: list[_Shape] = [*_conv("projection", c, config.c_in, 1)]
    items += _linear("cond_mapper.0", c, config.c_cond)
    items += _linear("cond_mapper.2", c, c)
    for i in range(config.depth):
        items += _res(f"blocks.{3 * i}", c, c, 3)
        items += _linear(f"blocks.{3 * i + 1}.mapper", 2 * c, config.c_r)
        items += _attention(f"blocks.{3 * i + 2}", c, c)
    return dict([*items, *_conv("out.1", 2 * config.c_in, c, 1)])


def stage_b_shapes(config: StageBConfig) -> Shapes:
    """WuerstchenDiffNeXt's state dict."""
    patch = config.patch_size**2
    items: list[_Shape] = [*_linear("clip_mapper", config.c_cond, config.clip_embd)]
    injected = (*config.inject_effnet, *reversed(config.inject_effnet))
    for i in (i for i, inject in enumerate(injected) if inject):
        items += _conv(f"effnet_mappers.{i}", config.c_cond, config.effnet_embd, 1)
    items += _conv("embedding.1", config.c_hidden[0], config.c_in * patch, 1)
    for block in plan_blocks(config):
        items += _stage_b_block(block, config)
    return dict([*items, *_conv("clf.1", 2 * config.c_out * patch, config.c_hidden[0], 1)])


def _stage_b_block(block: Block, config: StageBConfig) -> Iterator[_Shape]:
    name, c = block.name, block.width
    if block.kind == "res":
        c_skip = (c if block.takes_skip else 0) + (config.c_cond if block.mapper else 0)
        yield from _res(name, c, c + c_skip, config.kernel_size)
    elif block.kind == "timestep":
        yield from _linear(f"{name}.mapper", 2 * c, config.c_r)
    elif block.kind == "attention":
        yield from _attention(name, c, config.c_cond)
    elif block.kind == "down":
        yield from _conv(f"{name}.1", c, block.above, 2)
    else:  # a transposed convolution's weight has its input channels first
        yield f"{name}.1.weight", (c, block.above, 2, 2)
        yield f"{name}.1.bias", (block.above,)


def stage_a_decoder_shapes(config: StageAConfig) -> Shapes:
    """The half of PaellaVQModel that runs: `up_blocks` and `out_block`."""
    widths, shuffle = config.widths, config.up_down_scale_factor**2
    items: list[_Shape] = [*_conv("up_blocks.0.0", widths[0], config.latent_channels, 1)]
    at = 1
    for i, width in enumerate(widths):
        for _ in range(config.bottleneck_blocks if i == 0 else 1):
            items += _mixing(f"up_blocks.{at}", width)
            at += 1
        if i < config.levels - 1:
            items.append((f"up_blocks.{at}.weight", (width, widths[i + 1], 4, 4)))
            items.append((f"up_blocks.{at}.bias", (widths[i + 1],)))
            at += 1
    return dict([*items, *_conv("out_block.0", config.out_channels * shuffle, widths[-1], 1)])


def stage_a_encoder_shapes(config: StageAConfig) -> Shapes:
    """The half of PaellaVQModel that does not run: encoder and codebook."""
    widths, shuffle = config.widths[::-1], config.up_down_scale_factor**2
    items: list[_Shape] = [*_conv("in_block.1", widths[0], config.in_channels * shuffle, 1)]
    at = 0
    for i, width in enumerate(widths):
        if i > 0:
            items += _conv(f"down_blocks.{at}", width, widths[i - 1], 4)
            at += 1
        items += _mixing(f"down_blocks.{at}", width)
        at += 1
    latent = config.latent_channels
    items.append((f"down_blocks.{at}.0.weight", (latent, widths[-1], 1, 1)))
    for name in ("weight", "bias", "running_mean", "running_var"):
        items.append((f"down_blocks.{at}.1.{name}", (latent,)))
    items.append((f"down_blocks.{at}.1.num_batches_tracked", ()))
    return dict([*items, ("vquantizer.embedding.weight", (config.num_vq_embeddings, latent))])


def text_shapes(config: TextConfig) -> Shapes:
    """CLIPTextModel's state dict."""
    c, inner, embeddings = config.hidden_size, config.intermediate_size, "text_model.embeddings"
    items: list[_Shape] = [
        (f"{embeddings}.token_embedding.weight", (config.vocab_size, c)),
        (f"{embeddings}.position_embedding.weight", (config.max_position_embeddings, c)),
    ]
    for i in range(config.num_hidden_layers):
        layer = f"text_model.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            items += _linear(f"{layer}.self_attn.{name}", c, c)
        items += _linear(f"{layer}.mlp.fc1", inner, c)
        items += _linear(f"{layer}.mlp.fc2", c, inner)
        for name in ("layer_norm1", "layer_norm2"):
            items += _norm(f"{layer}.{name}", c)
    return dict([*items, *_norm("text_model.final_layer_norm", c)])


def _conv(name: str, c_out: int, c_in: int, kernel: int) -> Iterator[_Shape]:
    yield f"{name}.weight", (c_out, c_in, kernel, kernel)
    yield f"{name}.bias", (c_out,)


def _linear(name: str, c_out: int, c_in: int) -> Iterator[_Shape]:
    yield f"{name}.weight", (c_out, c_in)
    yield f"{name}.bias", (c_out,)


def _norm(name: str, c: int) -> Iterator[_Shape]:
    yield f"{name}.weight", (c,)
    yield f"{name}.bias", (c,)


def _res(name: str, c: int, c_in: int, kernel: int) -> Iterator[_Shape]:
    yield from _conv(f"{name}.depthwise", c, 1, kernel)
    yield from _linear(f"{name}.channelwise.0", 4 * c, c_in)
    yield f"{name}.channelwise.2.gamma", (1, 1, 1, 4 * c)
    yield f"{name}.channelwise.2.beta", (1, 1, 1, 4 * c)
    yield from _linear(f"{name}.channelwise.4", c, 4 * c)


def _attention(name: str, c: int, c_cond: int) -> Iterator[_Shape]:
    yield from _linear(f"{name}.kv_mapper.1", c, c_cond)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from _linear(f"{name}.attention.{part}", c, c)


def _mixing(name: str, c: int) -> Iterator[_Shape]:
    yield f"{name}.gammas", (6,)
    yield from _conv(f"{name}.depthwise.1", c, 1, 3)
    yield from _linear(f"{name}.channelwise.0", 4 * c, c)
    yield from _linear(f"{name}.channelwise.2", c, 4 * c)
