"""Batches for the recipe: drawn pictures, their scenes and captions, all from a step number."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from validation.demo.drawing import SIDE, draw
from validation.demo.scenes import PLACES, Scene, sample_scene


def batch(
    step: int, size: int, *, stream: str, held_out: bool = False
) -> tuple[Tensor, list[Scene]]:
    """`size` pictures (size,3,128,128) in 0..1 and their scenes; each stream draws its own."""
    rng = np.random.default_rng([step, *stream.encode()])
    scenes = [sample_scene(rng, held_out=held_out) for _ in range(size)]
    pictures = np.stack([draw(scene, rng) for scene in scenes])
    return to_tensor(pictures), scenes


def to_tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def labels(scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Targets of the judge: shape (B,9), 0 = empty; colour, size (B,9), -1 = empty; background."""
    shape = torch.zeros(len(scenes), len(PLACES), dtype=torch.long)
    colour, size = torch.full_like(shape, -1), torch.full_like(shape, -1)
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            shape[i, thing.place] = thing.shape + 1
            colour[i, thing.place] = thing.colour
            size[i, thing.place] = thing.size
    return shape, colour, size, torch.tensor([scene.background for scene in scenes])


def fixed_set(count: int, work: Path) -> tuple[np.ndarray, list[Scene]]:
    """The training pictures of Stages B and C, drawn once: uint8 (count,128,128,3) and scenes."""
    rng = np.random.default_rng([count, *b"fixed"])
    scenes = [sample_scene(rng, held_out=False) for _ in range(count)]
    path = work / f"pictures_{count}.npy"
    if not path.exists():
        pictures = np.lib.format.open_memmap(
            path.with_suffix(".tmp"), mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3)
        )
        for i, scene in enumerate(scenes):
            pictures[i] = draw(scene, np.random.default_rng([i, *b"fixed"]))
        pictures.flush()
        path.with_suffix(".tmp").rename(path)
    return np.load(path, mmap_mode="r"), scenes
