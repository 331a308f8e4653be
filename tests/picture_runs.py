"""Runs from pictures without an export: the export-form modules, and diffusers' beside them.

The compressor is a small network of PyTorch's; Stage A's encoder is the reference's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tiny
import torch
from diffusers import DDPMWuerstchenScheduler
from torch import Tensor, nn

from exporter.checkpoint.open import Checkpoint
from exporter.formats.tokenizer import write_tokenizer
from exporter.job import check_job
from exporter.manifest import new_manifest
from exporter.options import ExportOptions
from exporter.torch_engine import TorchGraphs
from runtimes.bundle.manifest import Graph, Manifest, PictureSide
from runtimes.bundle.manifest import Tensor as Spec
from runtimes.engines.base import Engine, Feeds, Placement, Tensors
from runtimes.pipeline import Pipeline
from runtimes.plan import Plan
from runtimes.start import Start
from runtimes.tokenizer import PromptTokenizer

CONFIGURATION = "public"  # of tiny.TINY
STRIDE = 8


class ModuleEngine:
    """A function of PyTorch's as a graph of one input and one output."""

    def __init__(self, function: Callable[[Tensor], Tensor], reads: str, gives: str) -> None:
        self._function, self._reads, self._gives = function, reads, gives
        self.load_seconds = 0.0
        self.placement = Placement("PyTorch", "CPU", "f32")

    def run(self, feeds: Feeds) -> Tensors:
        values = self._function(torch.from_numpy(np.ascontiguousarray(feeds[self._reads])))
        return {self._gives: values.numpy()}

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        return lambda feeds: self.run({**constants, **feeds})

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Made:
    """What a pipeline is made of; `modules` are the reference's."""

    manifest: Manifest
    graphs: TorchGraphs
    pictures: dict[str, tuple[Callable[[Tensor], Tensor], str, str]]
    tokenizers: dict[str, PromptTokenizer]
    modules: tiny.Reference
    opened: list[str]

    def open(self, name: str) -> Engine:
        """A graph; `opened` has the names, in order."""
        self.opened.append(name)
        if name in self.pictures:
            return ModuleEngine(*self.pictures[name])
        return self.graphs.open(name)

    def pipeline(self, **options) -> Pipeline:
        self.opened.clear()
        return Pipeline(self.manifest, self, self.tokenizers, **options)


def make(checkpoint: Checkpoint, folder: Path) -> Made:
    """The tiny checkpoint CONFIGURATION with a picture side."""
    job = check_job(checkpoint, ExportOptions())
    vocabulary = job.vocabularies["text_encoder"]
    spec = write_tokenizer(vocabulary, folder / "tokenizer", "tokenizer", 77)
    tokenizer = PromptTokenizer(folder / "tokenizer", spec)
    names = ("text_encoder", "decoder_text_encoder")
    modules = tiny.reference(CONFIGURATION)
    vqgan = modules.stage_a
    torch.manual_seed(3)
    channels = modules.stage_c.config.c_in
    compressor = nn.Sequential(nn.Conv2d(3, channels, STRIDE, STRIDE), nn.Tanh()).eval()
    pictures = {
        "compressor": (lambda x: 2 * compressor(x), "image", "image_embedding"),
        "stage_a_encoder": (
            lambda x: vqgan.encode(x, return_dict=False)[0] / vqgan.config.scale_factor,
            "image",
            "latents",
        ),
    }
    graphs = {
        name: Graph(f"{name}/model.onnx", "fp32", (_open(reads),), (_open(gives),))
        for name, (_, reads, gives) in pictures.items()
    } | {
        plan.name: Graph(f"{plan.name}/model.onnx", "fp32", plan.inputs, plan.outputs)
        for plan in job.plans
    }
    manifest = replace(
        new_manifest(job, job.plans, dict.fromkeys(names, spec)),
        graphs=graphs,
        picture_side=PictureSide(compressor_stride=STRIDE),
    )
    found = dict.fromkeys(names, tokenizer)
    return Made(manifest, TorchGraphs(job.plans), pictures, found, modules, [])


def _open(name: str) -> Spec:
    return Spec(name, "float32", ("batch", 3, "4*height", "4*width"))


@dataclass
class ByDiffusers:
    """The same run by diffusers' modules and scheduler, one picture of one prompt."""

    made: Made
    plan: Plan
    start: Start
    seed: int
    again: dict[str, Tensor]  # masks in cells, by stage; none: no mask

    def __call__(self, prompt: str, timesteps: list[float]) -> np.ndarray:
        """The picture (1,3,H,W); `timesteps` are Stage C's, without a picture."""
        modules, constants = self.made.modules, self.made.modules.constants
        generator = torch.Generator().manual_seed(self.seed)
        texts = self.made.tokenizers["text_encoder"]([prompt, ""])
        ids, mask = torch.from_numpy(texts.input_ids), torch.from_numpy(texts.attention_mask)
        hidden = modules.text_encoder(ids, attention_mask=mask).last_hidden_state
        picture = torch.from_numpy(self.start.picture)
        side = [STRIDE * cells for cells in self.plan.sizes.stage_c]
        small = nn.functional.interpolate(picture, side, mode="bilinear", antialias=True)
        embedding = self.made.pictures["compressor"][0](small)
        clean = (embedding + constants["latent_std"]) / constants["latent_mean"]
        # diffusers' image-to-image pipelines: get_timesteps, then add_noise at the first.
        steps = len(timesteps) - 1
        left_out = max(steps - min(int(steps * self.start.strength), steps), 0)
        noise = torch.randn(clean.shape, generator=generator)
        hidden = hidden[: self.plan.rows("stage_c", 1)]
        latents = self._loop(
            "stage_c", timesteps[left_out:], clean, noise, generator,
            lambda x, t: modules.stage_c(x, t, hidden), noised=True,
        )  # fmt: skip
        embedding = latents * constants["latent_mean"] - constants["latent_std"]
        hidden = modules.decoder_text_encoder(ids, attention_mask=mask).last_hidden_state[:1]
        kept = self.made.pictures["stage_a_encoder"][0](picture)
        noise = torch.randn(kept.shape, generator=generator)
        latents = self._loop(
            "stage_b", self.plan.decoder_timesteps, kept, noise, generator,
            lambda x, t: modules.stage_b(x, t, embedding, hidden), noised=False,
        )  # fmt: skip
        decoded = modules.stage_a.decode(latents * modules.stage_a.config.scale_factor).sample
        return decoded.clamp(0, 1).numpy()

    def _loop(self, name, timesteps, clean, noise, generator, module, *, noised) -> Tensor:
        scheduler = DDPMWuerstchenScheduler()
        scheduler.set_timesteps(timesteps=timesteps)
        steps = scheduler.timesteps
        latents = noise if not noised else clean
        if noised and len(steps) > 1:
            latents = scheduler.add_noise(clean, noise, steps[:1])
        guidance = getattr(self.plan, name).guidance
        for index, t in enumerate(steps[:-1]):
            ratio = t.expand(1)
            if guidance > 1:
                both = module(torch.cat([latents] * 2), torch.cat([ratio] * 2))
                epsilon = torch.lerp(*reversed(both.chunk(2)), guidance)
            else:
                epsilon = module(latents, ratio)
            latents = scheduler.step(epsilon, ratio, latents, generator=generator).prev_sample
            if self.again:
                # As StableDiffusionInpaintPipeline with a UNet of 4 channels.
                last = index == len(steps) - 2
                kept = clean if last else scheduler.add_noise(clean, noise, steps[index + 1 :][:1])
                again = self.again[name]
                latents = (1 - again) * kept + again * latents
        return latents
