"""Checkpoint to bundle: the whole export, one graph and one of its weights at a time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from exporter.budget import check_budget, estimate
from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.find import Source
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.weights import Deferred, Recipe
from exporter.cost import activations
from exporter.fingerprint import Fingerprints
from exporter.formats.openvino_tokenizer import write_openvino_tokenizer
from exporter.formats.table import BACKENDS
from exporter.formats.text_config import write_text_config
from exporter.formats.tokenizer import write_tokenizer
from exporter.golden import record_golden
from exporter.graphs import GraphPlan
from exporter.job import BYTES, Job, checked
from exporter.manifest import new_manifest, package_metadata
from exporter.options import ExportOptions, resolve
from exporter.partial import PartialExport
from exporter.resume import Kept, find_kept
from runtimes.bundle.manifest import Graph, Manifest, Tokenizer
from runtimes.bundle.read import open_bundle
from runtimes.bundle.readme import bundle_readme
from runtimes.bundle.write import atomic_folder, check_output, seal
from runtimes.memory import give_back, in_bytes
from runtimes.progress import Progress
from runtimes.tokenizer import PromptTokenizer


def export(
    source: Source,
    prior: Source,
    output: Path,
    options: ExportOptions,
    progress: Progress | None = None,
) -> Manifest:
    """Write the bundle of a checkpoint to `output`, all or nothing, and return its manifest.

    Everything that can be wrong with checkpoint, options, memory and disk is checked before the
    first graph. Raises UsageError or RunError; an existing `output` then stays as it was.
    """
    progress = progress or Progress(quiet=True)
    check_output(output, overwrite=options.overwrite or options.resume)
    job = checked(open_checkpoint(source, prior, options.variant), resolve(options))
    for note in job.notes:
        progress.line(f"note: {note}")
    fingerprints, work = Fingerprints(job), PartialExport(output)
    with work.locked():
        kept = find_kept(job, work, fingerprints, progress)
        plans = job.chosen(set(kept.names))
        budget = estimate(job, plans, kept.done)
        check_budget(budget, output, freed=work.size(kept.whole))
        needed = f"{in_bytes(budget.memory)} of memory and {in_bytes(budget.disk)} of disk"
        progress.line(f"the export takes about {needed}")
        work.discard_others(kept.whole)
        with work.open(keep=options.resume), atomic_folder(output) as folder:
            manifest = _write(job, folder, work, kept, fingerprints, progress)
        work.remove()
    open_bundle(output)
    return manifest


def _write(
    job: Job,
    folder: Path,
    work: PartialExport,
    kept: Kept,
    fingerprints: Fingerprints,
    progress: Progress,
) -> Manifest:
    tokenizers = _write_tokenizers(job, folder)
    manifest = new_manifest(job, tokenizers)
    plans = job.chosen(set(kept.names))
    records = []
    for number, plan in enumerate(plans, 1):
        title = f"[{number}/{len(plans)}] {plan.name}"
        record = kept.take(plan.name, work)
        if record is not None:
            progress.line(f"{title}: kept")
        else:
            work.discard(plan.name)
            on_bytes = progress.graph(title, job.bytes_of(plan))
            graph = _write_graph(plan, job, manifest, work.folder, on_bytes)
            grows = activations(plan, job.default)
            graph = replace(graph, origin=fingerprints.of(plan), activations=grows)
            record = work.finish(plan.name, graph)
        records.append(record)
        manifest.graphs[plan.name] = record.graph
    given = job.settings.given
    if given.openvino_tokenizer:
        for spec in {spec.folder: spec for spec in tokenizers.values()}.values():
            write_openvino_tokenizer(folder / spec.folder, spec, folder / spec.folder)
    if job.records_golden(plans):
        progress.line("recording the golden run with PyTorch")
        loaded = {name: PromptTokenizer(folder / t.folder, t) for name, t in tokenizers.items()}
        on_step = progress.runs("golden run", 0, 1)
        golden = record_golden(job.plans, manifest, loaded, folder, job.golden_steps, on_step)
        manifest = replace(manifest, golden=golden)
    for record in records:
        work.place(record, folder)
    (folder / "README.md").write_text(bundle_readme(manifest), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seal(folder, manifest, progress.graph("hashing", size))
    return manifest


def _write_graph(
    plan: GraphPlan, job: Job, manifest: Manifest, folder: Path, on_bytes: Callable[[int], None]
) -> Graph:
    """Write a graph under `folder`; `on_bytes` hears of each weight that went."""
    backend, config = BACKENDS[job.settings.backend], plan.component.config
    target = job.target(plan, package_metadata(job, manifest))
    plan = job.closed(plan)
    with plan.weights() as weights:
        deferred, size = plan.defer(weights), BYTES[target.precision]
        recipes = {name: _counted(make, on_bytes, size) for name, make in deferred.recipes.items()}
        path = backend.write(plan, Deferred(deferred.module, recipes), folder / plan.name, target)
    give_back(job.bytes_of(plan))
    if isinstance(config, TextConfig) and job.settings.backend != "coreml":
        write_text_config(config, manifest.tokenizers[plan.name], folder / plan.name)
    inputs, outputs = (
        tuple(replace(t, dtype=backend.ids) if t.dtype == "int64" else t for t in tensors)
        for tensors in (plan.inputs, plan.outputs)
    )
    return Graph(path.relative_to(folder).as_posix(), target.precision, inputs, outputs)


def _counted(make: Recipe, on_bytes: Callable[[int], None], size: int) -> Recipe:
    """A recipe that reports each weight it made, `size` bytes a value."""

    def made() -> Tensor:
        found = make()
        on_bytes(size * found.numel())
        return found

    return made


def _write_tokenizers(job: Job, folder: Path) -> dict[str, Tokenizer]:
    """One folder when both stages tokenize alike."""
    found: dict[str, Tokenizer] = {}
    folders = {"text_encoder": "tokenizer", "decoder_text_encoder": "decoder_tokenizer"}
    for plan in (plan for plan in job.plans if plan.name in folders):
        vocabulary = job.vocabularies[plan.name]
        length = int(plan.inputs[0].shape[1])
        for other, spec in found.items():
            if spec.max_length == length and job.vocabularies[other] == vocabulary:
                found[plan.name] = spec
                break
        else:
            name = folders[plan.name]
            found[plan.name] = write_tokenizer(vocabulary, folder / name, name, length)
    return found
