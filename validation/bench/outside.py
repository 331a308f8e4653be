"""What NumPy and Python cost at the public size: a whole run over engines that take no time."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from exporter.checkpoint.find import demo_pair
from exporter.checkpoint.open import Checkpoint
from exporter.checkpoint.vocabulary import read_vocabulary
from exporter.dimensions import named_sizes
from exporter.formats.tokenizer import write_tokenizer
from exporter.graphs import plan_graphs
from exporter.sampling import sampling
from runtimes.bundle.manifest import DENOISERS, FORMAT, FORMAT_VERSION, Manifest, Model
from runtimes.dimensions import shape_at
from runtimes.engines.base import Engine, Feeds, Placement, Tensors
from runtimes.pipeline import Pipeline
from runtimes.sizes import sizes
from runtimes.tokenizer import PromptTokenizer
from validation.bench.end_to_end import Clock, TimedGraphs

PROMPT = "a large red circle on the left and a small blue star at the top right"
ENCODERS = ("text_encoder", "decoder_text_encoder")


class _Constant:
    """An engine that answers at once, with zeros of the right shapes."""

    load_seconds = 0.0
    placement = Placement("none", "none", "f32")

    def __init__(self, outputs: Tensors) -> None:
        self._outputs = outputs

    def run(self, feeds: Feeds) -> Tensors:
        return self._outputs

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        return self.run

    def close(self) -> None:
        pass


class _Constants:
    def __init__(self, outputs: dict[str, Tensors]) -> None:
        self._outputs = outputs

    def open(self, name: str) -> Engine:
        return _Constant(self._outputs[name])


def outside_seconds(checkpoint: Checkpoint, side: int, folder: Path) -> float:
    """Seconds outside the engines for one picture of side x side pixels, the default schedules.

    Tokens are the demo checkpoint's: how many there are changes nothing that could be measured.
    """
    constants = sampling(checkpoint, side, side)
    size = sizes(side, side, constants)
    outputs: dict[str, Tensors] = {}
    for plan in plan_graphs(checkpoint, "nchw", text=True):
        named = named_sizes(plan, 1, constants, size)
        outputs[plan.name] = {
            tensor.name: np.zeros(shape_at(tensor, named), np.float32) for tensor in plan.outputs
        }
    source = demo_pair()[0].folder / "tokenizer"
    spec = write_tokenizer(read_vocabulary(source), folder / "tokenizer", "tokenizer", 77)
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        model=Model("random", "random", "random", "random", "", ""),
        backend="onnx",
        precision="fp32",
        graphs={},
        tokenizers=dict.fromkeys(ENCODERS, spec),
        text_graphs=dict(zip(DENOISERS, ENCODERS, strict=True)),
        sampling=constants,
        sizes=(),
        files={},
        tools={},
    )
    tokenizers = {name: PromptTokenizer(folder / "tokenizer", spec) for name in ENCODERS}
    clock = Clock()
    with Pipeline(manifest, TimedGraphs(_Constants(outputs), clock), tokenizers) as pipeline:
        pipeline(PROMPT)
        clock.seconds = 0.0
        start = time.perf_counter()
        pipeline(PROMPT)
        return time.perf_counter() - start - clock.seconds
