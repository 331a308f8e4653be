"""Prompts to pictures: C -> B -> A over the graphs of a bundle, NumPy between them."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.manifest import GRAPHS, Manifest
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.engines.base import Execution, Footprint, Tensors
from runtimes.engines.table import BundleGraphs, GraphSource, Sessions
from runtimes.errors import UsageError
from runtimes.estimate import Need, check_memory, largest_count
from runtimes.measured_graphs import OnStep, OnTensors
from runtimes.memory import process_memory
from runtimes.noise import NoiseSource
from runtimes.plan import Options, Plan, check_static, make_plan, negatives_for
from runtimes.previews import GRAPH as PREVIEW
from runtimes.previews import OnPreview, Previews, preview_kind
from runtimes.prompts import check_text
from runtimes.run import Encoded, Result, Run
from runtimes.sizes import pixels_for
from runtimes.start import Start, check_picture_graphs
from runtimes.tokenizer import PromptTokenizer

__all__ = ["Encoded", "OnPreview", "OnStep", "OnTensors", "Pipeline", "Result", "load_tokenizers"]
Array = NDArray[np.float32]
COMPRESSOR = "compressor"
# What a picture takes that is made of an image embedding.
_DECODE = ("decoder_text_encoder", "stage_b_condition", "stage_b", "stage_a")


class Pipeline:
    """A bundle, ready to make pictures. Use as a context manager, or call `close`.

    Several threads may share one: their runs come one after the other, each on all cores.

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
        self.low_memory, self._footprint = low_memory, footprint
        self._before = process_memory("RssAnon")  # pages of files count as free already
        self._sessions = Sessions(graphs, one_at_a_time=low_memory)
        self._tokenizers = tokenizers
        # A graph holds one set of buffers and is compiled for one shape, and the check of memory
        # counts one run. Entered anew by the same thread: `on_step` may ask for another picture.
        self._one_run = threading.RLock()

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
        low_memory: bool | None = None,
        memory_check: bool = True,
    ) -> "Pipeline":
        """Open a bundle folder; graphs are loaded when first needed.

        `engine` (a name in ENGINES, such as onnxruntime) defaults to the bundle's own; `precision`
        (f32, bf16, f16) and `cache_dir` are OpenVINO's: the type it computes in, and where it keeps
        compiled graphs. `threads` of the CPU run a graph. `low_memory` holds one graph at a time
        (None: where the manifest's `mobile` says so); `memory_check` refuses a run that would not
        fit into the memory that is free, on the CPU. Raises RunError for a damaged bundle,
        UsageError for an engine, device or precision that is not there.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        cache = None if cache_dir is None else Path(cache_dir)
        execution = Execution(device, engine, precision, cache, threads)
        graphs, tokenizers = BundleGraphs(opened, execution), load_tokenizers(opened)
        checked = memory_check and device.lower() == "cpu"
        footprint = graphs.footprint() if checked else None
        if low_memory is None:
            mobile = opened.manifest.mobile
            low_memory = mobile is not None and mobile.keep == "one"
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
        start: Start | None = None,
        on_preview: OnPreview | None = None,
        preview_every: int = 1,
    ) -> Result:
        """Make one picture per prompt.

        `noise` replaces the seed; `on_tensors` sees every graph's inputs and outputs; `start` is a
        picture to start from; `on_preview` is shown, after each `preview_every`-th step of Stage C
        and after the last one, small pictures of what it is making. Raises UsageError before any
        work for bad options, RunError naming graph and step for NaN.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        negatives = negatives_for(negative_prompts, len(texts))
        for text in (*texts, *negatives):
            check_text(text, "a prompt")
        plan = make_plan(self.manifest.sampling, options or Options(), len(texts), noise, start)
        check_picture_graphs(self.manifest, plan.picture_graphs)
        check_static(self.manifest, plan, len(texts))
        previews = self._previews(on_preview, preview_every)
        run = self._run(plan, on_step, on_tensors, previews)
        with self._one_run:
            shown = () if previews is None else (*GRAPHS, *plan.picture_graphs, PREVIEW)
            self._check_memory(plan, len(texts), shown)
            return run(texts, negatives)

    def encode(
        self,
        pictures: Array,
        options: Options | None = None,
        *,
        on_step: OnStep | None = None,
        on_tensors: OnTensors | None = None,
    ) -> Encoded:
        """What Stage B reads of pictures (B,3,H,W), fp32 in 0..1: the paper's compression.

        H and W are those that a run of `options` makes (runtimes.pictures.fit). Raises UsageError
        for another size and for a bundle without `compressor`, RunError for NaN.
        """
        check_picture_graphs(self.manifest, (COMPRESSOR,))
        plan = make_plan(self.manifest.sampling, options or Options(), len(pictures), None)
        if pictures.shape[1:] != (3, *plan.sizes.picture):
            wanted = "{} x {}".format(*plan.sizes.picture)
            raise UsageError(f"pictures have shape {pictures.shape}; fit them to {wanted} pixels")
        check_static(self.manifest, plan, len(pictures))
        with self._one_run:
            self._check_memory(plan, len(pictures), (COMPRESSOR,))
            return self._run(plan, on_step, on_tensors).encode(pictures)

    def decode(
        self,
        image_embedding: Array,
        prompts: str | Sequence[str] = "",
        negative_prompts: str | Sequence[str] = "",
        options: Options | None = None,
        *,
        noise: NoiseSource | None = None,
        on_step: OnStep | None = None,
        on_tensors: OnTensors | None = None,
    ) -> Result:
        """Pictures of what `encode` gave (B,C,h,w), by Stage B and Stage A, as `__call__` has them.

        One prompt for all of them or one each; Stage B reads them. The size is the embedding's.
        """
        count = len(image_embedding)
        texts = [prompts] * count if isinstance(prompts, str) else list(prompts)
        if len(texts) != count:
            raise UsageError(f"{len(texts)} prompts for {count} pictures; give one, or one each")
        negatives = negatives_for(negative_prompts, count)
        for text in (*texts, *negatives):
            check_text(text, "a prompt")
        plan = self._plan_of(image_embedding, options or Options(), noise)
        check_static(self.manifest, plan, count)
        with self._one_run:
            self._check_memory(plan, count, _DECODE)
            run = self._run(plan, on_step, on_tensors)
            return run.decode(image_embedding.astype(np.float32, copy=False), texts, negatives)

    def _plan_of(self, embedding: Array, options: Options, noise: NoiseSource | None) -> Plan:
        """The plan of a picture that has as many cells as its embedding."""
        sampling, (count, channels, *cells) = self.manifest.sampling, embedding.shape
        if channels != sampling.stage_c.channels:
            wanted = sampling.stage_c.channels
            raise UsageError(f"the image embedding has {channels} channels, this model {wanted}")
        height, width = (pixels_for(side, sampling) for side in cells)
        return make_plan(sampling, replace(options, height=height, width=width), count, noise)

    def _run(
        self,
        plan: Plan,
        on_step: OnStep | None,
        on_tensors: OnTensors | None,
        previews: Previews | None = None,
    ) -> Run:
        on_step, on_tensors = on_step or _ignore_step, on_tensors or _ignore_tensors
        return Run(
            self.manifest, self._sessions, self._tokenizers, plan, on_step, on_tensors, previews
        )

    def _previews(self, show: OnPreview | None, every: int) -> Previews | None:
        """Who is shown previews; UsageError where nothing can make them."""
        if show is None:
            return None
        if every < 1:
            raise UsageError(f"--preview-every is {every}; it must be at least 1")
        preview_kind(self.manifest)
        return Previews(show, every)

    def _check_memory(self, plan: Plan, count: int, only: tuple[str, ...] = ()) -> None:
        """UsageError for a run that the memory that is free does not hold, where that is known."""
        if self._footprint is not None:
            need = Need(self.manifest, self._footprint, plan, count, only)
            check_memory(need, low_memory=self.low_memory, held=self._held())

    def largest_batch(self, options: Options, most: int, start: Start | None = None) -> int | None:
        """How many pictures fit into the memory that is free at once, 1 to `most`.

        None where that is not known. Raises UsageError for bad options.
        """
        plan = make_plan(self.manifest.sampling, replace(options, seed=0), 1, None, start)
        if self._footprint is None:
            return None
        need = Need(self.manifest, self._footprint, plan, 1)
        return largest_count(need, most, low_memory=self.low_memory, held=self._held())

    def _held(self) -> int:
        """Bytes that the sessions of earlier runs hold."""
        return max(process_memory("RssAnon") - self._before, 0)

    def close(self) -> None:
        """Release every graph, once a run that is under way has ended."""
        with self._one_run:
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


def load_tokenizers(bundle: Bundle) -> dict[str, PromptTokenizer]:
    """The tokenizer of each text encoder graph."""
    specs = bundle.manifest.tokenizers
    return {graph: PromptTokenizer(bundle.path(spec.folder), spec) for graph, spec in specs.items()}


def _ignore_step(stage: str, done: int, total: int) -> None:
    pass


def _ignore_tensors(name: str, tensors: Tensors) -> None:
    pass
