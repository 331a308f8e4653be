"""The golden run: the checkpoint run in fp32 and recorded, for hosts to check themselves with."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from exporter.golden_pictures import linear_preview, picture_tensors
from runtimes.bundle.manifest import GOLDEN_FILE, PICTURE_GRAPHS, Golden, Manifest
from runtimes.bundle.readme import PROMPT
from runtimes.engines.base import Tensors
from runtimes.pipeline import OnStep, Pipeline
from runtimes.plan import Options
from runtimes.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from exporter.graphs import GraphPlan

# Even steps of Stage C and Stage B, or the default schedules.
GoldenSteps = tuple[int, int] | Literal["full"]
# Few steps, for one of real size takes up to a minute in PyTorch, and each shows every graph.
SHORT_STEPS = (4, 3)
SEED = 0
# Of further pictures that the linear preview is fitted to: many colours, and not the demo alone.
PREVIEWED = (
    "a red circle and a blue square on a white background",
    "a green hill under a blue sky",
    "an orange star on a black background",
    "a portrait of a woman in a yellow dress",
    "a purple ring on a gray background",
    "a city at night",
    "a pink flower",
)
# Sums in PyTorch depend on how many threads share them, in the last digits; one thread gives the
# same on machines of any number of cores. A checkpoint of more bytes would take minutes so.
ONE_THREAD_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Recorded:
    """A golden run, and the preview without a graph that its picture and latents make."""

    golden: Golden
    linear_preview: tuple[tuple[float, ...], ...]


def record_golden(
    plans: "list[GraphPlan]",
    manifest: Manifest,
    tokenizers: dict[str, PromptTokenizer],
    folder: Path,
    steps: tuple[int, int] | None,
    on_step: OnStep | None = None,
    pictures: int = 1,
) -> Recorded:
    """Run the export-form modules through the same sampler as every bundle and keep all tensors.

    `steps` are even ones of Stage C and Stage B; None takes the default schedules.

    Graphs of the picture side among `plans` are run on the picture and on Stage C's last latents.
    The linear preview is fitted to so many `pictures`, the first of which is the recorded one.

    The file is the same byte for byte on every machine with the same packages and kind of CPU, of
    graphs above ONE_THREAD_BYTES where it computes with as many threads, too.

    Tensors are named '<graph>.<tensor>' and '<denoiser>/<step>.<tensor>', the starting latents
    '<denoiser>/start.latents'; the metadata holds prompts, seed, steps, guidance and size.
    """
    from safetensors.numpy import save

    from exporter.torch_engine import TorchGraphs  # PyTorch: the command line reads this file too

    recorded: Tensors = {}

    def keep(name: str, tensors: Tensors) -> None:
        for tensor, values in tensors.items():
            recorded[f"{name}.{tensor}"] = np.ascontiguousarray(values)

    first, second = steps or (None, None)
    options = Options(seed=SEED, steps=first, decoder_steps=second)
    graphs = TorchGraphs(plans)
    with _threads(plans):
        with Pipeline(manifest, graphs, tokenizers, low_memory=True) as pipeline:
            result = pipeline([PROMPT], "", options, on_step=on_step, on_tensors=keep)
            more = [
                pipeline([prompt], "", replace(options, seed=SEED + index), on_step=on_step)
                for index, prompt in enumerate(islice(cycle(PREVIEWED), pictures - 1), 1)
            ]
        plan = result.plan
        evaluations = len(plan.timesteps) - 1, len(plan.decoder_timesteps) - 1
        names = f"stage_c/{evaluations[0] - 1}.latents", "stage_a.image"
        latents, image = (recorded[name].astype(np.float32, copy=False) for name in names)
        for name, tensors in picture_tensors(
            [each for each in plans if each.name in PICTURE_GRAPHS], latents, image
        ):
            keep(name, tensors)
    (folder / GOLDEN_FILE).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"prompt": PROMPT, "negative_prompt": "", "seed": str(SEED)}
    metadata |= {"steps": str(first or "default"), "decoder_steps": str(second or "default")}
    metadata |= {"height": str(result.sizes.picture[0]), "width": str(result.sizes.picture[1])}
    scales = {"guidance": plan.guidance, "decoder_guidance": plan.decoder_guidance}
    metadata |= {name: repr(scale) for name, scale in scales.items()}
    # Written by hand: safetensors reports a full disk as an error of its own kind.
    (folder / GOLDEN_FILE).write_bytes(_in_order(save(recorded, metadata)))
    golden = Golden(*evaluations, steps is None, SEED, plan.guidance, plan.decoder_guidance)
    seen = np.concatenate([latents, *(each.latents for each in more)])
    shown = np.concatenate([image, *(each.image for each in more)])
    return Recorded(golden, linear_preview(seen, shown))


@contextmanager
def _threads(plans: "list[GraphPlan]") -> Iterator[None]:
    """PyTorch on one thread, unless the graphs are large."""
    import torch

    from exporter.cost import graph_parameters

    before = torch.get_num_threads()
    small = 4 * sum(map(graph_parameters, plans)) <= ONE_THREAD_BYTES
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted: safetensors writes them in a random order."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # what follows begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[start:]
