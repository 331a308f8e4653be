"""Checkpoint to bundle in five steps, one graph and one of its weights in memory at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from exporter.budget import check_budget, estimate
from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.find import Source
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.weights import Deferred, Recipe
from exporter.cost import activations, graph_parameters
from exporter.fingerprint import Fingerprints
from exporter.formats.executorch_int8 import dynamic_weights
from exporter.formats.openvino_tokenizer import write_openvino_tokenizer
from exporter.formats.table import BACKENDS
from exporter.formats.tokenizer import write_tokenizer
from exporter.golden import record_golden
from exporter.graphs import GraphPlan
from exporter.job import BYTES, Job, check_job
from exporter.manifest import new_manifest, package_metadata, write_text_config
from exporter.options import ExportOptions
from exporter.partial import PartialExport, Record
from exporter.resume import Kept, find_kept
from exporter.tokens import record_tokens
from runtimes.bundle.manifest import Graph, Manifest, PictureSide, Quantization, Tokenizer
from runtimes.bundle.read import open_bundle
from runtimes.bundle.readme import bundle_readme
from runtimes.bundle.write import atomic_folder, check_output, seal
from runtimes.memory import give_back, in_bytes
from runtimes.progress import Progress
from runtimes.tokenizer import PromptTokenizer

# The folder of a text encoder's tokenizer in the bundle, unless both encoders tokenize alike.
TOKENIZER_FOLDERS = {"text_encoder": "tokenizer", "decoder_text_encoder": "decoder_tokenizer"}


@dataclass(frozen=True)
class Writing:
    """An export under way: `plans` are the new bundle's graphs, `kept` what is there of them.

    Graphs are written into `partial`, which outlives an interruption, and moved into the bundle
    when all of them are whole.
    """

    job: Job
    plans: list[GraphPlan]
    kept: Kept
    partial: PartialExport
    fingerprints: Fingerprints
    progress: Progress


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
    replaces = options.overwrite or options.resume
    check_output(output, overwrite=replaces)
    job = check_job(open_checkpoint(source, prior, options.variant, options.pictures), options)
    partial = PartialExport(output)
    with partial.locked():
        writing = _plan(job, output, partial, progress)
        with partial.open(keep=job.resume), atomic_folder(output, overwrite=replaces) as folder:
            tokenizers = _write_tokenizers(job, folder)
            manifest = new_manifest(job, writing.plans, tokenizers)
            manifest, records = _write_graphs(writing, manifest)
            manifest = _record_golden(writing, manifest, folder)
            manifest = _seal(writing, manifest, records, folder)
        partial.remove()
    open_bundle(output, hashes="none")  # each file was hashed a moment ago
    return manifest


def _plan(job: Job, output: Path, partial: PartialExport, progress: Progress) -> Writing:
    """What is to be written, and that memory and disk hold it; then make room for it."""
    fingerprints = Fingerprints(job)
    kept = find_kept(job, partial, fingerprints, progress)
    plans = job.chosen(kept.names)
    budget = estimate(job, plans, kept.done)
    check_budget(budget, output, freed=partial.size(kept.whole))
    for note in job.notes:
        progress.line(f"note: {note}")
    needed = f"{in_bytes(budget.memory)} of memory and {in_bytes(budget.disk)} of disk"
    progress.line(f"the export takes about {needed}")
    # Only now, with everything checked, may anything of an earlier export go.
    partial.discard_others(kept.whole)
    return Writing(job, plans, kept, partial, fingerprints, progress)


def _write_graphs(writing: Writing, manifest: Manifest) -> tuple[Manifest, list[Record]]:
    """Write every graph that is not kept; the manifest with all of them, and their records."""
    records = {}
    for number, plan in enumerate(writing.plans, 1):
        title = f"[{number}/{len(writing.plans)}] {plan.name}"
        record = writing.kept.take(plan.name, writing.partial)
        if record is None:
            record = _write_and_record(writing, plan, manifest, title)
        else:
            writing.progress.line(f"{title}: kept")
        records[plan.name] = record
    graphs = {name: record.graph for name, record in records.items()}
    return replace(manifest, graphs=graphs), list(records.values())


def _write_and_record(writing: Writing, plan: GraphPlan, manifest: Manifest, title: str) -> Record:
    job, partial = writing.job, writing.partial
    partial.discard(plan.name)
    on_bytes = writing.progress.graph(title, job.bytes_of(plan))
    graph = _write_graph(plan, job, manifest, partial.folder, on_bytes)
    grows = activations(plan, job.default)
    graph = replace(graph, origin=writing.fingerprints.of(plan), activations=grows)
    return partial.finish(plan.name, graph)


def _write_graph(
    plan: GraphPlan, job: Job, manifest: Manifest, folder: Path, on_bytes: Callable[[int], None]
) -> Graph:
    """Write a graph under `folder`; `on_bytes` hears of each weight that went."""
    backend, config = BACKENDS[job.backend], plan.component.config
    target = job.target(plan, package_metadata(job, manifest))
    plan = job.closed(plan)
    with plan.weights() as weights:
        deferred, size = plan.defer(weights), BYTES[target.precision]
        recipes = {name: _counted(make, on_bytes, size) for name, make in deferred.recipes.items()}
        path = backend.write(plan, Deferred(deferred.module, recipes), folder / plan.name, target)
    # The allocator would keep what this graph took, and the next one take as much again.
    give_back(job.bytes_of(plan))
    if isinstance(config, TextConfig) and job.backend != "coreml":
        write_text_config(config, manifest.tokenizers[plan.name], folder / plan.name)
    inputs, outputs = (
        tuple(replace(t, dtype=backend.ids) if t.dtype == "int64" else t for t in tensors)
        for tensors in (plan.inputs, plan.outputs)
    )
    return Graph(path.relative_to(folder).as_posix(), target.precision, inputs, outputs)


def _counted(make: Recipe, on_bytes: Callable[[int], None], size: int) -> Recipe:
    """A recipe that reports each weight it makes, `size` bytes a value."""

    def make_and_count() -> Tensor:
        weight = make()
        on_bytes(size * weight.numel())
        return weight

    return make_and_count


def _write_tokenizers(job: Job, folder: Path) -> dict[str, Tokenizer]:
    """Write each text encoder's tokenizer folder; one folder when both tokenize alike."""
    tokenizers: dict[str, Tokenizer] = {}
    for plan in (plan for plan in job.plans if plan.name in TOKENIZER_FOLDERS):
        vocabulary, length = job.vocabularies[plan.name], int(plan.inputs[0].shape[1])
        alike = (
            spec
            for other, spec in tokenizers.items()
            if spec.max_length == length and job.vocabularies[other] == vocabulary
        )
        spec = next(alike, None)
        if spec is None:
            name = TOKENIZER_FOLDERS[plan.name]
            spec = write_tokenizer(vocabulary, folder / name, name, length)
            if job.openvino_tokenizer:
                write_openvino_tokenizer(folder / name, spec, folder / name)
        tokenizers[plan.name] = spec
    return tokenizers


def _record_golden(writing: Writing, manifest: Manifest, folder: Path) -> Manifest:
    """Record prompts' ids and, where this export has one, the golden run; the manifest with it."""
    job, progress = writing.job, writing.progress
    tokenizers = {
        name: PromptTokenizer(folder / spec.folder, spec)
        for name, spec in manifest.tokenizers.items()
    }
    record_tokens(tokenizers, folder)
    if not job.records_golden(writing.plans):
        return manifest
    progress.line("recording the golden run with PyTorch")
    on_step = progress.runs("golden run", 0, 1)
    plans, count = writing.plans, job.preview_pictures
    recorded = record_golden(plans, manifest, tokenizers, folder, job.golden_steps, on_step, count)
    side = manifest.picture_side or PictureSide()
    side = replace(side, linear_preview=recorded.linear_preview, preview_pictures=count)
    return replace(manifest, golden=recorded.golden, picture_side=side)


def _seal(writing: Writing, manifest: Manifest, records: list[Record], folder: Path) -> Manifest:
    """Put the graphs into their places, write the README, hash everything into the manifest."""
    for record in records:
        writing.partial.place(record, folder)
    manifest = replace(manifest, quantization=_rounded(writing, manifest, folder))
    (folder / "README.md").write_text(bundle_readme(manifest), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return seal(folder, manifest, writing.progress.graph("hashing", size))


def _rounded(writing: Writing, manifest: Manifest, folder: Path) -> dict[str, Quantization]:
    """What became of the weights of the graphs that were written in 8 bits; before: in fp32."""
    return {
        plan.name: Quantization(
            "int8-dynamic",
            dynamic_weights(plan.meta_module()),
            bytes_before=4 * graph_parameters(plan),
            bytes_after=(folder / manifest.graphs[plan.name].file).stat().st_size,
        )
        for plan in writing.plans
        if manifest.graphs[plan.name].precision == "int8-dynamic"
    }
