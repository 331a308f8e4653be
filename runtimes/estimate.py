"""Whether a run fits into memory, before it starts."""

from dataclasses import dataclass, replace

from runtimes.bundle.graph_files import graph_files
from runtimes.bundle.manifest import GRAPHS, Manifest
from runtimes.engines.base import Footprint
from runtimes.errors import UsageError
from runtimes.memory import available_memory, in_bytes
from runtimes.plan import ONE_BY_ONE, Plan, pictures_at_once


@dataclass(frozen=True)
class Need:
    """What a run of `count` prompts needs of memory, on a CPU, in bytes.

    `only` are the graphs that it runs; those of a run from prompts where there are none.
    """

    manifest: Manifest
    footprint: Footprint
    plan: Plan
    count: int
    only: tuple[str, ...] = ()

    @property
    def graphs(self) -> list[str]:
        """What is opened of the bundle."""
        opened = self.only or (*GRAPHS, *self.plan.picture_graphs)
        return [name for name in self.manifest.graphs if name in opened]

    def memory(self, *, low_memory: bool) -> float:
        """Weights and activations at once.

        A session that stays open keeps the memory its activations took.
        """
        names = self.graphs
        held = {name: self.weights(name) + self._activations(name) for name in names}
        loading = {name: self.weights(name) + self._loading(name) for name in names}
        if low_memory:
            return max(max(held[name], loading[name]) for name in names)
        return sum(held.values()) + max(map(self._loading, names))

    def weights(self, name: str) -> float:
        """What an open graph holds; RunError for a precision the engine has no figure for."""
        graph = self.manifest.graphs[name]
        if graph.is_ort:
            return self._stored(name) * self.footprint.of_whole(graph.precision)[0]
        return self._stored(name) * self.footprint.of_weights(graph.precision)

    def _loading(self, name: str) -> float:
        """What a graph takes beside that while it is loaded."""
        graph = self.manifest.graphs[name]
        if not graph.is_ort:
            return 0.0
        held, most = self.footprint.of_whole(graph.precision)
        return self._stored(name) * (most - held)

    def _stored(self, name: str) -> int:
        return sum(file.size for file in graph_files(self.manifest, name).values())

    def _activations(self, name: str) -> float:
        graph, plan = self.manifest.graphs[name], self.plan
        if not graph.activations:
            return 0.0
        constant, linear, quadratic = graph.activations
        height, width = plan.sizes.latent(name)
        at_once = pictures_at_once(graph, self.count) if name in ONE_BY_ONE else self.count
        rows = plan.rows(name, at_once)
        positions, shares = height * width, self.footprint
        grown = linear * positions * shares.positions + quadratic * positions**2 * shares.pairs
        return rows * (constant + grown)


SHARE = 0.8  # of the free memory for a batch that nobody asked for: others need some too


def largest_count(need: Need, most: int, *, low_memory: bool, held: int = 0) -> int | None:
    """How many pictures at once, 1 to `most`, fit into what is free; None where nobody says.

    `held` as in `check_memory`.
    """
    free = available_memory()
    if free is None:
        return None
    for count in range(most, 1, -1):
        if replace(need, count=count).memory(low_memory=low_memory) <= SHARE * (free + held):
            return count
    return 1  # whether one fits is for `check_memory` to say, in words


def check_memory(need: Need, *, low_memory: bool, held: int = 0) -> None:
    """UsageError when a run would not fit into what is free; nothing where that is not known.

    `held`: bytes that sessions of earlier runs hold, which this run uses again.
    """
    free = available_memory()
    needed = need.memory(low_memory=low_memory)
    if free is None or needed <= free + held:
        return
    height, width = need.plan.sizes.picture
    lower, count = need.memory(low_memory=True), need.count
    weights = max(need.weights(name) for name in need.graphs)
    if not low_memory and lower <= free + held:
        advice = f"with --low-memory it needs {in_bytes(lower)}"
    elif weights > free + held:
        advice = "take a bundle of smaller weights (python -m quantization --precision int8)"
    else:
        advice = "ask for " + (
            "fewer prompts at a time (--batch-size)" if count > 1 else "a smaller picture"
        )
    raise UsageError(
        f"{count} x {height} x {width} pixels need about {in_bytes(needed)} of memory and "
        f"{in_bytes(free + held)} are free: {advice}"
    )
