"""Prompts to pictures: C -> B -> A over the graphs of a bundle, NumPy between them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import Manifest
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.engines.base import Engine, Execution, Footprint, Placement, Tensors
from runtimes.engines.table import BundleGraphs, GraphSource, Sessions
from runtimes.estimate import Need, check_memory, largest_count
from runtimes.images import to_uint8
from runtimes.memory import Usage, measured, process_memory
from runtimes.noise import NoiseSource
from runtimes.plan import Options, Plan, Stage, check_static, make_plan, negatives_for
from runtimes.prompts import check_text
from runtimes.sampler import Denoise, advice_for, check_finite, sample
from runtimes.sizes import Sizes
from runtimes.tokenizer import PromptTokenizer

Array = NDArray[np.float32]
OnStep = Callable[[str, int, int], None]  # stage, steps done, steps in all
OnTensors = Callable[[str, Tensors], None]  # what was computed: 'stage_c/3' -> latents, ...


@dataclass(frozen=True)
class Result:
    """Pictures (B,H,W,3) uint8, `image` the same as fp32 (B,3,H,W), Stage C's final latents.

    `truncated` pairs each prompt that was too long with the part that was cut off; `usage` has
    time and peak memory per graph, `placements` the engine, device and precision of each.
    """

    pictures: NDArray[np.uint8]
    image: Array
    latents: Array
    truncated: tuple[tuple[str, str], ...]
    sizes: Sizes
    plan: Plan
    usage: dict[str, Usage] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)


class Pipeline:
    """A bundle, ready to make pictures. Use as a context manager, or call `close`.

    `footprint`: what the graphs' engine takes of memory; without it, no run is refused for that.
    """

    def __init__(
        self,
        manifest: Manifest,
        graphs: GraphSource,
        tokenizers: dict[str, PromptTokenizer],
        *,
        low_memory: bool = False,
        footprint: Footprint | None = None,
    ) -> None:
        self.manifest = manifest
        self._low_memory, self._footprint = low_memory, footprint
        self._before = process_memory("RssAnon")  # pages of files count as free already
        self._sessions = Sessions(graphs, one_at_a_time=low_memory)
        self._tokenizers = tokenizers

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        *,
        device: str = "cpu",
        engine: str | None = None,
        precision: str | None = None,
        cache_dir: str | Path | None = None,
        threads: int | None = None,
        low_memory: bool = False,
        memory_check: bool = True,
    ) -> "Pipeline":
        """Open a bundle folder; graphs are loaded when first needed.

        `engine` (onnxruntime, openvino, coreml) defaults to the bundle's own; `precision` (f32,
        bf16, f16) and `cache_dir` are OpenVINO's: the type it computes in, and where it keeps
        compiled graphs. `threads` of the CPU run a graph. `low_memory` holds one graph at a time;
        `memory_check` refuses a run that would not fit into the memory that is free, on the CPU.
        Raises RunError for a damaged bundle, UsageError for an engine, device or precision that is
        not there.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        cache = None if cache_dir is None else Path(cache_dir)
        execution = Execution(device, engine, precision, cache, threads)
        graphs, tokenizers = BundleGraphs(opened, execution), load_tokenizers(opened)
        checked = memory_check and device.lower() == "cpu"
        footprint = graphs.footprint() if checked else None
        return cls(opened.manifest, graphs, tokenizers, low_memory=low_memory, footprint=footprint)

    def __call__(
        self,
        prompts: str | Sequence[str],
        negative_prompts: str | Sequence[str] = "",
        options: Options | None = None,
        *,
        noise: NoiseSource | None = None,
        on_step: OnStep | None = None,
        on_tensors: OnTensors | None = None,
    ) -> Result:
        """Make one picture per prompt.

        `noise` replaces the seed; `on_tensors` sees every graph's inputs and outputs. Raises
        UsageError before any work for bad options, RunError naming graph and step for NaN.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        negatives = negatives_for(negative_prompts, len(texts))
        for text in (*texts, *negatives):
            check_text(text, "a prompt")
        plan = make_plan(self.manifest.sampling, options or Options(), len(texts), noise)
        check_static(self.manifest, plan, len(texts))
        if self._footprint is not None:
            need = Need(self.manifest, self._footprint, plan, len(texts))
            check_memory(need, low_memory=self._low_memory, held=self._held())
        run = _Run(self, plan, on_step or _ignore_step, on_tensors or _ignore_tensors)
        return run(texts, negatives)

    def largest_batch(self, options: Options, most: int) -> int | None:
        """How many pictures fit into the memory that is free at once, 1 to `most`.

        None where that is not known. Raises UsageError for bad options.
        """
        plan = make_plan(self.manifest.sampling, replace(options, seed=0), 1, None)
        if self._footprint is None:
            return None
        need = Need(self.manifest, self._footprint, plan, 1)
        return largest_count(need, most, low_memory=self._low_memory, held=self._held())

    def _held(self) -> int:
        """Bytes that the sessions of earlier runs hold."""
        return max(process_memory("RssAnon") - self._before, 0)

    def close(self) -> None:
        """Release every graph."""
        self._sessions.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Run:
    """One call of a pipeline, stage by stage."""

    def __init__(
        self, pipeline: Pipeline, plan: Plan, on_step: OnStep, on_tensors: OnTensors
    ) -> None:
        self._sampling = pipeline.manifest.sampling
        self._graphs = pipeline.manifest.graphs
        self._text_graphs = pipeline.manifest.text_graphs
        self._sessions = pipeline._sessions
        self._tokenizers = pipeline._tokenizers
        self._plan, self._on_step, self._on_tensors = plan, on_step, on_tensors
        self._usage: dict[str, Usage] = {}
        self._placements: dict[str, Placement] = {}
        self._truncated: dict[str, str] = {}

    def __call__(self, prompts: list[str], negatives: list[str]) -> Result:
        plan, sampling, text = self._plan, self._sampling, self._text_graphs
        # Both encoders run first: the second one may be the first one, which then runs once.
        hidden = {
            graph: self._encode(graph, prompts, negatives)
            for graph in dict.fromkeys(filter(None, text.values()))
        }
        count = len(prompts)
        latents = self._stage_c(self._rows(plan.stage_c, hidden, count), count)
        embedding = latents * np.float32(sampling.latent_mean) - np.float32(sampling.latent_std)
        decoded = self._stage_b(embedding, self._rows(plan.stage_b, hidden, count))
        image = self._stage_a(decoded)
        return Result(
            to_uint8(image),
            image,
            latents,
            tuple(self._truncated.items()),
            plan.sizes,
            plan,
            self._usage,
            self._placements,
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

    def _stage_c(self, text: Tensors, count: int) -> Array:
        stage = self._plan.stage_c
        conditions = self._once("stage_c_condition", text)
        start = self._plan.noise.draw(stage.latent_shape(count))
        return self._denoise(stage, start, conditions)

    def _stage_b(self, embedding: Array, text: Tensors) -> Array:
        stage = self._plan.stage_b
        start = batch = self._plan.noise.draw(stage.latent_shape(len(embedding)))
        if stage.guided:  # the unconditional half has a zero embedding
            embedding = np.concatenate([embedding, np.zeros_like(embedding)])
            batch = np.concatenate([start, start])
        feeds: Tensors = {"image_embedding": embedding, "latents": batch, **text}
        return self._denoise(stage, start, self._once("stage_b_condition", feeds))

    def _stage_a(self, latents: Array) -> Array:
        # Picture by picture: its activations grow most with a batch, which saves a CPU no time.
        graph = self._graphs.get("stage_a")  # a source of graphs may bring its own
        count = len(latents) if graph is not None and graph.batch_is_open else 1
        parts: list[Tensors] = [{"latents": part} for part in np.split(latents, count)]
        image = self._once("stage_a", *parts)["image"]
        return np.clip(image.astype(np.float32, copy=False), 0, 1)

    def _denoise(self, stage: Stage, latents: Array, conditions: Tensors) -> Array:
        self._on_tensors(f"{stage.name}/start", {"latents": latents})
        with self._running(stage.name) as engine:
            advice = self._advice(stage.name, engine)
            # The bound graph has no name here: it would hold the engine's memory past its closing.
            return self._steps(stage, _bound(engine, conditions), latents, advice)

    def _steps(self, stage: Stage, denoise: Denoise, latents: Array, advice: str) -> Array:
        for step in sample(denoise, stage, latents, self._plan.noise, advice):
            latents = step.latents
            self._on_step(stage.name, step.index + 1, len(stage.rows))
            tensors = {"epsilon": step.epsilon, "noise": step.noise, "latents": latents}
            self._on_tensors(f"{stage.name}/{step.index}", dict(tensors))
        return latents

    def _once(self, graph: str, *parts: Tensors) -> Tensors:
        """Run a graph outside the steps; see to it that its outputs are finite.

        `parts` are rows of one batch that run one after the other; the outputs are of all of them.
        """
        with self._running(graph) as engine:
            outputs = _joined([engine.run(part) for part in parts])
            advice = self._advice(graph, engine)
        for name, values in outputs.items():
            check_finite(values.astype(np.float32, copy=False), f"{graph} ({name})", advice)
        self._on_step(graph, 1, 1)
        self._on_tensors(graph, {**_joined(parts), **outputs})
        return outputs

    def _advice(self, graph: str, engine: Engine) -> str:
        """What to do where this graph's values are not finite."""
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
            self._placements[graph] = engine.placement
            usage.load_seconds, engine.load_seconds = engine.load_seconds, 0.0
        self._usage[graph] = usage


def _bound(engine: Engine, conditions: Tensors) -> Denoise:
    """A graph with its conditions; whoever holds it holds the graph's memory."""
    run = engine.bind(conditions)

    def denoise(latents: Array, embedding: Array) -> Array:
        outputs = run({"latents": latents, "timestep_embedding": embedding})
        return outputs["epsilon"].astype(np.float32, copy=False)

    return denoise


def load_tokenizers(bundle: Bundle) -> dict[str, PromptTokenizer]:
    """The tokenizer of each text encoder graph."""
    specs = bundle.manifest.tokenizers
    return {graph: PromptTokenizer(bundle.path(spec.folder), spec) for graph, spec in specs.items()}


def _joined(parts: Sequence[Tensors]) -> Tensors:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _ignore_step(stage: str, done: int, total: int) -> None:
    pass


def _ignore_tensors(name: str, tensors: Tensors) -> None:
    pass
