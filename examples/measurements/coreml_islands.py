"""Which fp32 islands an fp16 module needs: each left out alone, then as many as can be.

    python -m exporter my-bundle
    python examples/measurements/coreml_islands.py my-bundle

The demo's modules run in PyTorch in fp16 on the recorded inputs of every step of the bundle's
golden run: each result is rounded to fp16, sums inside one operator are taken in fp32, as the
interpreter of Core ML programs has it (`python -m validation` on a bundle of `--islands least`).
How a device takes them, Core ML does not say. Islands go one by one, the one whose loss costs least
first.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from exporter.checkpoint.find import demo_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.dimensions import make_static, named_sizes
from exporter.graphs import GraphPlan, plan_graphs
from exporter.modules.islands import ISLANDS, Island
from exporter.torch_engine import TorchEngine
from runtimes.arguments import Parser
from runtimes.bundle.manifest import CONDITION_GRAPHS
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.console import run_cli
from runtimes.recording import Recording, read_golden
from runtimes.sizes import sizes
from validation.parity.gate import graph_results


class Search:
    """One graph in fp16 with any islands, each set judged once."""

    def __init__(self, bundle: Bundle, recording: Recording, plan: GraphPlan) -> None:
        self._bundle, self._recording, self._plan = bundle, recording, plan
        self._found: dict[tuple[Island, ...], float] = {}

    def worst_db(self, islands: tuple[Island, ...]) -> float:
        """SQNR of the worst step."""
        if islands not in self._found:
            engine = TorchEngine(self._plan, islands=islands)
            steps = graph_results(engine, self._bundle, self._plan.name, self._recording)
            self._found[islands] = min(off.sqnr_db for _, _, off in steps)
            engine.close()
        return self._found[islands]

    def table(self) -> Iterator[tuple[tuple[Island, ...], float]]:
        """All islands, each alone left out; then fewer and fewer, down to none."""
        yield ISLANDS, self.worst_db(ISLANDS)
        yield from ((one, self.worst_db(one)) for one in fewer(ISLANDS))
        kept = max(fewer(ISLANDS), key=self.worst_db)
        while kept:
            kept = max(fewer(kept), key=self.worst_db)
            yield kept, self.worst_db(kept)


def fewer(islands: tuple[Island, ...]) -> Iterator[tuple[Island, ...]]:
    """The islands without each of them."""
    return combinations(islands, len(islands) - 1)


def plans_of(bundle: Bundle) -> Iterator[GraphPlan]:
    """The bundle's graphs that compute in fp16, at its picture size."""
    constants = bundle.manifest.sampling
    size = sizes(constants.height, constants.width, constants)
    for plan in plan_graphs(open_checkpoint(*demo_pair(), None), "nchw", text=True):
        if plan.name in bundle.manifest.graphs and plan.name not in CONDITION_GRAPHS:
            yield make_static(plan, named_sizes(plan, 1, constants, size))


def parser() -> Parser:
    made = Parser(prog="python examples/measurements/coreml_islands.py", description=__doc__ or "")
    made.add_argument("bundle", type=Path, help="a bundle of the demo, with its golden run")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def run(args: argparse.Namespace) -> None:
    bundle = open_bundle(args.bundle)
    recording = read_golden(bundle)
    print("| graph | islands in fp32 | worst step dB |")
    print("|---|---|--:|")
    for plan in plans_of(bundle):
        for islands, worst in Search(bundle, recording, plan).table():
            print(f"| `{plan.name}` | {', '.join(islands) or 'none'} | {worst:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_cli(parser(), run, None, interrupted="the rows above are whole"))
