"""Train the picture side of a packaged checkpoint: python train_picture.py PART --work DIR.

`compressor` turns pictures into the embeddings that its Stage B reads, `preview` Stage C's latents
into small pictures. Both start from what the checkpoint itself makes of training captions.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from data import fixed_set, to_tensor
from loop import fit
from models import LATENT_MEAN, LATENT_STD
from pairs import Checkpoint, make_pairs
from picture_models import PREVIEW_SIDE, Previewer, SemanticCompressor, resized
from torch import Tensor
from train import autocast, encode_all, finish, noised

DEMO = Path(__file__).parents[2] / "exporter/demo_checkpoint"
PAIRS, DRAWINGS = 512, 1024
DENOISING_FROM = 500  # steps: until then the embeddings say nothing that Stage B could judge


def train_compressor(work: Path, steps: int, checkpoint: Checkpoint) -> None:
    """Latents of pairs, then Stage B's own loss on drawings too, as the paper trains it."""
    latents, pictures = make_pairs(checkpoint, PAIRS, work)
    small = resized(pictures.float() / 255).half()
    drawings, _ = fixed_set(DRAWINGS, work)
    encode = partial(checkpoint.stage_a.encode, return_dict=False)
    clean = encode_all(lambda p: encode(p)[0], drawings, work / f"latents_{DRAWINGS}.pt")
    compressor = SemanticCompressor().to(memory_format=torch.channels_last)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([step, *b"semantic"])
        chosen = rng.choice(len(latents), size=24, replace=False)
        drawn = rng.choice(DRAWINGS, size=8, replace=False)
        mixed = torch.cat([small[chosen].float(), resized(to_tensor(drawings[drawn]))])
        with autocast():
            embeddings = compressor(mixed.to(memory_format=torch.channels_last)).float()
        found = (embeddings[:24] + LATENT_STD) / LATENT_MEAN
        loss = (found - latents[chosen]).square().mean()
        if step >= DENOISING_FROM:
            loss = loss + denoising_loss(checkpoint, clean[drawn].float(), embeddings[24:], step)
        return loss

    averaged = fit("compressor", compressor, loss_of, steps=steps, lr=2e-3, work=work)
    finish("compressor", compressor, averaged, work)


def denoising_loss(checkpoint: Checkpoint, clean: Tensor, embeddings: Tensor, step: int) -> Tensor:
    """The frozen Stage B's on Stage A's latents (B,4,32,32) with these embeddings, no prompt."""
    generator = torch.Generator().manual_seed(step)
    clean = clean / checkpoint.stage_a.config.scale_factor
    x, noise, t, weight = noised(clean, generator, noisy_share=0.5, least_signal=0.1)
    hidden = checkpoint.hidden([""]).expand(len(x), -1, -1)
    epsilon = checkpoint.stage_b(x, t, embeddings, hidden)
    return (weight * (epsilon - noise).square()).mean()


def train_preview(work: Path, steps: int, checkpoint: Checkpoint) -> None:
    """L1 + L2 from latents, noised a little: previews are of latents that are not clean yet."""
    latents, pictures = make_pairs(checkpoint, PAIRS, work)
    small = resized(pictures.float() / 255, PREVIEW_SIDE).half()
    previewer = Previewer()

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([step, *b"preview"])
        generator = torch.Generator().manual_seed(step)
        chosen = rng.choice(len(latents), size=32, replace=False)
        noise = torch.randn(latents[chosen].shape, generator=generator)
        share = 0.3 * torch.rand(len(chosen), 1, 1, 1, generator=generator)
        with autocast():
            previews = previewer(latents[chosen] + share * noise)
        error = previews.float() - small[chosen].float()
        return error.abs().mean() + 4 * error.square().mean()

    averaged = fit("preview", previewer, loss_of, steps=steps, lr=2e-3, work=work)
    finish("preview", previewer, averaged, work)


PARTS: dict[str, tuple[Callable[[Path, int, Checkpoint], None], int]] = {
    "compressor": (train_compressor, 1000),
    "preview": (train_preview, 1200),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training state")
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="what package.py wrote")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    train, steps = PARTS[args.part]
    torch.manual_seed(0)
    train(args.work, args.steps or steps, Checkpoint.open(args.checkpoint))


if __name__ == "__main__":
    main()
