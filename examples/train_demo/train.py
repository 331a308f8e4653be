"""Train one part of the demo checkpoint: python train.py PART --work DIR (see README.md).

The parts in order: judge, stage_a, autoencoder, then stage_b and stage_c side by side, then
`package.py` writes the two diffusers folders; `train_picture.py` goes on from there.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import torch
from data import batch, fixed_set, labels, to_tensor
from loop import fit
from tokenizer import save_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from validation.demo.scenes import PLACES, Scene, caption

PICTURES = 48_000
TEXT_DROPOUT = 0.1  # classifier-free guidance


def autocast() -> torch.autocast:
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)


def train_judge(work: Path, steps: int) -> None:
    judge = models.Judge()

    def loss_of(step: int) -> Tensor:
        pictures, scenes = batch(step, 48, stream="judge")
        # Generated pictures are a little soft and noisy: the judge must not mind either.
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(pictures.shape, generator=generator)
        pictures = pictures + 0.1 * torch.rand(len(scenes), 1, 1, 1, generator=generator) * noise
        with autocast():
            out = judge(pictures)
        return reading_loss(out[:4], labels(scenes))

    finish("judge", judge, fit("judge", judge, loss_of, steps=steps, lr=2e-3, work=work), work)


def reading_loss(out: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> Tensor:
    """Cross entropy over every attribute; empty places have no colour and no size."""
    losses = [
        F.cross_entropy(logits.float().flatten(0, -2), target.flatten(), ignore_index=-1)
        for logits, target in zip(out, wanted, strict=True)
    ]
    return torch.stack(losses).sum()


def train_stage_a(work: Path, steps: int) -> None:
    """L1 + L2 and the codebook's losses; half the latents are decoded unquantised, as when run."""
    vqgan = models.stage_a()

    def loss_of(step: int) -> Tensor:
        pictures, _ = batch(step, 12, stream="stage_a")
        with autocast():
            (latents,) = vqgan.encode(pictures, return_dict=False)
        latents = latents.float()
        quantised, commitment, _ = vqgan.vquantizer(latents)
        generator = torch.Generator().manual_seed(step)
        keep = torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.5
        jitter = 0.05 * torch.randn(latents.shape, generator=generator)
        with autocast():
            decoded = vqgan.decode(torch.where(keep, latents + jitter, quantised)).sample
        error = decoded.float() - pictures
        return error.abs().mean() + 4 * error.square().mean() + 0.1 * commitment

    finish("stage_a", vqgan, fit("stage_a", vqgan, loss_of, steps=steps, lr=2e-3, work=work), work)


def train_autoencoder(work: Path, steps: int) -> None:
    """An autoencoder whose latents are noised, so that Stage C's small errors do no harm."""
    autoencoder = models.Autoencoder()

    def loss_of(step: int) -> Tensor:
        pictures, scenes = batch(step, 32, stream="compressor")
        with autocast():
            latents = autoencoder(pictures)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
            latents = latents + 0.15 * noise
            decoded, read = autoencoder.decoder(latents), autoencoder.read(latents)
        small = F.interpolate(pictures, decoded.shape[-2:], mode="bilinear", antialias=True)
        error = decoded.float() - small
        pixels = error.abs().mean() + 4 * error.square().mean()
        return pixels + 0.03 * reading_loss(read, labels(scenes)[:3])

    averaged = fit("autoencoder", autoencoder, loss_of, steps=steps, lr=2e-3, work=work)
    finish("autoencoder", autoencoder, averaged, work)


def abar(t: Tensor) -> Tensor:
    """The cosine schedule of DDPMWuerstchenScheduler, s = 0.008."""
    s = 0.008
    start = np.cos(s / (1 + s) * np.pi / 2) ** 2
    return (torch.cos((t + s) / (1 + s) * torch.pi / 2) ** 2 / start).clamp(1e-4, 0.9999)


def noised(
    clean: Tensor, generator: torch.Generator, *, noisy_share: float = 0.0, least_signal: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, the noise, its timesteps and loss weights.

    Timesteps are stratified over 0..1; `noisy_share` of the batch over 0.75..1 instead. The
    weights turn the epsilon loss into a velocity loss (Salimans & Ho 2022), down to a signal
    share of `least_signal`: plain epsilon loss says next to nothing at the noisy end, where the
    prompt decides what is drawn, and where.
    """
    count = len(clean)
    t = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    noisy = torch.rand(count, generator=generator) < noisy_share
    t = torch.where(noisy, 0.75 + 0.25 * t, t)
    noise = torch.randn(clean.shape, generator=generator)
    signal = abar(t).view(-1, 1, 1, 1)
    mixed = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    return mixed, noise, t, 1 / signal.clamp(min=least_signal)


@torch.no_grad()
def encode_all(encoder: nn.Module, pictures: np.ndarray, path: Path) -> Tensor:
    """Latents of every picture, computed once and kept beside the training state."""
    if not path.exists():
        parts = []
        for at in range(0, len(pictures), 250):
            with autocast():
                parts.append(encoder(to_tensor(pictures[at : at + 250])).half())
        torch.save(torch.cat(parts), path)
    return torch.load(path, weights_only=True)


def embeddings(work: Path, pictures: np.ndarray) -> Tensor:
    autoencoder = load("autoencoder", models.Autoencoder(), work)
    return encode_all(autoencoder, pictures, work / f"embeddings_{len(pictures)}.pt")


def train_stage_c(work: Path, steps: int) -> None:
    """Stage C and the shared text encoder together, from captions to the compressor's latents."""
    pictures, scenes = fixed_set(PICTURES, work)
    clean = embeddings(work, pictures)
    tokenizer = save_tokenizer(work / "tokenizer")
    both = models.stage_c_parts(len(tokenizer))
    run = torch.compile(lambda ids, mask, x, t: _stage_c(both, ids, mask, x, t), dynamic=False)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([step, *b"stage_c"])
        chosen = rng.choice(PICTURES, size=64, replace=False)
        texts = ["" if rng.random() < TEXT_DROPOUT else caption(scenes[i], rng) for i in chosen]
        tokens = tokenizer(
            texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        x, noise, t, weight = noised(
            clean[chosen].float(),
            torch.Generator().manual_seed(step),
            noisy_share=0.5,
            least_signal=0.004,
        )
        epsilon, where, read, drawn = run(tokens.input_ids, tokens.attention_mask, x, t)
        probes = models.position_loss(where) + reading_loss(read, _said(texts, chosen, scenes))
        probes = probes + 3 * reading_loss(drawn, labels([scenes[i] for i in chosen])[:3])
        return (weight * (epsilon - noise).square()).mean() + 0.1 * probes

    finish("stage_c", both, fit("stage_c", both, loss_of, steps=steps, lr=1.5e-3, work=work), work)


def _stage_c(
    both: nn.ModuleDict, ids: Tensor, mask: Tensor, x: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Epsilon (as WuerstchenPrior.forward) and the logits of the three probes."""
    prior = both["prior"]
    with autocast():
        hidden = both["text"](ids, attention_mask=mask).last_hidden_state
        text = prior.cond_mapper(hidden)
        r_embed = prior.gen_r_embedding(t)
        inner = prior.projection(x)
        probed = []
        for i in range(0, len(prior.blocks), 3):
            residual, timestep, attention = prior.blocks[i : i + 3]
            inner = attention(timestep(residual(inner), r_embed), text)
            if i in models.PROBED_BLOCKS:
                probed.append(inner)
        a, b = prior.out(inner).float().chunk(2, dim=1)
        epsilon = (x - a) / ((1 - b).abs() + 1e-5)
        where, drawn = both["where"](probed[0]).float(), both["drawn"](probed[1])
        return epsilon, where, both["read"](hidden), drawn


def _said(texts: list[str], chosen: np.ndarray, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """What each caption says about each place: shape and colour, -1 where it names no places."""
    shape, colour, _, _ = labels([scenes[i] for i in chosen])
    for row, (text, i) in enumerate(zip(texts, chosen, strict=True)):
        if PLACES[scenes[i].things[0].place] not in text:
            shape[row], colour[row] = -1, -1
    return shape, colour


def train_stage_b(work: Path, steps: int) -> None:
    """Stage B, from (noised) embeddings to Stage A's latents, with the frozen text encoder."""
    pictures, scenes = fixed_set(PICTURES, work)
    embedding = embeddings(work, pictures)
    vqgan = load("stage_a", models.stage_a(), work)
    targets = encode_all(
        lambda p: vqgan.encode(p, return_dict=False)[0], pictures, work / "latents.pt"
    )
    scale = targets[:4000].float().std().item()
    decoder = models.stage_b()
    tokenizer = save_tokenizer(work / "tokenizer")
    text = models.text_encoder(len(tokenizer)).eval().requires_grad_(False)
    text_loaded: list[None] = []
    run = torch.compile(lambda x, t, e, c: _stage_b(decoder, x, t, e, c), dynamic=False)

    def loss_of(step: int) -> Tensor:
        if step % 200 == 0 or not text_loaded:  # Stage C may still be training it, side by side
            text_loaded.append(_load_text_encoder(text, work))
        rng = np.random.default_rng([step, *b"stage_b"])
        generator = torch.Generator().manual_seed(step)
        chosen = rng.choice(PICTURES, size=32, replace=False)
        texts = ["" if rng.random() < 0.5 else caption(scenes[i], rng) for i in chosen]
        tokens = tokenizer(
            texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        with torch.no_grad(), autocast():
            hidden = text(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        e = embedding[chosen].float()
        e = e + 0.15 * torch.rand(32, 1, 1, 1, generator=generator) * torch.randn(
            e.shape, generator=generator
        )
        # Guidance's unconditional half has a zero embedding (diffusers' decoder pipeline).
        e = e * models.LATENT_MEAN - models.LATENT_STD
        e = e * (torch.rand(32, 1, 1, 1, generator=generator) > 0.05)
        x, noise, t, weight = noised(targets[chosen].float() / scale, generator, least_signal=0.1)
        epsilon = run(x, t, e, hidden)
        return (weight * (epsilon - noise).square()).mean()

    averaged = fit("stage_b", decoder, loss_of, steps=steps, lr=1.5e-3, work=work)
    finish("stage_b", decoder, averaged, work)
    torch.save({"scale": scale}, work / "scale.pt")


def _load_text_encoder(text: nn.Module, work: Path) -> None:
    state = torch.load(work / "stage_c.pt", weights_only=True)["ema"]
    text.load_state_dict(
        {key.removeprefix("text."): v for key, v in state.items() if key.startswith("text.")}
    )


def _stage_b(decoder: nn.Module, x: Tensor, t: Tensor, e: Tensor, hidden: Tensor) -> Tensor:
    with autocast():
        return decoder(x, t, e, hidden).float()


def finish(name: str, model: nn.Module, averaged: dict[str, Tensor], work: Path) -> None:
    model.load_state_dict(averaged)
    torch.save(model.state_dict(), work / f"{name}.final.pt")
    print(f"{name}: done", flush=True)


def load(name: str, model: nn.Module, work: Path) -> nn.Module:
    """A finished part, frozen; ends with a clear message when it is not finished."""
    path = work / f"{name}.final.pt"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run 'train.py {name} --work {work}' first")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval().requires_grad_(False)


PARTS: dict[str, tuple[Callable[[Path, int], None], int]] = {
    "judge": (train_judge, 1200),
    "stage_a": (train_stage_a, 2500),
    "autoencoder": (train_autoencoder, 3500),
    "stage_b": (train_stage_b, 9000),
    "stage_c": (train_stage_c, 9000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training state")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    train, steps = PARTS[args.part]
    torch.manual_seed(0)
    train(args.work, args.steps or steps)


if __name__ == "__main__":
    main()
