"""Which form of a bundle fits into a phone's memory: the least damaging, by estimates.

One graph at a time costs time and no quality, so it comes before smaller weights.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from exporter.mobile.shrunk import bits_of, estimated_bytes, precisions
from runtimes.bundle.graph_files import engine_reads
from runtimes.bundle.manifest import ORT_SUFFIX, File, Manifest
from runtimes.bundle.read import Bundle
from runtimes.engines.onnxruntime import FOOTPRINT
from runtimes.errors import UsageError
from runtimes.estimate import Need
from runtimes.memory import in_bytes
from runtimes.plan import Options, make_plan

Keep = Literal["all", "one"]


@dataclass(frozen=True)
class Choice:
    """A precision ('': as the bundle is), how many graphs are open at once, and what that takes.

    `memory`: bytes of weights and activations, estimated; `sizes`: bytes of each graph's file.
    """

    precision: str
    keep: Keep
    memory: int
    sizes: dict[str, int]

    def named(self, own: str) -> str:
        """For people; `own` is the bundle's precision."""
        graphs = "all graphs kept" if self.keep == "all" else "one graph at a time"
        return f"{self.precision or own}, {graphs}"


def choices(bundle: Bundle, suffix: str, batch: int) -> list[Choice]:
    """Every way that there is, the least damaging first; `suffix`: what graph files will be."""
    found = []
    for precision in ("", *precisions(bundle.manifest)):
        sizes = _sizes(bundle, precision, suffix)
        manifest = _as_if(bundle.manifest, precision, sizes, suffix)
        found += [Choice(precision, keep, _memory(manifest, batch, keep), sizes)
                  for keep in ("all", "one")]  # fmt: skip
    return found


def fitting(found: Sequence[Choice], budget: int | None, bundle: Bundle) -> list[Choice]:
    """Those that fit; UsageError, naming the least that would do, where none does."""
    fit = [choice for choice in found if budget is None or choice.memory <= budget]
    if fit:
        return fit
    least = min(found, key=lambda choice: choice.memory)
    advice = "" if len(found) > 2 else "; give the fp32 bundle, of which integer weights are made"
    raise UsageError(
        f"--memory-budget {in_bytes(budget or 0)}: {bundle.folder} fits in no way; the least is "
        f"{in_bytes(least.memory)} ({least.named(bundle.manifest.precision)}){advice}, or ask for "
        "a smaller picture"
    )


def memory_of(manifest: Manifest, batch: int, keep: Keep) -> int:
    """Bytes that a run of `batch` pictures at the default size is estimated to take."""
    return _memory(manifest, batch, keep)


def _memory(manifest: Manifest, batch: int, keep: Keep) -> int:
    plan = make_plan(manifest.sampling, Options(), batch, None)
    return int(Need(manifest, FOOTPRINT, plan, batch).memory(low_memory=keep == "one"))


def _sizes(bundle: Bundle, precision: str, suffix: str) -> dict[str, int]:
    """Bytes of what an engine reads of each graph."""
    sizes = {}
    for name, graph in bundle.manifest.graphs.items():
        files = bundle.files_of(name).items()
        stored = sum(file.size for key, file in files if engine_reads(bundle.manifest, key))
        path, bits = bundle.path(graph.file), bits_of(precision, name)
        sizes[name] = estimated_bytes(path, stored, bits, ort=suffix == ORT_SUFFIX)
    return sizes


def _as_if(manifest: Manifest, precision: str, sizes: dict[str, int], suffix: str) -> Manifest:
    """The manifest of what is not made yet, as far as an estimate reads it."""
    graphs, files = {}, {}
    for name, graph in manifest.graphs.items():
        file = str(PurePosixPath(graph.file).with_suffix(suffix))
        smaller = precision if bits_of(precision, name) is not None else graph.precision
        graphs[name] = dataclasses.replace(graph, file=file, precision=smaller)
        files[file] = File(sizes[name], "")
    return dataclasses.replace(manifest, graphs=graphs, files=files)
