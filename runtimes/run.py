"""One run of a pipeline: text encoders, then Stage C, Stage B and Stage A, NumPy between them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtimes.blank import Blank, blank_pictures
from runtimes.bundle.host import PICTURE
from runtimes.bundle.manifest import Manifest
from runtimes.engines.base import Placement, Tensors
from runtimes.engines.table import Sessions
from runtimes.images import to_uint8
from runtimes.measured_graphs import MeasuredGraphs, OnStep, OnTensors
from runtimes.memory import Usage
from runtimes.pictures import resized
from runtimes.plan import Plan, Stage
from runtimes.previews import Previews
from runtimes.sizes import Sizes
from runtimes.start import Start, compressor_stride, keeping, noised
from runtimes.tokenizer import PromptTokenizer

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """Pictures (B,H,W,3) uint8, `image` the same as fp32 (B,3,H,W), Stage C's final latents.

    `truncated` pairs each prompt that was too long with the part that was cut off; `usage` has
    time and peak memory per graph, `placements` the engine, device and precision of each; `blanks`
    are outputs that cannot be meant, one a graph.
    """

    pictures: NDArray[np.uint8]
    image: Array
    latents: Array
    truncated: tuple[tuple[str, str], ...]
    sizes: Sizes
    plan: Plan
    usage: dict[str, Usage] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    blanks: tuple[Blank, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """Pictures as Stage B reads them, fp32 (B,C,h,w); `usage` and `placements` as of a Result."""

    image_embedding: Array
    usage: dict[str, Usage]
    placements: dict[str, Placement]


class Run:
    """One call of a pipeline, graph by graph, each with its time, memory and placement."""

    def __init__(
        self,
        manifest: Manifest,
        sessions: Sessions,
        tokenizers: dict[str, PromptTokenizer],
        plan: Plan,
        on_step: OnStep,
        on_tensors: OnTensors,
        previews: Previews | None = None,
    ) -> None:
        self._manifest, self._sampling = manifest, manifest.sampling
        self._text_graphs = manifest.text_graphs
        self._tokenizers, self._plan = tokenizers, plan
        self._measured = MeasuredGraphs(manifest, sessions, plan, on_step, on_tensors, previews)
        self._truncated: dict[str, str] = {}

    def __call__(self, prompts: list[str], negatives: list[str]) -> Result:
        plan, sampling = self._plan, self._sampling
        count = len(prompts)
        picture = None if plan.start is None else self._compressed(plan.start, count)
        # Both stages may share one encoder, which then runs once; without steps there is no text.
        text = [self._text_graphs[s.name] for s in (plan.stage_c, plan.stage_b) if s.rows]
        hidden = {
            graph: self._encode(graph, prompts, negatives)
            for graph in dict.fromkeys(filter(None, text))
        }
        latents = self._stage_c(hidden, count, picture)
        embedding = latents * np.float32(sampling.latent_mean) - np.float32(sampling.latent_std)
        return self._result(embedding, latents, hidden)

    def encode(self, pictures: Array) -> Encoded:
        """What the compressor makes of pictures (B,3,H,W), fp32 in 0..1, of the plan's size."""
        embedding = self._embedded(pictures, len(pictures))
        return Encoded(embedding, self._measured.usage, self._measured.placements)

    def decode(self, embedding: Array, prompts: list[str], negatives: list[str]) -> Result:
        """Pictures of an image embedding (B,C,h,w), by Stage B and Stage A alone."""
        graph, sampling = self._text_graphs["stage_b"], self._sampling
        hidden = {} if graph is None else {graph: self._encode(graph, prompts, negatives)}
        latents = embedding + np.float32(sampling.latent_std)
        return self._result(embedding, latents / np.float32(sampling.latent_mean), hidden)

    def _result(self, embedding: Array, latents: Array, hidden: dict[str, Array]) -> Result:
        """Stage B and Stage A; `latents` are Stage C's, of which the embedding is."""
        plan = self._plan
        decoded = self._stage_b(embedding, self._rows(plan.stage_b, hidden, len(embedding)))
        image = self._stage_a(decoded)
        pictures = to_uint8(image)
        self._measured.note(blank_pictures(pictures))
        return Result(
            pictures,
            image,
            latents,
            tuple(self._truncated.items()),
            plan.sizes,
            plan,
            self._measured.usage,
            self._measured.placements,
            self._measured.blanks,
        )

    def _rows(self, stage: Stage, hidden: dict[str, Array], count: int) -> Tensors:
        """What a stage's condition graph reads of the text; nothing where the stage is text-free.

        The negative prompts' rows come last, and are left out without guidance.
        """
        graph = self._text_graphs[stage.name]
        if graph is None:
            return {}
        return {"last_hidden_state": hidden[graph][: self._plan.rows(stage.name, count)]}

    def _encode(self, graph: str, prompts: list[str], negatives: list[str]) -> Array:
        """Hidden states (2B,T,width): the prompts', then the negative prompts'."""
        texts = prompts + negatives
        encoding = self._tokenizers[graph](texts)
        lost = zip(texts, encoding.truncated, strict=True)
        self._truncated |= {text: tail for text, tail in lost if tail}
        feeds: Tensors = {
            "input_ids": encoding.input_ids,
            "attention_mask": encoding.attention_mask,
        }
        hidden = self._measured.once(graph, feeds)["last_hidden_state"]
        return hidden.astype(np.float32, copy=False)

    def _stage_c(self, hidden: dict[str, Array], count: int, picture: Array | None) -> Array:
        """Its latents (B,16,h,w); `picture` (1 or B,16,h,w) is what they are without steps."""
        stage = self._plan.stage_c
        if picture is not None and not stage.rows:
            self._draw(stage, count)  # what comes after has the noise it always has
            return np.repeat(picture, count // len(picture), axis=0)
        conditions = self._measured.once("stage_c_condition", self._rows(stage, hidden, count))
        # Drawn here and in this order: the same seed is to give the pictures diffusers gives.
        noise = start = self._draw(stage, count)
        if picture is not None:
            start = noised(picture, noise, stage.timesteps[0], stage.denoiser)
        keep = keeping(self._plan.start, picture, noise, stage.timesteps, stage.denoiser)
        return self._measured.denoise(stage, start, conditions, keep)

    def _stage_b(self, embedding: Array, text: Tensors) -> Array:
        stage = self._plan.stage_b
        picture = self._encoded(len(embedding))
        noise = start = batch = self._draw(stage, len(embedding))
        if stage.guided:  # the unconditional half has a zero embedding, as in diffusers
            embedding = np.concatenate([embedding, np.zeros_like(embedding)])
            batch = np.concatenate([start, start])
        feeds: Tensors = {"image_embedding": embedding, "latents": batch, **text}
        conditions = self._measured.once("stage_b_condition", feeds)
        keep = keeping(self._plan.start, picture, noise, stage.timesteps, stage.denoiser)
        return self._measured.denoise(stage, start, conditions, keep)

    def _stage_a(self, latents: Array) -> Array:
        image = self._measured.by_picture("stage_a", "latents", latents, len(latents))["image"]
        # The graph clamps too; what narrow types round may lie a little outside all the same.
        return np.clip(image.astype(np.float32, copy=False), *PICTURE.clamp)

    def _compressed(self, start: Start, count: int) -> Array:
        """The picture's latents of Stage C (1 or B,16,h,w)."""
        mean, std = self._sampling.latent_mean, self._sampling.latent_std
        return (self._embedded(start.picture, count) + np.float32(std)) / np.float32(mean)

    def _embedded(self, pictures: Array, count: int) -> Array:
        """The image embedding (1 or B,16,h,w) of pictures (1 or B,3,H,W)."""
        stride = compressor_stride(self._manifest)
        pixels = resized(pictures, *(stride * side for side in self._plan.sizes.stage_c))
        outputs = self._measured.by_picture("compressor", "image", pixels, count)
        return outputs["image_embedding"].astype(np.float32, copy=False)

    def _encoded(self, count: int) -> Array | None:
        """The picture's latents of Stage B (1 or B,4,H,W), where a part of it is kept."""
        start = self._plan.start
        if start is None or start.mask is None:
            return None
        outputs = self._measured.by_picture("stage_a_encoder", "image", start.picture, count)
        return outputs["latents"].astype(np.float32, copy=False)

    def _draw(self, stage: Stage, count: int) -> Array:
        return self._plan.noise.draw(stage.latent_shape(count))
