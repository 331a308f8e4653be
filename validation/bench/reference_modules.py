"""diffusers' and transformers' own modules with given weights: the yardstick, and peers' input.

A public denoiser does in every step what our condition graphs do once: those have no module here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenPrior
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
    WuerstchenDiffNeXt,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from exporter.checkpoint.weights import WeightSource, fill
from exporter.graphs import GraphPlan

# What a public module takes, in order; `timestep` (B,) is the raw t, which it embeds by itself.
REFERENCE_INPUTS = {
    "text_encoder": ("input_ids", "attention_mask"),
    "stage_c": ("latents", "timestep", "last_hidden_state"),
    "decoder_text_encoder": ("input_ids", "attention_mask"),
    "stage_b": ("latents", "timestep", "image_embedding", "last_hidden_state"),
    "stage_a": ("latents",),
}


def reference_module(plan: GraphPlan, weights: WeightSource) -> nn.Module | None:
    """The public module that a graph stands for, in eval mode; None for a condition graph.

    Weights come by their names in the checkpoint and are not copied.
    """
    if plan.name not in REFERENCE_INPUTS:
        return None
    config: dict[str, Any] = dataclasses.asdict(plan.component.config)
    lists = {key: list(value) for key, value in config.items() if isinstance(value, tuple)}
    with torch.device("meta"):
        module = _CLASSES[plan.name](config | lists)
    fill(module, {name: weights[name] for name in module.state_dict()})
    if isinstance(module, CLIPTextModel):  # not in its state dict, so still without values
        ids = torch.arange(config["max_position_embeddings"], device=module.device)
        module.text_model.embeddings.position_ids = ids[None]
    return Decoder(module) if isinstance(module, PaellaVQModel) else module


class Decoder(nn.Module):
    """The half of PaellaVQModel that makes pictures: `latents` (B,4,H,W) -> (B,3,4H,4W), 0..1."""

    def __init__(self, vqgan: PaellaVQModel) -> None:
        super().__init__()
        self.vqgan = vqgan

    def forward(self, latents: Tensor) -> Tensor:
        decoded = self.vqgan.decode(latents * self.vqgan.config.scale_factor).sample
        return decoded.clamp(0, 1)


def _text_encoder(config: dict[str, Any]) -> nn.Module:
    return CLIPTextModel(CLIPTextConfig(**config))


_CLASSES: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "text_encoder": _text_encoder,
    "stage_c": lambda config: WuerstchenPrior(**config),
    "decoder_text_encoder": _text_encoder,
    "stage_b": lambda config: WuerstchenDiffNeXt(**config),
    "stage_a": lambda config: PaellaVQModel(**config),
}
