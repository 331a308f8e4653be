"""Small random checkpoints of odd configurations, in diffusers folder format.

Weights are drawn so that every term matters (GRN's gamma and beta, gammas, biases), and the last
projections are scaled down so that the final divisions are well conditioned.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenPrior
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
    WuerstchenDiffNeXt,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

TOKENIZER = Path(__file__).parents[1] / "exporter/demo_checkpoint/wuerstchen/tokenizer"


@dataclass(frozen=True)
class Tiny:
    """The four networks' configs, where they differ from the smallest sensible ones."""

    stage_c: dict[str, Any] = field(default_factory=dict)
    stage_b: dict[str, Any] = field(default_factory=dict)
    stage_a: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    decoder_text: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)


TINY = {
    # The public layout in miniature: four levels, no effnet and no attention at the first.
    "public": Tiny(
        stage_b={
            "c_hidden": [16, 24, 32, 32],
            "nhead": [-1, 2, 4, 4],
            "blocks": [1, 1, 1, 1],
            "level_config": ["CT", "CTA", "CTA", "CTA"],
            "inject_effnet": [False, True, True, True],
        },
        constants={"resolution_multiple": 42.67, "latent_dim_scale": 10.67},
    ),
    # c_r odd, kernel size 5, one level injected only, decoder text of another width.
    "odd_c_r": Tiny(
        stage_c={"c_r": 33, "depth": 3, "c": 36, "nhead": 3},
        stage_b={
            "c_r": 21, "c_hidden": [12, 20], "nhead": [3, 5], "blocks": [2, 1],
            "level_config": ["CTA", "CA"], "inject_effnet": [True, False], "kernel_size": 5,
            "c_cond": 28, "clip_embd": 48,
        },
        decoder_text={"hidden_size": 48, "num_attention_heads": 6, "hidden_act": "quick_gelu"},
    ),
    # No effnet anywhere, three levels, blocks in another order, patch 1, one-level VQGAN.
    "no_effnet": Tiny(
        stage_c={"depth": 1, "c": 24, "nhead": 1, "c_in": 6},
        stage_b={
            "c_hidden": [8, 16, 24], "nhead": [2, -1, 2], "blocks": [1, 2, 1],
            "level_config": ["TCA", "CT", "ATC"], "inject_effnet": [False, False, False],
            "patch_size": 1, "effnet_embd": 6, "kernel_size": 1,
        },
        stage_a={"levels": 1, "bottleneck_blocks": 2, "embed_dim": 18, "up_down_scale_factor": 4},
    ),
    # A single level, c_in of Stage B other than 4, a deep VQGAN.
    "one_level": Tiny(
        stage_c={"c_in": 8, "depth": 2, "c": 40, "nhead": 5},
        stage_b={
            "c_in": 3, "c_out": 3, "c_hidden": [24], "nhead": [4], "blocks": [3],
            "level_config": ["CTA"], "inject_effnet": [True], "effnet_embd": 8, "patch_size": 3,
        },
        stage_a={"latent_channels": 3, "levels": 3, "embed_dim": 32, "scale_factor": 1.7},
        constants={"latent_mean": 3.0, "latent_std": 0.25, "latent_dim_scale": 3.0,
                   "resolution_multiple": 24.0},
    ),
}  # fmt: skip

_STAGE_C = {"c_in": 16, "c": 32, "c_cond": 32, "c_r": 16, "depth": 2, "nhead": 4}
_STAGE_B = {
    "c_r": 16, "c_cond": 20, "c_hidden": [16, 24], "nhead": [-1, 2], "blocks": [1, 1],
    "level_config": ["CT", "CTA"], "inject_effnet": [False, True], "effnet_embd": 16,
    "clip_embd": 32,
}  # fmt: skip
_STAGE_A = {"levels": 2, "bottleneck_blocks": 1, "embed_dim": 24, "num_vq_embeddings": 16}
_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "hidden_act": "gelu", "max_position_embeddings": 77,
}  # fmt: skip
_CONSTANTS = {
    "latent_mean": 2.0, "latent_std": 0.5, "resolution_multiple": 21.34, "latent_dim_scale": 5.34,
}  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The reference modules of one tiny checkpoint, and where they are saved."""

    stage_c: WuerstchenPrior
    stage_b: WuerstchenDiffNeXt
    stage_a: PaellaVQModel
    text_encoder: CLIPTextModel
    decoder_text_encoder: CLIPTextModel
    constants: dict[str, float]


def reference(name: str, seed: int = 0) -> Reference:
    """Random reference modules of the configuration `name`, in eval mode."""
    tiny = TINY[name]
    torch.manual_seed(seed)
    vocab = len(json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8")))
    text = CLIPTextModel(CLIPTextConfig(vocab_size=vocab, **(_TEXT | tiny.text)))
    decoder = CLIPTextModel(CLIPTextConfig(vocab_size=vocab, **(_TEXT | tiny.decoder_text)))
    found = Reference(
        stage_c=WuerstchenPrior(**(_STAGE_C | tiny.stage_c)),
        stage_b=WuerstchenDiffNeXt(**(_STAGE_B | tiny.stage_b)),
        stage_a=PaellaVQModel(**(_STAGE_A | tiny.stage_a)),
        text_encoder=text,
        decoder_text_encoder=decoder,
        constants=_CONSTANTS | tiny.constants,
    )
    for module in (found.stage_c, found.stage_b, found.stage_a, text, decoder):
        _draw(module)
    _scale(found.stage_c.out[1], 0.1)
    _scale(found.stage_b.clf[1], 0.2)
    return found


def _draw(module: nn.Module) -> None:
    module.eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 0
        std = 0.3 if "gam" in name or "beta" in name or fan_in == 0 else fan_in**-0.5
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.copy_(centre + std * torch.randn_like(parameter))


def _scale(convolution: nn.Conv2d, factor: float) -> None:
    convolution.weight.mul_(factor)
    convolution.bias.mul_(factor)


def save(found: Reference, folder: Path, *, tokenizer: Path = TOKENIZER) -> tuple[Path, Path]:
    """Write the two diffusers folders under `folder`; returns (decoder, prior)."""
    decoder, prior = folder / "wuerstchen", folder / "wuerstchen-prior"
    found.stage_b.save_pretrained(decoder / "decoder")
    found.stage_a.save_pretrained(decoder / "vqgan")
    found.decoder_text_encoder.save_pretrained(decoder / "text_encoder")
    found.stage_c.save_pretrained(prior / "prior")
    found.text_encoder.save_pretrained(prior / "text_encoder")
    for root in (decoder, prior):
        DDPMWuerstchenScheduler().save_pretrained(root / "scheduler")
        (root / "tokenizer").mkdir()
        for file in tokenizer.iterdir():
            (root / "tokenizer" / file.name).write_bytes(file.read_bytes())
    _index(decoder, "WuerstchenDecoderPipeline", found, ["latent_dim_scale"])
    keys = ["latent_mean", "latent_std", "resolution_multiple"]
    _index(prior, "WuerstchenPriorPipeline", found, keys)
    (prior / "generation_config.json").write_text('{"height": 128, "width": 128}')
    return decoder, prior


_CLASSES = {
    "decoder": ["wuerstchen", "WuerstchenDiffNeXt"],
    "vqgan": ["wuerstchen", "PaellaVQModel"],
    "prior": ["wuerstchen", "WuerstchenPrior"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
}


def _index(root: Path, cls: str, found: Reference, keys: list[str]) -> None:
    index: dict[str, Any] = {"_class_name": cls, "_diffusers_version": "0.39.0"}
    index |= {folder.name: _CLASSES[folder.name] for folder in root.iterdir() if folder.is_dir()}
    index |= {key: found.constants[key] for key in keys}
    (root / "model_index.json").write_text(json.dumps(index, indent=2))
