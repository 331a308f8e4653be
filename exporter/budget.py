"""What an export needs of memory and disk, estimated before the first byte is written."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from exporter.cost import graph_parameters, one_picture, peak_bytes
from exporter.formats.tokenizer import plain_files
from exporter.graphs import GraphPlan
from exporter.job import Job
from runtimes.bundle.manifest import DENOISERS
from runtimes.bundle.write import check_space
from runtimes.errors import UsageError
from runtimes.memory import available_memory, in_bytes, process_memory

MB = 1_000_000


@dataclass(frozen=True)
class Cost:
    """What a format costs beside the weights, measured (docs/performance.md): bytes.

    `process`: PyTorch, the format's packages and the tracing of a small graph; `loaded`: how often
    a graph's fp32 bytes are in memory at once; `text`: of a graph's description, a weight.
    """

    process: int
    loaded: float
    text: int


COSTS = {
    "onnx": Cost(405 * MB, 0.0, 1_000),
    "openvino": Cost(440 * MB, 1.0, 4_500),
    "coreml": Cost(440 * MB, 2.0, 2_200),
    # Measured on the demo alone, 690 and 880 MB at the peak; how often larger weights are held is
    # taken from its largest graphs, upwards.
    "executorch": Cost(700 * MB, 3.0, 2_200),
    "litert": Cost(900 * MB, 3.0, 2_200),
}
# Tracing a graph takes this much a weight; text encoders have fewer operations for each.
TRACED, TRACED_TEXT = 380_000, 200_000
# Writing the largest weight: as it is, or (ResBlocks) with the products that are folded, in fp64.
WRITTEN, WRITTEN_TEXT = 3.0, 1.0
MANIFEST = 200_000
TOKENIZER = 3.2  # tokenizer.json, vocab.json and merges.txt, by the size of the latter two


@dataclass(frozen=True)
class Budget:
    """Bytes: `memory` the process holds at most, `disk` that it has written at most at once."""

    memory: int
    disk: int


def estimate(job: Job, plans: list[GraphPlan], done: Collection[str]) -> Budget:
    """What exporting `plans` takes; those in `done` are there already."""
    cost = COSTS[job.backend]
    left = [plan for plan in plans if plan.name not in done]
    memory = max((_memory(job, plan, cost) for plan in left), default=cost.process)
    written, disk = 0, 0
    for plan in left:
        written += job.bytes_of(plan) + cost.text * _weights(plan)
        disk = max(disk, written + _beside(job, plan))
    rest = MANIFEST + _tokenizers(job)
    if job.records_golden(plans):
        pictures = [one_picture(plan, job.constants, job.default) for plan in plans]
        memory = max(memory, cost.process + max(map(peak_bytes, pictures)))
        rest += _recorded(job, pictures)
    return Budget(memory, max(disk, written + rest))


def check_budget(budget: Budget, output: Path, *, freed: int = 0) -> None:
    """UsageError when memory or disk do not hold an export, which first frees `freed` of disk."""
    memory = available_memory()
    needed = budget.memory - process_memory()
    if memory is not None and memory < needed:
        raise UsageError(
            f"{output} needs about {in_bytes(needed)} more memory and {in_bytes(memory)} are free: "
            "give fewer --modules at a time (and --resume), or --no-golden"
        )
    advice = "give --precision fp16, fewer --modules, or another place"
    check_space(output, budget.disk - freed, advice)


def _memory(job: Job, plan: GraphPlan, cost: Cost) -> int:
    text = plan.name.endswith("text_encoder")
    largest = max((4 * p.numel() for p in plan.meta_module().parameters()), default=0)
    traced = cost.process + (TRACED_TEXT if text else TRACED) * _weights(plan)
    written = (WRITTEN_TEXT if text else WRITTEN) * largest
    return int(traced + max(written, cost.loaded * 4 * graph_parameters(plan)))


def _beside(job: Job, plan: GraphPlan) -> int:
    """Bytes that lie beside a graph while it is made."""
    whole = 4 * graph_parameters(plan)
    if job.backend == "openvino":  # made from an ONNX graph
        return whole + COSTS["onnx"].text * _weights(plan)
    # A part per picture size, until they are one package.
    return len(job.sizes) * whole if len(job.sizes) > 1 else 0


def _weights(plan: GraphPlan) -> int:
    return len(list(plan.meta_module().parameters()))


def _tokenizers(job: Job) -> int:
    first, second = job.vocabularies.values()
    written = [first] if first == second else [first, second]
    texts = [text for vocabulary in written for text in plain_files(vocabulary).values()]
    return int(TOKENIZER * sum(len(text.encode()) for text in texts))


def _recorded(job: Job, pictures: list[GraphPlan]) -> int:
    """Bytes of the golden run: every graph's inputs and outputs, a denoiser's at each step."""
    default = len(job.constants.stage_c.schedule), len(job.constants.stage_b.schedule)
    steps = dict(zip(DENOISERS, job.golden_steps or default, strict=True))
    total = 0
    for plan in pictures:
        sizes = {t.name: 4 * math.prod(map(int, t.shape)) for t in (*plan.inputs, *plan.outputs)}
        if plan.name in steps:  # epsilon; noise and latents of one half under guidance
            total += int(2.5 * steps[plan.name] * sizes["epsilon"])
        else:
            total += sum(sizes.values())
    return total
