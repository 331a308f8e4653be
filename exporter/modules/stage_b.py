"""Stage B, the diffusion decoder: one graph per image for its conditions, one per step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.configs import StageBConfig
from exporter.modules.blocks import AttnBlock, ResBlock, TimestepBlock
from exporter.modules.islands import WithIslands
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
# A level's letters in `level_config`.
KINDS: dict[str, Kind] = {"C": "res", "T": "timestep", "A": "attention"}


@dataclass(frozen=True)
class Block:
    """One layer of Stage B's U-Net, in both the checkpoint and the export form.

    `name` is the checkpoint's prefix, such as 'down_blocks.1.0'; `level` 0 is the widest picture.
    `width` is the level's channels, `above` those of the level above, which the resampling layers
    go down from and up to. Of the ResBlocks, `takes_skip` have the down path's output
    concatenated, and those with a `mapper`, a layer of the checkpoint, the image embedding.
    """

    name: str
    kind: Kind
    level: int
    width: int
    above: int
    takes_skip: bool
    mapper: str | None


def plan_blocks(config: StageBConfig) -> list[Block]:
    """Every layer in running order: all levels down, then all levels up.

    The reference nests its blocks in lists of lists. A resampling layer is the first of its down
    level and the last of its up level; the first ResBlock of an up level takes the skip, except at
    the deepest level, where down and up path meet.
    """
    blocks: list[Block] = []
    for level in range(config.levels):
        kinds = [KINDS[letter] for letter in config.level_config[level] * config.blocks[level]]
        resampled: list[Kind] = ["down"] if level > 0 else []
        blocks += _level(config, level, "down_blocks", [*resampled, *kinds])
    for level in reversed(range(config.levels)):
        kinds = [KINDS[letter] for letter in config.level_config[level] * config.blocks[level]]
        resampled = ["up"] if level > 0 else []
        blocks += _level(config, level, "up_blocks", [*kinds, *resampled])
    return blocks


def _level(config: StageBConfig, level: int, path: str, kinds: Sequence[Kind]) -> list[Block]:
    """One level's blocks on the way down or up, by their `kinds`."""
    upwards = path == "up_blocks"
    # The up path's lists count from the deepest level, and its effnet mappers come second.
    index = config.levels - 1 - level if upwards else level
    mapper = f"effnet_mappers.{config.levels + index if upwards else index}"
    injects, deepest = config.inject_effnet[level], level == config.levels - 1
    return [
        Block(
            name=f"{path}.{index}.{at}",
            kind=kind,
            level=level,
            width=config.c_hidden[level],
            above=config.c_hidden[level - 1] if level > 0 else 0,
            takes_skip=upwards and at == 0 and kind == "res" and not deepest,
            mapper=mapper if kind == "res" and injects else None,
        )
        for at, kind in enumerate(kinds)
    ]


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
            widths = [block.width for block in plan_blocks(config) if block.kind == "attention"]
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


class StageB(WithIslands):
    """`latents` (B,4,H,W), `timestep_embedding` (B,c_r) and the conditions -> `epsilon` (B,4,H,W).

    Text-free (rewrite 6): the keys and values of `zero_tokens` tokens of zero text are all the
    same, so they are one constant key whose logit carries + log(zero_tokens).
    """

    def __init__(
        self, config: StageBConfig, layout: Layout, zero_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.config, self.layout, self.zero_tokens = config, layout, zero_tokens
        self.plan = plan_blocks(config)
        patch, first = config.patch_size, config.c_hidden[0]
        # PixelUnshuffle then 1x1 convolution is one strided convolution.
        embed = nn.Conv2d(config.c_in, first, patch, stride=patch)
        self.embedding = Convolution(embed, layout)
        self.norm, self.last_norm = ChannelNorm(layout), ChannelNorm(layout, "end")
        self.blocks = nn.ModuleList(map(self._module, self.plan))
        self.clf = LastProjection(first, 2 * config.c_out * patch**2, layout)

    def _module(self, block: Block) -> nn.Module:
        config, layout, width = self.config, self.layout, block.width
        if block.kind == "res":
            # Rewrite 1: the embedding enters with its own 16 channels, not the mapper's c_cond.
            embedding = config.effnet_embd if block.mapper else 0
            c_skip = (width if block.takes_skip else 0) + embedding
            return ResBlock(width, c_skip, config.kernel_size, layout)
        if block.kind == "timestep":
            return TimestepBlock(width, config.c_r, layout)
        if block.kind == "attention":
            return AttnBlock(width, config.nhead[block.level], layout, self.zero_tokens)
        if block.kind == "down":
            return Convolution(nn.Conv2d(block.above, width, 2, stride=2), layout)
        return Convolution(nn.ConvTranspose2d(width, block.above, 2, stride=2), layout)

    def forward(self, latents: Tensor, timestep_embedding: Tensor, *conditions: Tensor) -> Tensor:
        dtype = self.clf.weight.dtype
        timestep_embedding = timestep_embedding.to(dtype)
        effnet, texts = self._sorted([condition.to(dtype) for condition in conditions])
        skips: list[Tensor] = []  # the down path's output by level
        x = self._stream(self.norm(self.embedding(to_layout(latents, self.layout))))
        for block, module in zip(self.plan, self.blocks, strict=True):
            if block.kind == "res":
                parts = [skips[block.level]] if block.takes_skip else []
                parts += [effnet[block.level]] if block.mapper else []
                x = module(x, parts)
            elif block.kind == "timestep":
                x = module(x, timestep_embedding)
            elif block.kind == "attention":
                x = module(x, None if self.zero_tokens is not None else next(texts[block.width]))
            else:
                if block.kind == "down":
                    skips.append(x)
                x = self._stream(module(self.norm(x)))
        a, b = self._halves(to_nchw(self.clf(self.last_norm(x)), self.layout))
        difference = latents.to(a.dtype) - a
        return (difference / (b.sigmoid() * (1 - 2 * SIGMOID_EPS) + SIGMOID_EPS)).float()

    def _stream(self, x: Tensor) -> Tensor:
        """The residual stream's type: fp32, where it is an island."""
        return x.float() if "stream" in self.islands else x.to(self.clf.weight.dtype)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last projection's two halves at the size of the latents."""
        patch = self.config.patch_size
        if self.layout == "nchw":
            a, b = F.pixel_shuffle(x, patch).chunk(2, dim=1)
        else:
            # ExecuTorch splits nothing into parts whose axes lie in another order, as they do here
            # behind a shuffle of what had its channels last.
            a, b = (F.pixel_shuffle(half, patch) for half in x.chunk(2, dim=1))
        return a, b

    def _sorted(
        self, conditions: Sequence[Tensor]
    ) -> tuple[dict[int, Tensor], dict[int, Iterator[Tensor]]]:
        """The image embedding by level, and by width each attention block's keys and values."""
        levels, widths = self.config.effnet_levels, self.config.text_widths
        # Text-free there are no keys and values, so the zips below may end early.
        effnet = {
            level: to_layout(embedding, self.layout)
            for level, embedding in zip(levels, conditions, strict=False)
        }
        texts = {
            width: iter(text_kv.unbind(dim=1))
            for width, text_kv in zip(widths, conditions[len(levels) :], strict=False)
        }
        return effnet, texts
