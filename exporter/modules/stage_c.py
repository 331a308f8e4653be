"""Stage C, the prior: one graph per prompt for the text, one per step for the denoiser."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.checkpoint.configs import StageCConfig
from exporter.modules.blocks import AttnBlock, ResBlock, TimestepBlock
from exporter.modules.islands import WithIslands
from exporter.modules.layout import (
    ChannelNorm,
    LastProjection,
    Layout,
    Pointwise,
    to_layout,
    to_nchw,
)


class TextKeyValue(nn.Module):
    """One attention block's keys and values of the text: (B, T, c_cond) to (B, 2, T, width)."""

    def __init__(self, c_cond: int, width: int) -> None:
        super().__init__()
        self.kv_mapper = nn.Linear(c_cond, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        mapped = self.kv_mapper(F.silu(text))
        return torch.stack([self.to_k(mapped), self.to_v(mapped)], dim=1)


class StageCCondition(nn.Module):
    """`last_hidden_state` (B,T,c_cond) -> `text_kv` (B,depth,2,T,c)."""

    def __init__(self, config: StageCConfig) -> None:
        super().__init__()
        self.cond_mapper = nn.Sequential(
            nn.Linear(config.c_cond, config.c), nn.LeakyReLU(0.2), nn.Linear(config.c, config.c)
        )
        self.blocks = nn.ModuleList(TextKeyValue(config.c, config.c) for _ in range(config.depth))

    def forward(self, last_hidden_state: Tensor) -> Tensor:
        text = self.cond_mapper(last_hidden_state)
        return torch.stack([block(text) for block in self.blocks], dim=1)


class StageC(WithIslands):
    """`latents` (B,c_in,h,w), `timestep_embedding` (B,c_r), `text_kv` -> `epsilon` (B,c_in,h,w)."""

    def __init__(self, config: StageCConfig, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.projection = Pointwise(config.c_in, config.c, layout)
        self.blocks = nn.ModuleList()
        for _ in range(config.depth):
            self.blocks.append(ResBlock(config.c, 0, 3, layout))
            self.blocks.append(TimestepBlock(config.c, config.c_r, layout))
            self.blocks.append(AttnBlock(config.c, config.nhead, layout))
        self.norm = ChannelNorm(layout, "end")
        self.out = LastProjection(config.c, 2 * config.c_in, layout)

    def forward(self, latents: Tensor, timestep_embedding: Tensor, text_kv: Tensor) -> Tensor:
        dtype = self.projection.weight.dtype
        timestep_embedding, text_kv = timestep_embedding.to(dtype), text_kv.to(dtype)
        x = self.widened(self.projection(to_layout(latents, self.layout)), "stream")
        for i, block_kv in enumerate(text_kv.unbind(dim=1)):
            residual, timestep, attention = self.blocks[3 * i : 3 * i + 3]
            x = timestep(residual(x, []), timestep_embedding)
            x = attention(x, block_kv)
        a, b = to_nchw(self.out(self.norm(x)), self.layout).chunk(2, dim=1)
        # |1 - b|, exactly: one of the two is 0. ONNX Runtime's Core ML provider has no Abs.
        return ((latents.to(a.dtype) - a) / (F.relu(1 - b) + F.relu(b - 1) + 1e-5)).float()
