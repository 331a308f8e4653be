"""One run of a pipeline: text encoders, then Stage C, Stage B and Stage A, NumPy between them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtimes.blank import Blank, blank_output, blank_pictures, blank_step
from runtimes.bundle.host import PICTURE
from runtimes.bundle.manifest import Manifest
from runtimes.engines.base import Engine, Placement, Tensors
from runtimes.engines.table import Sessions
from runtimes.images import to_uint8
from runtimes.memory import Usage, measured
from runtimes.pictures import resized
from runtimes.plan import Plan, Stage, pictures_at_once
from runtimes.previews import Previewer, Previews
from runtimes.sampler import Denoise, advice_for, check_finite, place_of, sample
from runtimes.sizes import Sizes
from runtimes.start import AfterStep, Start, compressor_stride, keeping, noised
from runtimes.tokenizer import PromptTokenizer

Array = NDArray[np.float32]
OnStep = Callable[[str, int, int], None]  # stage, steps done, steps in all
OnTensors = Callable[[str, Tensors], None]  # what was computed: 'stage_c/3' -> latents, ...


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
        self._manifest = manifest
        self._sampling, self._graphs = manifest.sampling, manifest.graphs
        self._previewer = None if previews is None else Previewer(manifest, sessions, previews)
        self._text_graphs = manifest.text_graphs
        self._sessions, self._tokenizers = sessions, tokenizers
        self._plan, self._on_step, self._on_tensors = plan, on_step, on_tensors
        self._usage: dict[str, Usage] = {}
        self._placements: dict[str, Placement] = {}
        self._truncated: dict[str, str] = {}
        self._blanks: dict[str, Blank] = {}

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
        return Encoded(embedding, self._usage, self._placements)

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
        self._note(blank_pictures(pictures))
        return Result(
            pictures,
            image,
            latents,
            tuple(self._truncated.items()),
            plan.sizes,
            plan,
            self._usage,
            self._placements,
            tuple(self._blanks.values()),
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
        return self._once(graph, feeds)["last_hidden_state"].astype(np.float32, copy=False)

    def _stage_c(self, hidden: dict[str, Array], count: int, picture: Array | None) -> Array:
        """Its latents (B,16,h,w); `picture` (1 or B,16,h,w) is what they are without steps."""
        stage = self._plan.stage_c
        if picture is not None and not stage.rows:
            self._draw(stage, count)  # what comes after has the noise it always has
            return np.repeat(picture, count // len(picture), axis=0)
        conditions = self._once("stage_c_condition", self._rows(stage, hidden, count))
        # Drawn here and in this order: the same seed is to give the pictures diffusers gives.
        noise = start = self._draw(stage, count)
        if picture is not None:
            start = noised(picture, noise, stage.timesteps[0], stage.denoiser)
        keep = keeping(self._plan.start, picture, noise, stage.timesteps, stage.denoiser)
        latents = self._denoise(stage, start, conditions, keep)
        self._count_previews()
        return latents

    def _stage_b(self, embedding: Array, text: Tensors) -> Array:
        stage = self._plan.stage_b
        picture = self._encoded(len(embedding))
        noise = start = batch = self._draw(stage, len(embedding))
        if stage.guided:  # the unconditional half has a zero embedding, as in diffusers
            embedding = np.concatenate([embedding, np.zeros_like(embedding)])
            batch = np.concatenate([start, start])
        feeds: Tensors = {"image_embedding": embedding, "latents": batch, **text}
        conditions = self._once("stage_b_condition", feeds)
        keep = keeping(self._plan.start, picture, noise, stage.timesteps, stage.denoiser)
        return self._denoise(stage, start, conditions, keep)

    def _stage_a(self, latents: Array) -> Array:
        image = self._by_picture("stage_a", "latents", latents, len(latents))["image"]
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
        outputs = self._by_picture("compressor", "image", pixels, count)
        return outputs["image_embedding"].astype(np.float32, copy=False)

    def _encoded(self, count: int) -> Array | None:
        """The picture's latents of Stage B (1 or B,4,H,W), where a part of it is kept."""
        start = self._plan.start
        if start is None or start.mask is None:
            return None
        outputs = self._by_picture("stage_a_encoder", "image", start.picture, count)
        return outputs["latents"].astype(np.float32, copy=False)

    def _draw(self, stage: Stage, count: int) -> Array:
        return self._plan.noise.draw(stage.latent_shape(count))

    def _by_picture(self, graph: str, name: str, values: Array, count: int) -> Tensors:
        """Run a graph on (1 or B,...), picture by picture; graphs of fixed shape take B at once."""
        # None: a source of graphs may bring one that the manifest does not have.
        size = pictures_at_once(self._graphs.get(graph), count)
        rows = values if len(values) % size == 0 else np.repeat(values, size, axis=0)
        parts: list[Tensors] = [{name: part} for part in np.split(rows, len(rows) // size)]
        return self._once(graph, *parts)

    def _denoise(
        self, stage: Stage, latents: Array, conditions: Tensors, after_step: AfterStep | None
    ) -> Array:
        self._on_tensors(f"{stage.name}/start", {"latents": latents})
        with self._running(stage.name) as engine:
            advice = self._advice(stage.name, engine)
            # The bound graph has no name here: it would hold the engine's memory past its closing.
            return self._steps(stage, _bound(engine, conditions), latents, advice, after_step)

    def _steps(
        self,
        stage: Stage,
        denoise: Denoise,
        latents: Array,
        advice: str,
        after_step: AfterStep | None,
    ) -> Array:
        for step in sample(denoise, stage, latents, self._plan.noise, advice, after_step):
            before, latents = latents, step.latents
            where = place_of(stage, step.index)
            self._note(blank_step(stage.name, where, step.epsilon, len(latents)))
            self._on_step(stage.name, step.index + 1, len(stage.rows))
            tensors = {"epsilon": step.epsilon, "noise": step.noise, "latents": latents}
            self._on_tensors(f"{stage.name}/{step.index}", dict(tensors))
            if self._previewer is not None and stage.name == "stage_c":
                self._previewer(stage, step, before)
        return latents

    def _count_previews(self) -> None:
        """Count their time as their own: they were made while Stage C ran."""
        if self._previewer is not None:
            usage = self._usage["preview"] = self._previewer.usage
            self._placements["preview"] = self._previewer.placement
            self._usage["stage_c"].seconds -= usage.seconds

    def _once(self, graph: str, *parts: Tensors) -> Tensors:
        """Run a graph outside the steps; see to it that its outputs are finite.

        `parts` are rows of one batch that run one after the other; the outputs are of all of them.
        """
        with self._running(graph) as engine:
            outputs = _joined([engine.run(part) for part in parts])
            advice = self._advice(graph, engine)
        for name, values in outputs.items():
            check_finite(values.astype(np.float32, copy=False), f"{graph} ({name})", advice)
        if graph != "stage_a":  # its pictures are looked at as they will be seen
            self._note(blank_output(graph, outputs))
        self._on_step(graph, 1, 1)
        self._on_tensors(graph, {**_joined(parts), **outputs})
        return outputs

    def _note(self, blank: Blank | None) -> None:
        """Keep a graph's first blank output: those behind it say no more."""
        if blank is not None:
            self._blanks.setdefault(blank.graph, blank)

    def _advice(self, graph: str, engine: Engine) -> str:
        """What to do where this graph's values are not finite.

        A guidance scale that is too high shows in every graph after the step it enters, but not in
        those that run before it.
        """
        spec, computed = self._graphs.get(graph), engine.placement.precision
        scales = {"--guidance": self._plan.guidance}
        if graph in ("stage_b", "stage_a"):
            scales["--decoder-guidance"] = self._plan.decoder_guidance
        reached = {} if "text_encoder" in graph or graph == "stage_c_condition" else scales
        return advice_for(spec.precision if spec else "fp32", computed, reached)

    @contextmanager
    def _running(self, graph: str) -> Iterator[Engine]:
        """A graph, ready to run; its time, memory and placement are kept."""
        with measured() as usage, self._sessions.using(graph) as engine:
            yield engine
            self._placements[graph] = engine.placement  # some engines know it only after a run
            # Taken over and reset: an engine stays open, and the next run did not load it.
            usage.load_seconds, engine.load_seconds = engine.load_seconds, 0.0
        self._usage[graph] = usage


def _bound(engine: Engine, conditions: Tensors) -> Denoise:
    """A graph with its conditions; whoever holds it holds the graph's memory."""
    run = engine.bind(conditions)

    def denoise(latents: Array, embedding: Array) -> Array:
        outputs = run({"latents": latents, "timestep_embedding": embedding})
        return outputs["epsilon"].astype(np.float32, copy=False)

    return denoise


def _joined(parts: Sequence[Tensors]) -> Tensors:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
