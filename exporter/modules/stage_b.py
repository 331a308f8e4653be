"""Stage B, the diffusion decoder: one graph per image for its conditions, one per step."""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.configs import StageBConfig
from exporter.modules.blocks import AttnBlock, ResBlock, TimestepBlock
from exporter.modules.layout import (
    ChannelNorm,
    Convolution,
    LastProjection,
    Layout,
    to_layout,
    to_nchw,
)
from exporter.modules.resize import resize
from exporter.modules.stage_c import TextKeyValue

SIGMOID_EPS = 1e-3  # the reference's forward(eps=1e-3): the divisor stays within 0.001..0.999

Kind = Literal["res", "timestep", "attention", "down", "up"]


def plan(config: StageBConfig) -> list[tuple[str, Kind, int, bool]]:
    """Every block in running order: its reference name, kind, level, and whether it takes the skip.

    The reference nests blocks in lists of lists (`down_blocks.1.0`); a resampling layer is the
    first of its down level and the last of its up level.
    """
    kinds: dict[str, Kind] = {"C": "res", "T": "timestep", "A": "attention"}
    found: list[tuple[str, Kind, int, bool]] = []
    for i in range(config.levels):
        level: list[tuple[Kind, bool]] = [("down", False)] if i > 0 else []
        level += [(kinds[kind], False) for kind in config.level_config[i] * config.blocks[i]]
        found += [(f"down_blocks.{i}.{j}", kind, i, skip) for j, (kind, skip) in enumerate(level)]
    for i in reversed(range(config.levels)):
        each = config.level_config[i] * config.blocks[i]
        deepest = i == config.levels - 1
        level = [
            (kinds[kind], j == 0 and kind == "C" and not deepest) for j, kind in enumerate(each)
        ]
        level += [("up", False)] if i > 0 else []
        at = config.levels - 1 - i
        found += [(f"up_blocks.{at}.{j}", kind, i, skip) for j, (kind, skip) in enumerate(level)]
    return found


class StageBCondition(nn.Module):
    """What Stage B needs once per image.

    `image_embedding` (B,16,h,w), `latents` (B,4,H,W; only its size is read) and, unless
    text-free, `last_hidden_state` (B,T,clip_embd) -> one `effnet_<level>` (B,16,Hk,Wk) per
    level that takes it, then one `text_kv_<width>` (B,blocks,2,T,width) per distinct width.
    """

    def __init__(self, config: StageBConfig, text: bool) -> None:
        super().__init__()
        self.config = config
        self.text = text
        if text:
            self.clip_mapper = nn.Linear(config.clip_embd, config.c_cond)
            widths = [config.c_hidden[i] for _, kind, i, _ in plan(config) if kind == "attention"]
            self.blocks = nn.ModuleDict(
                {
                    str(width): nn.ModuleList(
                        TextKeyValue(config.c_cond, width) for w in widths if w == width
                    )
                    for width in config.text_widths
                }
            )

    def forward(
        self, image_embedding: Tensor, latents: Tensor, last_hidden_state: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        height, width = latents.shape[2], latents.shape[3]
        cells = [self.config.patch_size * 2**level for level in self.config.effnet_levels]
        outputs = [resize(image_embedding, height // cell, width // cell) for cell in cells]
        if self.text:
            mapped = self.clip_mapper(last_hidden_state)
            mapped = F.layer_norm(mapped, mapped.shape[-1:], eps=1e-6)
            for width in self.config.text_widths:
                blocks = cast(nn.ModuleList, self.blocks[str(width)])
                outputs.append(torch.stack([block(mapped) for block in blocks], dim=1))
        return tuple(outputs)


class StageB(nn.Module):
    """`latents` (B,4,H,W), `timestep_embedding` (B,c_r) and the conditions -> `epsilon` (B,4,H,W).

    Text-free (rewrite 6): the keys and values of `zero_tokens` tokens of zero text are all the
    same, so they are one constant key whose logit carries + log(zero_tokens).
    """

    def __init__(
        self, config: StageBConfig, layout: Layout, zero_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.config, self.layout, self.zero_tokens = config, layout, zero_tokens
        self.plan = plan(config)
        patch, first = config.patch_size, config.c_hidden[0]
        # PixelUnshuffle then 1x1 convolution is one strided convolution.
        embed = nn.Conv2d(config.c_in, first, patch, stride=patch)
        self.embedding = Convolution(embed, layout)
        self.norm = ChannelNorm(layout)
        self.blocks = nn.ModuleList(
            self._block(kind, level, skip) for _, kind, level, skip in self.plan
        )
        self.clf = LastProjection(first, 2 * config.c_out * patch**2, layout)

    def _block(self, kind: Kind, level: int, skip: bool) -> nn.Module:
        config, layout = self.config, self.layout
        width = config.c_hidden[level]
        if kind == "res":
            c_skip = skip * width + config.inject_effnet[level] * config.effnet_embd
            return ResBlock(width, c_skip, config.kernel_size, layout)
        if kind == "timestep":
            return TimestepBlock(width, config.c_r, layout)
        if kind == "attention":
            return AttnBlock(width, config.nhead[level], layout, self.zero_tokens)
        above = config.c_hidden[level - 1]
        if kind == "down":
            return Convolution(nn.Conv2d(above, width, 2, stride=2), layout)
        return Convolution(nn.ConvTranspose2d(width, above, 2, stride=2), layout)

    def forward(self, latents: Tensor, timestep_embedding: Tensor, *conditions: Tensor) -> Tensor:
        config, dtype = self.config, self.clf.weight.dtype
        timestep_embedding = timestep_embedding.to(dtype)
        given = [condition.to(dtype) for condition in conditions]
        levels = config.effnet_levels
        effnet = {i: to_layout(x, self.layout) for i, x in zip(levels, given, strict=False)}
        texts = {
            width: iter(kv.unbind(dim=1))
            for width, kv in zip(config.text_widths, given[len(levels) :], strict=False)
        }
        skips: list[Tensor] = []
        x = self.norm(self.embedding(to_layout(latents, self.layout)))
        for (_, kind, level, takes_skip), block in zip(self.plan, self.blocks, strict=True):
            if kind == "res":
                skip = [skips[level]] if takes_skip else []
                x = block(x, skip + ([effnet[level]] if level in effnet else []))
            elif kind == "timestep":
                x = block(x, timestep_embedding)
            elif kind == "attention":
                given_text = self.zero_tokens is None
                x = block(x, next(texts[config.c_hidden[level]]) if given_text else None)
            else:
                if kind == "down":
                    skips.append(x)
                x = block(self.norm(x)).float()
        x = to_nchw(self.clf(self.norm(x)), self.layout)
        a, b = F.pixel_shuffle(x, config.patch_size).chunk(2, dim=1)
        return (latents - a) / (b.sigmoid() * (1 - 2 * SIGMOID_EPS) + SIGMOID_EPS)
