"""Checkpoint to bundle: the whole export, one graph in memory at a time."""

import dataclasses
import gc
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from exporter.atomic import atomic_folder, check_output, check_space
from exporter.bundle_readme import bundle_readme
from exporter.components import Checkpoint, open_checkpoint
from exporter.dimensions import make_static
from exporter.golden import FULL_RUN_PARAMETERS, PROMPT, record_golden
from exporter.graphs import GraphPlan, plan_graphs
from exporter.inspection import graph_parameters
from exporter.modules.layout import Layout
from exporter.onnx_graph import write_onnx
from exporter.sampling import sampling
from exporter.sources import Source
from exporter.tokenizer import check_tokenizer, same_tokenizer, write_tokenizer
from runtimes.bundle import open_bundle, sha256
from runtimes.errors import UsageError
from runtimes.manifest import (
    FORMAT,
    FORMAT_VERSION,
    GRAPHS,
    MANIFEST_NAME,
    File,
    Graph,
    Manifest,
    Model,
    Sampling,
    Tokenizer,
    to_json,
)
from runtimes.sizes import Sizes, sizes
from runtimes.tokenizer import PromptTokenizer

# Measured on ONNX Runtime's CPU provider, see docs/performance.md.
LAYOUT: dict[str, Layout] = {"onnx": "nchw"}
# What runs once per prompt or image is cheap, and its error would enter every step.
ALWAYS_FP32 = ("stage_c_condition", "stage_b_condition")
BYTES = {"fp32": 4, "fp16": 2}


@dataclass(frozen=True)
class ExportOptions:
    """What to export, as the command line says it; None takes the checkpoint's default."""

    backend: str = "onnx"
    precision: str = "fp32"
    text: bool = True
    height: int | None = None
    width: int | None = None
    static: bool = False
    batch_size: int = 1
    modules: tuple[str, ...] = GRAPHS
    golden: bool = True
    overwrite: bool = False
    variant: str | None = None


def export(
    source: Source,
    prior: Source,
    output: Path,
    options: ExportOptions,
    report: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Write the bundle of a checkpoint to `output`, all or nothing, and return its manifest.

    Everything that can be wrong with checkpoint, options and disk is checked before the first
    graph. Raises UsageError or RunError; an existing `output` then stays as it was.
    """
    check_output(output, overwrite=options.overwrite)
    checkpoint = open_checkpoint(source, prior, options.variant)
    constants = sampling(
        checkpoint, options.height or checkpoint.height, options.width or checkpoint.width
    )
    default = sizes(constants.height, constants.width, constants)
    for folder, text in (
        (checkpoint.tokenizer, checkpoint.text_encoder),
        (checkpoint.decoder_tokenizer, checkpoint.decoder_text_encoder),
    ):
        check_tokenizer(folder, text.config.max_position_embeddings)
    plans = _plans(checkpoint, options, constants, default)
    for plan in plans:  # strict check of names and shapes, before anything is written
        plan.weights().close()
    needed = sum(graph_parameters(plan) * BYTES[_precision(plan, options)] for plan in plans)
    check_space(output, int(1.05 * needed) + 50_000_000)
    with atomic_folder(output) as folder:
        manifest = _write(checkpoint, plans, options, constants, default, folder, report)
    open_bundle(output)
    return manifest


def _plans(
    checkpoint: Checkpoint, options: ExportOptions, constants: Sampling, default: Sizes
) -> list[GraphPlan]:
    unknown = [name for name in options.modules if name not in GRAPHS]
    if unknown:
        raise UsageError(f"--modules: unknown graph '{unknown[0]}'; there are {', '.join(GRAPHS)}")
    plans = plan_graphs(checkpoint, LAYOUT[options.backend], text=options.text)
    if options.text and _shared_text(checkpoint):
        plans = [plan for plan in plans if plan.name != "decoder_text_encoder"]
    if not {plan.name for plan in plans} & set(options.modules):
        raise UsageError(
            f"--modules {' '.join(options.modules)}: this export has no such graph (Stage B shares "
            "its text encoder, or has none)"
        )
    if options.static:
        plans = [_static(plan, options.batch_size, constants, default) for plan in plans]
    return plans


def _static(plan: GraphPlan, batch: int, constants: Sampling, default: Sizes) -> GraphPlan:
    """Fixed sizes: the default picture's. Under guidance Stage C's graphs take both halves."""
    guided = {
        "text_encoder": True,
        "stage_c_condition": constants.stage_c.guidance > 1,
        "stage_c": constants.stage_c.guidance > 1,
        "decoder_text_encoder": True,
    }
    height, width = default.stage_c if plan.name == "stage_c" else default.stage_b
    named = {
        "batch": batch * (2 if guided.get(plan.name, False) else 1),
        "height": height,
        "width": width,
        "embedding_height": default.stage_c[0],
        "embedding_width": default.stage_c[1],
    }
    return make_static(plan, named)


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


def _write(
    checkpoint: Checkpoint,
    plans: list[GraphPlan],
    options: ExportOptions,
    constants: Sampling,
    default: Sizes,
    folder: Path,
    report: Callable[[str], None],
) -> Manifest:
    names = {plan.name for plan in plans}
    tokenizers = _write_tokenizers(checkpoint, names, folder)
    manifest = _manifest(checkpoint, options, constants, tokenizers, names)
    written = [plan for plan in plans if plan.name in options.modules]
    for number, plan in enumerate(written, 1):
        report(f"[{number}/{len(written)}] {plan.name}")
        manifest.graphs[plan.name] = _write_graph(plan, options, folder)
    if options.golden and options.batch_size == 1 and len(written) == len(plans):
        report("recording the golden run with PyTorch")
        full = sum(graph_parameters(plan) for plan in plans) <= FULL_RUN_PARAMETERS
        loaded = {name: PromptTokenizer(folder / t.folder, t) for name, t in tokenizers.items()}
        record_golden(plans, manifest, loaded, folder, full=full)
    sides = ["{}, {}".format(*s) for s in (default.stage_c, default.stage_b)]
    text = bundle_readme(manifest, PROMPT, (sides[0], sides[1], "{} x {}".format(*default.picture)))
    (folder / "README.md").write_text(text, encoding="utf-8")
    report("hashing")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        manifest.files[name] = File(path.stat().st_size, sha256(path))
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")
    return manifest


def _write_graph(plan: GraphPlan, options: ExportOptions, folder: Path) -> Graph:
    precision = _precision(plan, options)
    with plan.module() as module:
        if precision == "fp16":
            module.half()  # in place; norms, softmax and the last division stay fp32 by themselves
        path = write_onnx(plan, module, folder / plan.name, static=options.static)
        del module
    gc.collect()
    file = path.relative_to(folder).as_posix()
    return Graph(file, precision, plan.inputs, plan.outputs)


def _precision(plan: GraphPlan, options: ExportOptions) -> str:
    return "fp32" if plan.name in ALWAYS_FP32 else options.precision


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


def _manifest(
    checkpoint: Checkpoint,
    options: ExportOptions,
    constants: Sampling,
    tokenizers: dict[str, Tokenizer],
    names: set[str],
) -> Manifest:
    decoder, prior = checkpoint.decoder_source, checkpoint.prior_source
    decoder_text = "decoder_text_encoder" if "decoder_text_encoder" in names else "text_encoder"
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        model=Model(
            id=decoder.id,
            revision=decoder.revision,
            prior_id=prior.id,
            prior_revision=prior.revision,
            license=decoder.front_matter.get("license", "unknown"),
            variant=options.variant or "",
        ),
        backend=options.backend,
        precision=options.precision,
        graphs={},
        tokenizers=tokenizers,
        text_graphs={
            "stage_c": "text_encoder",
            "stage_b": decoder_text if options.text else None,
        },
        sampling=dataclasses.replace(constants),
        files={},
        tools=_tools(),
    )


def _tools() -> dict[str, str]:
    names = ("wuerstchen-export", "onnx", "onnxscript", "onnx-ir", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"torch": torch.__version__, **found}
