"""Checkpoint to bundle: the whole export, one graph in memory at a time."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.backends import BACKENDS, Target
from exporter.bundle_manifest import license_of, new_manifest, package_metadata
from exporter.components import Checkpoint, open_checkpoint
from exporter.configs import TextConfig
from exporter.fixed_sizes import close, named_sizes
from exporter.golden import FULL_RUN_PARAMETERS, record_golden
from exporter.graphs import GraphPlan, plan_graphs
from exporter.inspection import graph_parameters
from exporter.openvino_tokenizer import write_openvino_tokenizer
from exporter.options import ExportOptions, Settings, resolve
from exporter.sampling import sampling
from exporter.sources import Source
from exporter.text_config import write_text_config
from exporter.tokenizer import check_tokenizer, same_tokenizer, write_tokenizer
from runtimes.atomic import atomic_folder, check_output, check_space, seal
from runtimes.bundle import open_bundle, sha256
from runtimes.bundle_readme import bundle_readme
from runtimes.errors import UsageError
from runtimes.manifest import (
    CONDITION_GRAPHS,
    Graph,
    Manifest,
    Sampling,
    Tokenizer,
)
from runtimes.sizes import Sizes, sizes
from runtimes.tokenizer import PromptTokenizer

BYTES = {"fp32": 4, "fp16": 2}
Report = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A checked export: what is written from what. `sizes`: the fixed picture sizes, or none."""

    checkpoint: Checkpoint
    settings: Settings
    constants: Sampling
    default: Sizes
    sizes: tuple[Sizes, ...]
    plans: list[GraphPlan]

    @property
    def written(self) -> list[GraphPlan]:
        """The graphs that were asked for."""
        return [plan for plan in self.plans if plan.name in self.settings.given.modules]

    def precision(self, plan: GraphPlan) -> str:
        return "fp32" if plan.name in CONDITION_GRAPHS else self.settings.precision


def export(
    source: Source,
    prior: Source,
    output: Path,
    options: ExportOptions,
    report: Report = lambda line: None,
) -> Manifest:
    """Write the bundle of a checkpoint to `output`, all or nothing, and return its manifest.

    Everything that can be wrong with checkpoint, options and disk is checked before the first
    graph. Raises UsageError or RunError; an existing `output` then stays as it was.
    """
    check_output(output, overwrite=options.overwrite)
    job = _checked(open_checkpoint(source, prior, options.variant), resolve(options))
    needed = sum(graph_parameters(plan) * BYTES[job.precision(plan)] for plan in job.plans)
    # OpenVINO's graphs are made from ONNX ones that lie beside them for a while.
    transient = 4 * max(map(graph_parameters, job.plans)) if options.backend == "openvino" else 0
    if len(job.sizes) > 1:  # a part per picture size, until they are one package
        transient = 4 * len(job.sizes) * max(map(graph_parameters, job.plans))
    check_space(output, int(1.05 * (needed + transient)) + 50_000_000)
    with atomic_folder(output) as folder:
        manifest = _write(job, folder, report)
    open_bundle(output)
    return manifest


def _checked(checkpoint: Checkpoint, settings: Settings) -> Job:
    """Every size, tokenizer, weight name and weight shape, before anything is written."""
    given = settings.given
    constants = sampling(
        checkpoint, given.height or checkpoint.height, given.width or checkpoint.width
    )
    default = sizes(constants.height, constants.width, constants)
    fixed = [default, *(sizes(*size, constants) for size in given.sizes)] if settings.static else []
    for folder, text in (
        (checkpoint.tokenizer, checkpoint.text_encoder),
        (checkpoint.decoder_tokenizer, checkpoint.decoder_text_encoder),
    ):
        check_tokenizer(folder, text.config.max_position_embeddings)
    plans = _plans(checkpoint, settings)
    for plan in plans:
        plan.weights().close()
    return Job(checkpoint, settings, constants, default, tuple(dict.fromkeys(fixed)), plans)


def _plans(checkpoint: Checkpoint, settings: Settings) -> list[GraphPlan]:
    given = settings.given
    plans = plan_graphs(checkpoint, BACKENDS[settings.backend].layout, text=given.text)
    if given.text and _shared_text(checkpoint):
        plans = [plan for plan in plans if plan.name != "decoder_text_encoder"]
    if not {plan.name for plan in plans} & set(given.modules):
        raise UsageError(
            f"--modules {' '.join(given.modules)}: this export has no such graph (Stage B shares "
            "its text encoder, or has none)"
        )
    return plans


def _shared_text(checkpoint: Checkpoint) -> bool:
    """Whether both stages use one text encoder, as in the paper: same config, weights, tokens."""
    first, second = checkpoint.text_encoder, checkpoint.decoder_text_encoder
    if first.config != second.config or len(first.files) != len(second.files):
        return False
    if [p.stat().st_size for p in first.files] != [p.stat().st_size for p in second.files]:
        return False
    if not same_tokenizer(checkpoint.tokenizer, checkpoint.decoder_tokenizer):
        return False
    return all(sha256(a) == sha256(b) for a, b in zip(first.files, second.files, strict=True))


def _write(job: Job, folder: Path, report: Report) -> Manifest:
    names = {plan.name for plan in job.plans}
    tokenizers = _write_tokenizers(job.checkpoint, names, folder)
    manifest = new_manifest(job, tokenizers)
    for number, plan in enumerate(job.written, 1):
        report(f"[{number}/{len(job.written)}] {plan.name}")
        manifest.graphs[plan.name] = _write_graph(plan, job, manifest, folder)
        if isinstance(plan.component.config, TextConfig) and job.settings.backend != "coreml":
            write_text_config(plan.component.config, tokenizers[plan.name], folder / plan.name)
    given = job.settings.given
    if given.openvino_tokenizer:
        for spec in {spec.folder: spec for spec in tokenizers.values()}.values():
            write_openvino_tokenizer(folder / spec.folder, spec, folder / spec.folder)
    if given.golden and given.batch_size == 1 and len(job.written) == len(job.plans):
        report("recording the golden run with PyTorch")
        full = sum(graph_parameters(plan) for plan in job.plans) <= FULL_RUN_PARAMETERS
        loaded = {name: PromptTokenizer(folder / t.folder, t) for name, t in tokenizers.items()}
        record_golden(job.plans, manifest, loaded, folder, full=full)
    (folder / "README.md").write_text(bundle_readme(manifest), encoding="utf-8")
    report("hashing")
    seal(folder, manifest)
    return manifest


def _write_graph(plan: GraphPlan, job: Job, manifest: Manifest, folder: Path) -> Graph:
    backend, settings = BACKENDS[job.settings.backend], job.settings
    batch = settings.given.batch_size
    named = {
        "size_{}x{}".format(*size.picture): named_sizes(plan, batch, job.constants, size)
        for size in job.sizes
    }
    target = Target(
        precision=job.precision(plan),
        static=settings.static,
        license=license_of(job.checkpoint),
        metadata=package_metadata(job, manifest),
        deployment_target=settings.deployment_target,
        sizes=named if len(named) > 1 else {},
    )
    plan = close(plan, list(named.values()))
    with plan.module() as module:
        path = backend.write(plan, module, folder / plan.name, target)
        del module
    gc.collect()
    file = path.relative_to(folder).as_posix()
    inputs, outputs = (
        tuple(replace(t, dtype=backend.ids) if t.dtype == "int64" else t for t in tensors)
        for tensors in (plan.inputs, plan.outputs)
    )
    return Graph(file, target.precision, inputs, outputs)


def _write_tokenizers(
    checkpoint: Checkpoint, names: set[str], folder: Path
) -> dict[str, Tokenizer]:
    """One folder when both stages tokenize alike."""
    length = checkpoint.text_encoder.config.max_position_embeddings
    found = {
        "text_encoder": write_tokenizer(
            checkpoint.tokenizer, folder / "tokenizer", "tokenizer", length
        )
    }
    if "decoder_text_encoder" in names:
        length = checkpoint.decoder_text_encoder.config.max_position_embeddings
        name, source = "decoder_tokenizer", checkpoint.decoder_tokenizer
        same = same_tokenizer(checkpoint.tokenizer, source) and (
            length == found["text_encoder"].max_length
        )
        found["decoder_text_encoder"] = (
            found["text_encoder"] if same else write_tokenizer(source, folder / name, name, length)
        )
    return found
