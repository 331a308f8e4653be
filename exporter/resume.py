"""What --resume need not make again: graphs of a partial export, or of the bundle itself."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from exporter.fingerprint import Fingerprints
from exporter.graphs import GraphPlan
from exporter.job import Job
from exporter.partial import PartialExport, Record, is_whole
from runtimes.bundle.manifest import MANIFEST_NAME, Graph
from runtimes.bundle.manifest_json import read_manifest
from runtimes.bundle.read import Bundle
from runtimes.errors import UsageError
from runtimes.progress import Progress

# What there is of a graph that this export would write. `whole`: in the partial export, as it
# would be written now; `bundled`: so in the bundle that is replaced; `damaged`: one of the two, but
# its files have changed since; `stale`: the partial export's is of other weights or options;
# `absent`: nothing of use.
State = Literal["whole", "bundled", "damaged", "stale", "absent"]


@dataclass(frozen=True)
class Kept:
    """What an earlier export left of the graphs, by name, and the bundle that is replaced."""

    states: Mapping[str, State]
    bundle: Bundle | None = None

    @property
    def whole(self) -> frozenset[str]:
        """The graphs that stay in the partial export."""
        return self._in("whole")

    @property
    def done(self) -> frozenset[str]:
        """The graphs that need not be made."""
        return self._in("whole", "bundled")

    @property
    def names(self) -> frozenset[str]:
        """What the new bundle holds even if it was not asked for, damaged ones made again."""
        return self._in("whole", "bundled", "damaged")

    def _in(self, *states: State) -> frozenset[str]:
        return frozenset(name for name, state in self.states.items() if state in states)

    def take(self, name: str, partial: PartialExport) -> Record | None:
        """A graph's record, its files in the partial export; None when it is to be made."""
        if self.states.get(name) == "bundled" and self.bundle is not None:
            return partial.adopt(name, self.bundle)
        return partial.records()[name] if name in self.whole else None


def find_kept(
    job: Job, partial: PartialExport, fingerprints: Fingerprints, progress: Progress
) -> Kept:
    """Look for graphs of the same fingerprint whose files are still what they were.

    Raises UsageError when there is a partial export and nothing says what to do with it, and
    when graphs of it or of the bundle would be lost.
    """
    records = partial.records()
    if not job.resume:
        if records and not job.overwrite:
            raise UsageError(
                f"{partial.folder} holds finished graphs of an export that did not end: give "
                "--resume to go on from them, or --overwrite to start again"
            )
        return Kept({})
    bundle = _replaced_bundle(partial)
    if bundle is not None and not job.overwrite:
        _check_nothing_lost(job, bundle, fingerprints)
    states = {
        plan.name: classify(job, plan, records.get(plan.name), partial, bundle, fingerprints)
        for plan in job.plans
    }
    _report(states, job, partial, progress)
    return Kept(states, bundle)


def classify(
    job: Job,
    plan: GraphPlan,
    record: Record | None,
    partial: PartialExport,
    bundle: Bundle | None,
    fingerprints: Fingerprints,
) -> State:
    """What there is of one graph; `record` is the partial export's."""
    recorded = record is not None and _is_same(record.graph, plan, fingerprints)
    if record is not None and recorded and partial.is_whole(record):
        return "whole"
    held = bundle is not None and plan.name in _same_graphs(job, bundle, [plan], fingerprints)
    if bundle is not None and held and is_whole(plan.name, bundle):
        return "bundled"
    if recorded or held:
        return "damaged"
    return "absent" if record is None else "stale"


def _report(
    states: Mapping[str, State], job: Job, partial: PartialExport, progress: Progress
) -> None:
    """A line on each graph that was made in vain; UsageError for one that would be lost unasked."""
    asked = {plan.name for plan in job.chosen()}
    for name, state in states.items():
        if state == "damaged":
            progress.line(f"{name}: its files have changed since; it is exported again")
        if state == "stale":
            if name not in asked and not job.overwrite:
                raise UsageError(
                    f"{partial.folder} holds {name}, made from other weights or options, which "
                    "this export would leave out: give --overwrite to lose it, or name it in "
                    "--modules"
                )
            again = "made again" if name in asked else "left out"
            progress.line(f"{name}: it was made from other weights or options; it is {again}")


def _replaced_bundle(partial: PartialExport) -> Bundle | None:
    """The bundle at the output, as its manifest says it is."""
    if not (partial.output / MANIFEST_NAME).is_file():
        return None
    return Bundle(partial.output, read_manifest(partial.output))


def _check_nothing_lost(job: Job, bundle: Bundle, fingerprints: Fingerprints) -> None:
    lost = bundle.manifest.graphs.keys() - _same_graphs(job, bundle, job.plans, fingerprints)
    if lost:
        raise UsageError(
            f"{bundle.folder} holds {min(lost)} of another checkpoint, with other options or by "
            "other versions: give --overwrite to replace it, or choose another output"
        )


def _same_graphs(
    job: Job, bundle: Bundle, plans: Collection[GraphPlan], fingerprints: Fingerprints
) -> set[str]:
    """The bundle's graphs that these plans would give; a quantised one is another graph."""
    manifest = bundle.manifest
    recipes = {name: done.recipe for name, done in manifest.quantization.items()}
    return {
        plan.name
        for plan in plans
        if plan.name in manifest.graphs
        and recipes.get(plan.name, job.precision_of(plan)) == job.precision_of(plan)
        and _is_same(manifest.graphs[plan.name], plan, fingerprints)
    }


def _is_same(graph: Graph, plan: GraphPlan, fingerprints: Fingerprints) -> bool:
    return graph.origin == fingerprints.of(plan)
