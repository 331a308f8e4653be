"""The golden run: the checkpoint run in fp32 and recorded, for hosts to check themselves with."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from exporter.graphs import GraphPlan
from exporter.torch_engine import TorchGraphs
from runtimes.bundle_readme import PROMPT
from runtimes.engine import Tensors
from runtimes.manifest import GOLDEN_FILE, Manifest
from runtimes.options import Options
from runtimes.pipeline import OnStep, Pipeline
from runtimes.tokenizer import PromptTokenizer

# A real-size step takes seconds to a minute: beyond this size a few steps must do.
FULL_RUN_PARAMETERS = 100_000_000
SHORT_STEPS = (3, 2)


def record_golden(
    plans: list[GraphPlan],
    manifest: Manifest,
    tokenizers: dict[str, PromptTokenizer],
    folder: Path,
    *,
    full: bool,
    on_step: OnStep | None = None,
) -> None:
    """Run the export-form modules through the same sampler as every bundle and keep all tensors.

    Tensors are named '<graph>.<tensor>' and '<denoiser>/<step>.<tensor>', the starting latents
    '<denoiser>/start.latents'; the metadata holds prompt, seed and timesteps.
    """
    recorded: Tensors = {}

    def keep(name: str, tensors: Tensors) -> None:
        for tensor, values in tensors.items():
            recorded[f"{name}.{tensor}"] = np.ascontiguousarray(values)

    steps, decoder_steps = (None, None) if full else SHORT_STEPS
    options = Options(seed=0, steps=steps, decoder_steps=decoder_steps)
    with Pipeline(manifest, TorchGraphs(plans), tokenizers, low_memory=True) as pipeline:
        result = pipeline([PROMPT], "", options, on_step=on_step, on_tensors=keep)
    (folder / GOLDEN_FILE).parent.mkdir(parents=True)
    metadata = {"prompt": PROMPT, "negative_prompt": "", "seed": "0"}
    metadata |= {"steps": str(steps or "default"), "decoder_steps": str(decoder_steps or "default")}
    metadata |= {"height": str(result.sizes.picture[0]), "width": str(result.sizes.picture[1])}
    # Written by hand: safetensors reports a full disk as an error of its own kind.
    (folder / GOLDEN_FILE).write_bytes(save(recorded, metadata))
