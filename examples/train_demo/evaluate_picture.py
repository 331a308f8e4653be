"""Score the picture side: 200 held-out drawings through the compressor and back, and previews.

python evaluate_picture.py CHECKPOINT [--drawings 200] [--grid pictures.png] [--json figures.json]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import to_tensor
from evaluate import WuerstchenDecoderPipeline
from models import LATENT_MEAN, LATENT_STD
from picture_models import PREVIEW_SIDE, Previewer, SemanticCompressor, resized
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from validation.demo.drawing import SIDE, draw
from validation.demo.judge import Judge, score
from validation.demo.scenes import held_out_scenes

COLUMNS = 6


def load_module(module: nn.Module, path: Path) -> nn.Module:
    """The packaged fp16 weights, in fp32; the counters of batches are not packaged."""
    missing, unexpected = module.load_state_dict(load_file(path), strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return module.eval().requires_grad_(False)


def reconstruct(decoder: WuerstchenDecoderPipeline, embeddings: Tensor, seed: int) -> np.ndarray:
    """Stage B and Stage A without a prompt: (N,16,6,6) -> (N,SIDE,SIDE,3) uint8."""
    decoder.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    images = [
        decoder(embedding[None], "", generator=generator, output_type="np").images[0]
        for embedding in embeddings
    ]
    return levels(np.stack(images))


def levels(images: np.ndarray) -> np.ndarray:
    return np.rint(images * 255).astype(np.uint8)


def psnr(found: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Decibels, picture by picture (N,H,W,3) uint8: their mean and the lowest."""
    error = (found.astype(np.float64) - drawn).reshape(len(drawn), -1)
    decibels = 10 * np.log10(255**2 / np.square(error).mean(axis=1))
    return {"mean": float(decibels.mean()), "lowest": float(decibels.min())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--drawings", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, help="write drawings, reconstructions and previews")
    parser.add_argument("--json", type=Path, help="add the figures to those that are there")
    args = parser.parse_args()
    prior = args.checkpoint / "wuerstchen-prior"
    compressor = load_module(SemanticCompressor(), prior / "effnet_encoder.safetensors")
    previewer = load_module(Previewer(), prior / "previewer.safetensors")
    decoder = WuerstchenDecoderPipeline.from_pretrained(
        args.checkpoint / "wuerstchen", torch_dtype=torch.float32
    )

    scenes = held_out_scenes(args.drawings)
    rng = np.random.default_rng(args.seed)
    drawings = np.stack([draw(scene, rng) for scene in scenes])
    pictures = to_tensor(drawings)
    embeddings = compressor(resized(pictures))
    previews = previewer((embeddings + LATENT_STD) / LATENT_MEAN).clamp(0, 1)
    small = resized(pictures, PREVIEW_SIDE)
    reconstructions = reconstruct(decoder, embeddings, args.seed)
    figures: dict[str, Any] = {
        "drawings": len(scenes),
        "seed": args.seed,
        "bits per pixel": 16 * embeddings[0].numel() / SIDE**2,
        "PSNR of reconstructions": psnr(reconstructions, drawings),
        "PSNR of previews": psnr(_channels_last(previews), _channels_last(small)),
        "PSNR of Stage A alone": psnr(_channels_last(_stage_a(decoder.vqgan, pictures)), drawings),
        "reconstructions": score(
            Judge(args.checkpoint / "judge/model.onnx")(reconstructions), scenes
        ),
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        every = json.loads(args.json.read_text()) | {"picture side": figures}
        args.json.write_text(json.dumps(every, indent=1) + "\n")
    if args.grid:
        shown = nn.functional.interpolate(previews[:COLUMNS], (SIDE, SIDE))
        rows = (drawings[:COLUMNS], reconstructions[:COLUMNS], _channels_last(shown))
        grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        Image.fromarray(grid).save(args.grid, optimize=True)


def _channels_last(images: Tensor) -> np.ndarray:
    return levels(images.permute(0, 2, 3, 1).numpy())


@torch.no_grad()
def _stage_a(vqgan: nn.Module, pictures: Tensor) -> Tensor:
    """Through Stage A's encoder and back: what no reconstruction can exceed by much."""
    (latents,) = vqgan.encode(pictures, return_dict=False)
    return vqgan.decode(latents).sample.clamp(0, 1)


if __name__ == "__main__":
    main()
