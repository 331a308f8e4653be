"""Score the demo checkpoint: 200 held-out prompts through diffusers, read back by the judge.

python evaluate.py CHECKPOINT [--prompts 200] [--grid grid.png] [--json figures.json]
`python -m validation quality BUNDLE` does the same for a bundle, with intervals; it draws each
picture from a seed of its own, so that its noise is not the one here.
"""

import argparse
import json
from pathlib import Path

import validation.torchvision_first  # noqa: F401

# isort: split
import numpy as np
import torch
from diffusers import pipelines
from diffusers.pipelines.deprecated import wuerstchen
from diffusers.pipelines.deprecated.wuerstchen import (
    WuerstchenDecoderPipeline,
    WuerstchenPriorPipeline,
)
from diffusers.pipelines.deprecated.wuerstchen.pipeline_wuerstchen_prior import (
    DEFAULT_STAGE_C_TIMESTEPS,
)
from PIL import Image

from validation.demo.drawing import SIDE, draw
from validation.demo.judge import Judge, score
from validation.demo.scenes import Scene, caption, held_out_scenes, sample_scene

# diffusers 0.39 moved these classes and no longer finds them by the name in model_index.json, in
# the public checkpoints either.
pipelines.wuerstchen = wuerstchen

GUIDANCE = 4.0
GRID = (4, 8)  # rows, columns


def generate(checkpoint: Path, prompts: list[str], seed: int) -> np.ndarray:
    """Pictures (N,SIDE,SIDE,3) uint8 in fp32, default schedules, one generator throughout."""
    kind = {"torch_dtype": torch.float32}
    prior = WuerstchenPriorPipeline.from_pretrained(checkpoint / "wuerstchen-prior", **kind)
    decoder = WuerstchenDecoderPipeline.from_pretrained(checkpoint / "wuerstchen", **kind)
    for pipeline in (prior, decoder):
        pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for at in range(0, len(prompts), 20):
        chunk = prompts[at : at + 20]
        embeddings = prior(
            chunk,
            height=SIDE,
            width=SIDE,
            timesteps=DEFAULT_STAGE_C_TIMESTEPS,
            guidance_scale=GUIDANCE,
            generator=generator,
        ).image_embeddings
        # One at a time: for several prompts the decoder's pipeline repeats their text too often.
        for prompt, embedding in zip(chunk, embeddings, strict=True):
            image = decoder(embedding[None], prompt, generator=generator, output_type="np").images
            pictures.append(np.rint(image[0] * 255).astype(np.uint8))
    return np.stack(pictures)


def judge_accuracy(judge: Judge, count: int = 1000) -> dict[str, float]:
    """The judge on fresh drawings, held-out combinations, one to three things."""
    rng = np.random.default_rng(2026)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    return score(judge(np.stack([draw(scene, rng) for scene in scenes])), scenes)


def per_count(judge: Judge, pictures: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """The pair score by how many things a prompt names."""
    found = {}
    for count in sorted({len(scene.things) for scene in scenes}):
        chosen = [i for i, scene in enumerate(scenes) if len(scene.things) == count]
        readings = judge(pictures[chosen])
        found[f"pair, {count} named"] = score(readings, [scenes[i] for i in chosen])["pair"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, help="write a picture of the first ones")
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    judge = Judge(args.checkpoint / "judge/model.onnx")
    scenes = held_out_scenes(args.prompts)
    prompts = [caption(scene) for scene in scenes]
    pictures = generate(args.checkpoint, prompts, args.seed)
    figures = {
        "prompts": len(prompts),
        "seed": args.seed,
        "judge on drawings": judge_accuracy(judge),
        "pictures": score(judge(pictures), scenes) | per_count(judge, pictures, scenes),
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    if args.grid:
        rows, columns = GRID
        tiles = pictures[: rows * columns].reshape(rows, columns, SIDE, SIDE, 3)
        grid = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * SIDE, columns * SIDE, 3)
        Image.fromarray(grid).save(args.grid)
        for index, prompt in enumerate(prompts[: rows * columns]):
            print(index // columns, index % columns, prompt)


if __name__ == "__main__":
    main()
