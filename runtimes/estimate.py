"""Whether a run fits into memory, before it starts."""

from runtimes.errors import UsageError
from runtimes.free_memory import available_memory, in_bytes
from runtimes.manifest import Manifest
from runtimes.options import Plan


def memory_needed(manifest: Manifest, plan: Plan, count: int, *, low_memory: bool) -> float:
    """Bytes of weights and activations at once, for `count` prompts, on a CPU.

    A session that stays open keeps the memory its activations took. fp16 weights are widened when
    they are loaded, integer ones when they are used.
    """
    needed = [
        _weights(manifest, name) + _activations(manifest, name, plan, count)
        for name in manifest.graphs
    ]
    return max(needed) if low_memory else sum(needed)


def check_memory(
    manifest: Manifest, plan: Plan, count: int, *, low_memory: bool, held: int = 0
) -> None:
    """UsageError when a run would not fit into what is free; nothing where that is not known.

    `held`: bytes that sessions of earlier runs hold, which this run uses again.
    """
    free = available_memory()
    needed = memory_needed(manifest, plan, count, low_memory=low_memory)
    if free is None or needed <= free + held:
        return
    height, width = plan.sizes.picture
    lower = memory_needed(manifest, plan, count, low_memory=True)
    weights = max(_weights(manifest, name) for name in manifest.graphs)
    if not low_memory and lower <= free + held:
        advice = f"with --low-memory it needs {in_bytes(lower)}"
    elif weights > free + held:
        advice = "take a bundle of smaller weights (python -m quantization)"
    else:
        advice = "ask for " + ("fewer prompts at a time" if count > 1 else "a smaller picture")
    raise UsageError(
        f"{count} x {height} x {width} pixels need about {in_bytes(needed)} of memory and "
        f"{in_bytes(free + held)} are free: {advice}"
    )


def _weights(manifest: Manifest, name: str) -> int:
    folder = manifest.graphs[name].file.rpartition("/")[0]
    stored = sum(file.size for key, file in manifest.files.items() if key.startswith(f"{folder}/"))
    return stored * (2 if manifest.graphs[name].precision == "fp16" else 1)


def _activations(manifest: Manifest, name: str, plan: Plan, count: int) -> float:
    if not manifest.graphs[name].activations:
        return 0.0
    constant, linear, quadratic = manifest.graphs[name].activations
    first = name.startswith("stage_c")
    height, width = plan.sizes.stage_c if first else plan.sizes.stage_b
    guided = {"stage_c": plan.guidance, "stage_b": plan.decoder_guidance}
    guidance = guided.get(name.removesuffix("_condition"), 0)
    rows, positions = count * (2 if guidance > 1 else 1), height * width
    return rows * (constant + linear * positions + quadratic * positions**2)
