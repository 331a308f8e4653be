"""What --resume need not make again: graphs of an unfinished export, or of the bundle itself."""

from dataclasses import dataclass

from exporter.job import Job
from exporter.origin import Origins
from exporter.partial import Record, Unfinished, is_whole
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.manifest_json import read_manifest
from runtimes.bundle.read import Bundle
from runtimes.errors import UsageError
from runtimes.progress import Progress


@dataclass(frozen=True)
class Kept:
    """Graphs by name: `whole` in the unfinished export, `bundled` in the bundle that is replaced.

    `damaged` ones were there once: they are made again even if they were not asked for.
    """

    whole: frozenset[str] = frozenset()
    bundled: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()
    bundle: Bundle | None = None

    @property
    def done(self) -> frozenset[str]:
        return self.whole | self.bundled

    @property
    def names(self) -> frozenset[str]:
        """What the new bundle holds beside the graphs that were asked for."""
        return self.done | self.damaged

    def take(self, name: str, work: Unfinished) -> Record | None:
        """A graph's record, its files in the unfinished export; None when it is to be made."""
        if name in self.bundled and self.bundle is not None:
            return work.adopt(name, self.bundle)
        return work.records()[name] if name in self.whole else None


def finished(job: Job, work: Unfinished, origins: Origins, progress: Progress) -> Kept:
    """Look for graphs of the same origin whose files are still what they were.

    Raises UsageError when there is an unfinished export and nothing says what to do with it, and
    when the bundle holds graphs that would be lost.
    """
    records, given = work.records(), job.settings.given
    if not given.resume:
        if records and not given.overwrite:
            raise UsageError(
                f"{work.folder} holds finished graphs of an export that did not end: give --resume "
                "to go on from them, or --overwrite to start again"
            )
        return Kept()
    bundle = _bundle(work)
    same = _same(job, bundle, origins) if bundle is not None else set()
    whole, bundled, damaged = set(), set(), set()
    wanted = {plan.name for plan in job.chosen(set())}
    for plan in job.plans:
        name, record = plan.name, records.get(plan.name)
        ours = record is not None and record.graph.origin == origins(plan)
        if ours and record is not None and work.is_whole(record):
            whole.add(name)
        elif name in same and bundle is not None and is_whole(name, bundle):
            bundled.add(name)
        elif ours or name in same:
            damaged.add(name)
            progress.line(f"{name}: its files have changed since; it is exported again")
        elif record is not None:
            if name not in wanted and not given.overwrite:
                raise UsageError(
                    f"{work.folder} holds {name}, made from other weights or options, which this "
                    "export would leave out: give --overwrite to lose it, or name it in --modules"
                )
            again = "made again" if name in wanted else "left out"
            progress.line(f"{name}: it was made from other weights or options; it is {again}")
    return Kept(frozenset(whole), frozenset(bundled), frozenset(damaged), bundle)


def _bundle(work: Unfinished) -> Bundle | None:
    """The bundle at the output, as its manifest says it is."""
    if not (work.output / MANIFEST_NAME).is_file():
        return None
    return Bundle(work.output, read_manifest(work.output))


def _same(job: Job, bundle: Bundle, origins: Origins) -> set[str]:
    """The bundle's graphs that this job would make alike."""
    manifest, plans = bundle.manifest, {plan.name: plan for plan in job.plans}
    same = {
        name
        for name, graph in manifest.graphs.items()
        if name not in manifest.quantization
        and name in plans
        and graph.origin == origins(plans[name])
    }
    lost = sorted(manifest.graphs.keys() - same)
    if lost and not job.settings.given.overwrite:
        raise UsageError(
            f"{bundle.folder} holds {lost[0]} of another checkpoint, with other options or by "
            "other versions: give --overwrite to replace it, or choose another output"
        )
    return same
