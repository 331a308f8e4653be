"""The graphs of one run, each with its time, memory and placement, its outputs looked at."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from runtimes.blank import Blank, blank_output, blank_step
from runtimes.bundle.manifest import Manifest
from runtimes.engines.base import Engine, Placement, Tensors
from runtimes.engines.table import Sessions
from runtimes.memory import Usage, measured
from runtimes.plan import Plan, Stage, pictures_at_once
from runtimes.previews import Previewer, Previews
from runtimes.sampler import Denoise, advice_for, check_finite, place_of, sample
from runtimes.start import AfterStep

Array = NDArray[np.float32]
OnStep = Callable[[str, int, int], None]  # stage, steps done, steps in all
OnTensors = Callable[[str, Tensors], None]  # what was computed: 'stage_c/3' -> latents, ...


class MeasuredGraphs:
    """Runs the graphs of one plan; `usage` and `placements` are of each that ran, by its name."""

    def __init__(
        self,
        manifest: Manifest,
        sessions: Sessions,
        plan: Plan,
        on_step: OnStep,
        on_tensors: OnTensors,
        previews: Previews | None = None,
    ) -> None:
        self._graphs, self._sessions, self._plan = manifest.graphs, sessions, plan
        self._previewer = None if previews is None else Previewer(manifest, sessions, previews)
        self._on_step, self._on_tensors = on_step, on_tensors
        self.usage: dict[str, Usage] = {}
        self.placements: dict[str, Placement] = {}
        self._blanks: dict[str, Blank] = {}

    @property
    def blanks(self) -> tuple[Blank, ...]:
        """Outputs that cannot be meant, one a graph."""
        return tuple(self._blanks.values())

    def note(self, blank: Blank | None) -> None:
        """Keep a graph's first blank output: those behind it say no more."""
        if blank is not None:
            self._blanks.setdefault(blank.graph, blank)

    def once(self, graph: str, *parts: Tensors) -> Tensors:
        """Run a graph outside the steps; see to it that its outputs are finite.

        `parts` are rows of one batch that run one after the other; the outputs are of all of them.
        """
        with self._running(graph) as engine:
            outputs = _joined([engine.run(part) for part in parts])
            advice = self._advice(graph, engine)
        for name, values in outputs.items():
            check_finite(values.astype(np.float32, copy=False), f"{graph} ({name})", advice)
        if graph != "stage_a":  # its pictures are looked at as they will be seen
            self.note(blank_output(graph, outputs))
        self._on_step(graph, 1, 1)
        self._on_tensors(graph, {**_joined(parts), **outputs})
        return outputs

    def by_picture(self, graph: str, name: str, values: Array, count: int) -> Tensors:
        """Run a graph on (1 or B,...), picture by picture; graphs of fixed shape take B at once."""
        # None: a source of graphs may bring one that the manifest does not have.
        size = pictures_at_once(self._graphs.get(graph), count)
        rows = values if len(values) % size == 0 else np.repeat(values, size, axis=0)
        parts: list[Tensors] = [{name: part} for part in np.split(rows, len(rows) // size)]
        return self.once(graph, *parts)

    def denoise(
        self, stage: Stage, latents: Array, conditions: Tensors, after_step: AfterStep | None
    ) -> Array:
        """A stage's last latents (B,C,h,w), of those that it starts from."""
        self._on_tensors(f"{stage.name}/start", {"latents": latents})
        with self._running(stage.name) as engine:
            advice = self._advice(stage.name, engine)
            # The bound graph has no name here: it would hold the engine's memory past its closing.
            latents = self._steps(stage, _bound(engine, conditions), latents, advice, after_step)
        if stage.name == "stage_c" and self._previewer is not None:
            self._count_previews(self._previewer)
        return latents

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
            self.note(blank_step(stage.name, where, step.epsilon, len(latents)))
            self._on_step(stage.name, step.index + 1, len(stage.rows))
            tensors = {"epsilon": step.epsilon, "noise": step.noise, "latents": latents}
            self._on_tensors(f"{stage.name}/{step.index}", dict(tensors))
            if self._previewer is not None and stage.name == "stage_c":
                self._previewer(stage, step, before)
        return latents

    def _count_previews(self, previewer: Previewer) -> None:
        """Count their time as their own: they were made while Stage C ran."""
        self.usage["preview"], self.placements["preview"] = previewer.usage, previewer.placement
        self.usage["stage_c"].seconds -= previewer.usage.seconds

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
            self.placements[graph] = engine.placement  # some engines know it only after a run
            # Taken over and reset: an engine stays open, and the next run did not load it.
            usage.load_seconds, engine.load_seconds = engine.load_seconds, 0.0
        self.usage[graph] = usage


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
