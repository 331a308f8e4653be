"""The public architecture with seeded random weights: no download, real sizes."""

import zlib
from pathlib import Path

import torch
from torch import Tensor

from exporter.checkpoint.configs import (
    SchedulerConfig,
    StageAConfig,
    StageBConfig,
    StageCConfig,
    TextConfig,
)
from exporter.checkpoint.find import Source
from exporter.checkpoint.open import Checkpoint, Component, Constants
from exporter.checkpoint.shapes import Shapes

# The configs of warp-ai/wuerstchen and wuerstchen-prior.
STAGE_B = StageBConfig()
STAGE_C = StageCConfig(c_in=16, c=1536, c_cond=1280, c_r=64, depth=32, nhead=24)
# The same widths and levels with fewer blocks: every kind of block at its real size.
STAGE_B_BLOCKS = (1, 1, 2, 1)
STAGE_C_DEPTH = 3
# The last Linear of each denoiser, in the checkpoint: small, so that epsilon's division is well
# conditioned; `b` would pass near 1 otherwise and relative errors would say nothing. The timestep
# multiplies channels in every block: at full size, activations would grow past 10,000.
_SMALL = {"out.1": 0.1, "clf.1": 0.1, ".mapper": 0.1}


class RandomWeights:
    """Seeded weights that keep activations near 1 in size; the same for a name in every run."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        drawn = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            drawn *= drawn[0].numel() ** -0.5
        else:
            drawn = drawn * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        layer = name.rpartition(".")[0]
        return drawn * next((s for end, s in _SMALL.items() if layer.endswith(end)), 1.0)


def public_checkpoint(stage_b: StageBConfig, stage_c: StageCConfig) -> Checkpoint:
    """A checkpoint of these configs that has no files; its weights are RandomWeights."""
    nowhere = Path("random")
    source = Source("random", "random", nowhere)
    prior_text = TextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                            num_attention_heads=20, hidden_act="gelu")  # fmt: skip
    text = TextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                      num_attention_heads=16, hidden_act="gelu")  # fmt: skip
    return Checkpoint(
        decoder_source=source,
        prior_source=source,
        text_encoder=Component(nowhere, prior_text, ()),
        stage_c=Component(nowhere, stage_c, ()),
        decoder_text_encoder=Component(nowhere, text, ()),
        stage_b=Component(nowhere, stage_b, ()),
        stage_a=Component(nowhere, StageAConfig(), ()),
        tokenizer=nowhere,
        decoder_tokenizer=nowhere,
        stage_c_scheduler=SchedulerConfig(),
        stage_b_scheduler=SchedulerConfig(),
        constants=Constants(),
        height=1024,
        width=1024,
    )
