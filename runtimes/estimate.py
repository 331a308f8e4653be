"""Whether a run fits into memory, before it starts."""

from runtimes.errors import UsageError
from runtimes.free_memory import available_memory, resident_memory
from runtimes.manifest import Manifest
from runtimes.options import Plan

GIGABYTE = 1e9


def memory_needed(manifest: Manifest, plan: Plan, count: int, *, low_memory: bool) -> float:
    """Bytes of weights and activations at once, for `count` prompts.

    Weights count as they are stored; engines that widen or reorder them hold more for a while.
    """
    weights = {name: _weights(manifest, name) for name in manifest.graphs}
    working = {name: _activations(manifest, name, plan, count) for name in manifest.graphs}
    if low_memory:
        return max(weights[name] + working[name] for name in weights)
    return sum(weights.values()) + max(working.values())


def check_memory(manifest: Manifest, plan: Plan, count: int, *, low_memory: bool) -> None:
    """UsageError when a run would not fit into what is free; nothing where that is not known."""
    available = available_memory()
    needed = memory_needed(manifest, plan, count, low_memory=low_memory)
    if available is None or needed <= available + resident_memory():
        return
    height, width = plan.sizes.picture
    smaller = "fewer prompts at a time" if count > 1 else "a smaller picture"
    lower = memory_needed(manifest, plan, count, low_memory=True)
    fits = not low_memory and lower <= available + resident_memory()
    advice = f"--low-memory needs {lower / GIGABYTE:.1f} GB" if fits else f"ask for {smaller}"
    raise UsageError(
        f"{count} x {height} x {width} pixels need about {needed / GIGABYTE:.1f} GB of memory and "
        f"{(available + resident_memory()) / GIGABYTE:.1f} GB are there: {advice}"
    )


def _weights(manifest: Manifest, name: str) -> int:
    folder = manifest.graphs[name].file.rpartition("/")[0]
    return sum(file.size for key, file in manifest.files.items() if key.startswith(f"{folder}/"))


def _activations(manifest: Manifest, name: str, plan: Plan, count: int) -> float:
    if not manifest.graphs[name].activations:
        return 0.0
    constant, linear, quadratic = manifest.graphs[name].activations
    first = name.startswith("stage_c")
    height, width = plan.sizes.stage_c if first else plan.sizes.stage_b
    guidance = {"stage_c": plan.guidance, "stage_b": plan.decoder_guidance}.get(name, 0)
    rows, positions = count * (2 if guidance > 1 else 1), height * width
    return rows * (constant + linear * positions + quadratic * positions**2)
