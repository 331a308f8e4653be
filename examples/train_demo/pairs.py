"""Pictures that the demo checkpoint makes of training captions, each with its Stage C latents.

The compressor that Stage C was trained on says what a latent means; where its weights are gone,
these pairs still do.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenPrior
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
    WuerstchenDiffNeXt,
)
from models import EMBEDDING_CHANNELS, EMBEDDING_SIDE, LATENT_MEAN, LATENT_STD
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from runtimes.bundle.atomic_file import atomic_file
from validation.demo.scenes import caption, sample_scene

CHUNK = 64
STEPS_C, STEPS_B = 10, 5  # few: a pair need only belong together, not be a good picture
LATENT_SIDE = 32  # of Stage A's


@dataclass(frozen=True)
class Checkpoint:
    """The shipped modules, frozen, in fp32."""

    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    stage_c: WuerstchenPrior
    stage_b: WuerstchenDiffNeXt
    stage_a: PaellaVQModel

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        decoder, prior = folder / "wuerstchen", folder / "wuerstchen-prior"
        fp32 = {"torch_dtype": torch.float32}
        modules = (
            CLIPTextModel.from_pretrained(prior / "text_encoder", **fp32),
            CLIPTokenizer.from_pretrained(prior / "tokenizer"),
            WuerstchenPrior.from_pretrained(prior / "prior", **fp32),
            WuerstchenDiffNeXt.from_pretrained(decoder / "decoder", **fp32),
            PaellaVQModel.from_pretrained(decoder / "vqgan", **fp32),
        )
        for module in modules:
            if isinstance(module, torch.nn.Module):
                module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return cls(*modules)

    @torch.no_grad()
    def hidden(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        return self.text(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state

    @torch.no_grad()
    def latents(self, texts: list[str], generator: torch.Generator) -> Tensor:
        """Stage C's (B,16,6,6), without guidance: as the compressor behind it made them."""
        hidden = self.hidden(texts)
        noise = torch.randn(
            len(texts), EMBEDDING_CHANNELS, EMBEDDING_SIDE, EMBEDDING_SIDE, generator=generator
        )
        return _sample(lambda x, t: self.stage_c(x, t, hidden), noise, STEPS_C, generator)

    @torch.no_grad()
    def decode(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Embeddings (B,16,6,6) -> pictures (B,3,128,128) in 0..1, Stage B without a prompt."""
        hidden = self.hidden([""]).expand(len(embeddings), -1, -1)
        noise = torch.randn(len(embeddings), 4, LATENT_SIDE, LATENT_SIDE, generator=generator)
        latents = _sample(
            lambda x, t: self.stage_b(x, t, embeddings, hidden), noise, STEPS_B, generator
        )
        return self.stage_a.decode(self.stage_a.config.scale_factor * latents).sample.clamp(0, 1)


def _sample(epsilon, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    scheduler = DDPMWuerstchenScheduler()
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps[:-1]:
        ratio = t.expand(len(x))
        with torch.autocast("cpu", torch.bfloat16):
            noise = epsilon(x, ratio).float()
        x = scheduler.step(noise, ratio, x, generator=generator).prev_sample
    return x


def make_pairs(checkpoint: Checkpoint, count: int, work: Path) -> tuple[Tensor, Tensor]:
    """At least `count` latents (N,16,6,6) and pictures, uint8 (N,3,128,128), kept by chunk."""
    folder = work / "pairs"
    folder.mkdir(exist_ok=True)
    chunks = []
    for index in range(-(-count // CHUNK)):
        path = folder / f"{index:04}.pt"
        if not path.exists():
            with atomic_file(path) as file:
                torch.save(_chunk(checkpoint, index), file)
        chunks.append(torch.load(path, weights_only=True))
    latents, pictures = zip(*chunks, strict=True)
    return torch.cat(latents).float(), torch.cat(pictures)


def _chunk(checkpoint: Checkpoint, index: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng([index, *b"pairs"])
    generator = torch.Generator().manual_seed(index)
    scenes = [sample_scene(rng, held_out=False) for _ in range(CHUNK)]
    texts = [caption(scene, rng) for scene in scenes]
    latents = checkpoint.latents(texts, generator)
    pictures = checkpoint.decode(latents * LATENT_MEAN - LATENT_STD, generator)
    return latents.half(), (pictures * 255).round().byte()
