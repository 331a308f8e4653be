"""The golden run: the checkpoint run in fp32 and recorded, for hosts to check themselves with."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from runtimes.bundle.manifest import GOLDEN_FILE, Golden, Manifest
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


def record_golden(
    plans: "list[GraphPlan]",
    manifest: Manifest,
    tokenizers: dict[str, PromptTokenizer],
    folder: Path,
    steps: tuple[int, int] | None,
    on_step: OnStep | None = None,
) -> Golden:
    """Run the export-form modules through the same sampler as every bundle and keep all tensors.

    `steps` are even ones of Stage C and Stage B; None takes the default schedules.

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
    with Pipeline(manifest, TorchGraphs(plans), tokenizers, low_memory=True) as pipeline:
        result = pipeline([PROMPT], "", options, on_step=on_step, on_tensors=keep)
    plan = result.plan
    (folder / GOLDEN_FILE).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"prompt": PROMPT, "negative_prompt": "", "seed": str(SEED)}
    metadata |= {"steps": str(first or "default"), "decoder_steps": str(second or "default")}
    metadata |= {"height": str(result.sizes.picture[0]), "width": str(result.sizes.picture[1])}
    scales = {"guidance": plan.guidance, "decoder_guidance": plan.decoder_guidance}
    metadata |= {name: repr(scale) for name, scale in scales.items()}
    # Written by hand: safetensors reports a full disk as an error of its own kind.
    (folder / GOLDEN_FILE).write_bytes(save(recorded, metadata))
    evaluations = len(plan.timesteps) - 1, len(plan.decoder_timesteps) - 1
    return Golden(*evaluations, steps is None, SEED, plan.guidance, plan.decoder_guidance)
