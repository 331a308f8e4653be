"""Write the demo checkpoint's model card from its figures: python model_card.py CHECKPOINT."""

import json
import sys
from pathlib import Path
from typing import Any

from validation.demo.scenes import caption, held_out_scenes

MEANING = {
    "pair": "named colour + shape pairs found anywhere in the picture",
    "shape": "named shapes found",
    "colour": "named colours found",
    "size": "pairs found that have the named size",
    "place": "pairs found that are at the named place",
    "background": "pictures with the named background",
    "exact": "pictures with every pair, nothing else, and the background right",
    "pair, 1 named": "pairs found, prompts that name one thing",
    "pair, 2 named": "pairs found, prompts that name two",
}
CARD = """---
license: apache-2.0
tags:
- text-to-image
- wuerstchen
---
# The demo checkpoint

A small Würstchen with trained weights: captioned drawings of one to three coloured shapes,
128 x 128 pixels. It is here so that a new machine makes a recognisable picture from a prompt
without any download, and so that exported and quantised variants are measured on learned weights,
not on noise.
It knows six shapes, six colours, two sizes, nine places and four backgrounds, and nothing else.

![32 held-out prompts](grid.png)

Two diffusers folders in fp16 (`wuerstchen`: Stage B, Stage A, text encoder; `wuerstchen-prior`:
Stage C, the same text encoder, semantic compressor, previewer), and the judge as ONNX.
{size:.2f} MB in all.

Load it in diffusers as two pipelines, which read its latent ratios (21.34 pixels and 5.34 latents
a cell, mean 2, std 0.5) from `model_index.json`. In this folder, with diffusers 0.39:

```python
import torch
from diffusers import WuerstchenDecoderPipeline, WuerstchenPriorPipeline, pipelines
from diffusers.pipelines.deprecated import wuerstchen
from diffusers.pipelines.deprecated.wuerstchen.pipeline_wuerstchen_prior import (
    DEFAULT_STAGE_C_TIMESTEPS,
)

# model_index.json names its classes' module as the public checkpoints do: 'wuerstchen'. diffusers
# has moved it since, and finds it by that name no longer.
pipelines.wuerstchen = wuerstchen

prior = WuerstchenPriorPipeline.from_pretrained("wuerstchen-prior", torch_dtype=torch.float32)
decoder = WuerstchenDecoderPipeline.from_pretrained("wuerstchen", torch_dtype=torch.float32)
prompt = "a large red circle on the left"
generator = torch.Generator().manual_seed(0)
embeddings = prior(
    prompt,
    height=128,
    width=128,
    timesteps=DEFAULT_STAGE_C_TIMESTEPS,
    guidance_scale=4.0,
    generator=generator,
).image_embeddings
decoder(embeddings, prompt, generator=generator).images[0].save("picture.png")
```

`WuerstchenCombinedPipeline` takes these folders' components unchanged, but builds its two inner
pipelines with the ratios of the public checkpoints: set them on `prior_pipe` and `decoder_pipe`
with `register_to_config`, as `tests/test_demo.py` does.

## Figures

{prompts} held-out prompts of one or two shapes, diffusers in fp32 on a CPU, default schedules
(29 and 12 steps, guidance 4), seed {seed}; read back by the judge. Held out means that the
combination of colour + shape pairs (for one shape: its four attributes) never was in a training
picture.

| figure | value | what it counts |
|---|---|---|
{rows}

The judge itself, on {fresh} fresh drawings of held-out combinations of one to three shapes:
{judge}.

The first row of the picture: {first}.

## Pictures to latents and back

`wuerstchen-prior/effnet_encoder.safetensors` is the semantic compressor, a small EfficientNetV2
that reads a picture at 96 x 96 (antialiased bilinear) and gives the 16 x 6 x 6 image embedding that
Stage B decodes; `previewer.safetensors` turns Stage C's latents into a 48 x 48 picture at once.
Both are laid out as Stable Cascade's files of these names.

![drawings, reconstructions, previews](pictures.png)

{drawings} held-out drawings, one of each prompt above; reconstructions by compressor, Stage B (12
steps, no prompt) and Stage A, diffusers in fp32 on a CPU, seed {picture_seed}. A code is
{bits:.4f} bits a pixel in fp16.

| figure | mean | lowest |
|---|---|---|
{decibels}

Of the reconstructions, read back by the judge:

| figure | value | what it counts |
|---|---|---|
{reconstructions}

## Training

{training}

The recipe is `examples/train_demo`; the drawings are made by `validation/demo`.
"""

POINTER = """---
license: apache-2.0
---
Half of wuerstchen-export's demo checkpoint; the model card is one folder up.
"""


def shares(values: dict[str, float]) -> str:
    """Rows of a table of the judge's shares."""
    return "\n".join(f"| {k} | {100 * v:.1f} % | {MEANING[k]} |" for k, v in values.items())


def decibels(picture: dict[str, Any]) -> str:
    """Rows of every PSNR of the picture side."""
    rows = {key: value for key, value in picture.items() if key.startswith("PSNR")}
    return "\n".join(
        f"| {k} | {v['mean']:.1f} dB | {v['lowest']:.1f} dB |" for k, v in rows.items()
    )


def main() -> None:
    folder = Path(sys.argv[1])
    figures = json.loads((folder / "figures.json").read_text())
    picture = figures["picture side"]
    judge = ", ".join(f"{k} {100 * v:.1f} %" for k, v in figures["judge on drawings"].items())
    first = "; ".join(caption(scene) for scene in held_out_scenes(figures["prompts"])[:8])
    others = (p for p in folder.rglob("*") if p.is_file() and p.name != "README.md")
    card = CARD.format(
        size=sum(path.stat().st_size for path in others) / 1e6,
        prompts=figures["prompts"],
        seed=figures["seed"],
        rows=shares(figures["pictures"]),
        fresh=1000,
        judge=judge,
        first=first,
        drawings=picture["drawings"],
        picture_seed=picture["seed"],
        bits=picture["bits per pixel"],
        decibels=decibels(picture),
        reconstructions=shares(picture["reconstructions"]),
        training=(folder / "training.md").read_text().strip(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    for name in ("wuerstchen", "wuerstchen-prior"):  # what reads a folder alone finds the license
        (folder / name / "README.md").write_text(POINTER, encoding="utf-8")


if __name__ == "__main__":
    main()
