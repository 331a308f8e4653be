"""What is exported from what: a checkpoint and options, everything checked, nothing written."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.embeddings import Embedding, Rows, extended, open_embedding
from exporter.checkpoint.harmless import note_weights
from exporter.checkpoint.lora import Lora, open_lora
from exporter.checkpoint.lora_names import TEXT
from exporter.checkpoint.open import Checkpoint, Component
from exporter.checkpoint.weights import weight_names
from exporter.cost import graph_parameters
from exporter.dimensions import close, named_sizes
from exporter.formats.clip_bpe import Vocabulary, build, state
from exporter.formats.openvino_tokenizer import check_openvino_tokens
from exporter.formats.table import BACKENDS, Target
from exporter.formats.tokenizer import check_tokenizer
from exporter.golden import SHORT_STEPS
from exporter.graphs import GraphPlan, default_modules, lora_shapes, plan_graphs, plan_pictures
from exporter.modules.islands import SAFE, SETS
from exporter.options import ExportOptions, check_options, deployment_target
from exporter.sampling import sampling
from runtimes.bundle.manifest import EXACT_GRAPHS, PICTURE_GRAPHS, Sampling
from runtimes.bundle.read import sha256
from runtimes.errors import UsageError
from runtimes.sizes import Sizes, sizes

# Of a weight, at most: some stay fp32 beside those of 8 bits.
BYTES = {"fp32": 4, "fp16": 2, "int8-dynamic": 4}


@dataclass(frozen=True)
class Job:
    """A checked export: nothing is left open, and all that could be wrong before writing is right.

    `preview_pictures`: how many pictures the linear preview is fitted to.
    `golden`: whether a run is recorded if all graphs are there; `golden_steps` are its even steps,
    None for the default schedules. `default` is the picture size that graphs and manifest default
    to, `sizes` are all fixed sizes, () where sides stay open. `plans` are all graphs that the
    checkpoint has, `modules` the names of those asked for. `variant` is that of the weight files.
    """

    checkpoint: Checkpoint
    backend: str
    precision: str
    batch_size: int
    deployment_target: str
    fused_attention: bool
    islands: str
    openvino_tokenizer: bool
    text: bool
    modules: tuple[str, ...]
    golden: bool
    golden_steps: tuple[int, int] | None
    preview_pictures: int
    overwrite: bool
    resume: bool
    variant: str
    constants: Sampling
    default: Sizes
    sizes: tuple[Sizes, ...]
    plans: list[GraphPlan]
    loras: tuple[Lora, ...]
    embeddings: tuple[Embedding, ...]
    vocabularies: dict[str, Vocabulary]
    notes: tuple[str, ...]

    def chosen(self, also: Collection[str] = ()) -> list[GraphPlan]:
        """The graphs that were asked for, and those named in `also`."""
        return [plan for plan in self.plans if plan.name in {*self.modules, *also}]

    def records_golden(self, plans: list[GraphPlan]) -> bool:
        """Whether an export of these graphs records the golden run, which takes a whole run's."""
        needed = {plan.name for plan in self.plans} - set(PICTURE_GRAPHS)
        return self.golden and self.batch_size == 1 and needed <= {plan.name for plan in plans}

    def precision_of(self, plan: GraphPlan) -> str:
        """Conditions are computed once a picture: fp32 costs no time and loses nothing there."""
        return "fp32" if plan.name in EXACT_GRAPHS else self.precision

    def bytes_of(self, plan: GraphPlan) -> int:
        """Bytes of a graph's weights as they are stored."""
        return graph_parameters(plan) * BYTES[self.precision_of(plan)]

    def closed(self, plan: GraphPlan) -> GraphPlan:
        """The plan with its fixed dimensions as numbers."""
        return close(plan, list(self._dimensions(plan).values()))

    def target(self, plan: GraphPlan, metadata: dict[str, str]) -> Target:
        """What a graph is written as."""
        dimensions = self._dimensions(plan)
        return Target(
            precision=self.precision_of(plan),
            static=bool(self.sizes),
            license=self.checkpoint.license,
            metadata=metadata,
            deployment_target=self.deployment_target,
            fused_attention=self.fused_attention,
            islands=SETS[self.islands].get(plan.name, ()),
            sizes=dimensions if len(dimensions) > 1 else {},
        )

    def _dimensions(self, plan: GraphPlan) -> dict[str, dict[str, int]]:
        """The values of a graph's named dimensions for each fixed size, by the size's name."""
        return {
            "size_{}x{}".format(*size.picture): named_sizes(
                plan, self.batch_size, self.constants, size
            )
            for size in self.sizes
        }


def check_job(checkpoint: Checkpoint, options: ExportOptions) -> Job:
    """Check an export of `checkpoint` whole: nothing is written, and only headers are read.

    Raises UsageError for options, picture sizes, tokenizers, adapters, weight names and weight
    shapes that do not fit.
    """
    check_options(options)
    constants, default, fixed = _sizes(checkpoint, options)
    embeddings = _embeddings(checkpoint, options)
    vocabularies, rows = _vocabularies(checkpoint, options, embeddings)
    shapes = lora_shapes(checkpoint)
    modules = _modules(checkpoint, options)
    loras = tuple(open_lora(lora, shapes) for lora in options.loras)
    return Job(
        checkpoint=checkpoint,
        backend=options.backend,
        precision=options.precision or BACKENDS[options.backend].precision,
        batch_size=options.batch_size,
        deployment_target=deployment_target(options),
        fused_attention=options.fused_attention,
        islands=options.islands or SAFE,
        openvino_tokenizer=options.openvino_tokenizer,
        text=options.text,
        modules=modules,
        golden=options.golden,
        golden_steps=_golden_steps(checkpoint, options),
        preview_pictures=options.preview_pictures,
        overwrite=options.overwrite,
        resume=options.resume,
        variant=checkpoint.variant or options.variant or "",
        constants=constants,
        default=default,
        sizes=fixed,
        plans=_plans(checkpoint, options, modules, loras, vocabularies, rows),
        loras=loras,
        embeddings=embeddings,
        vocabularies=vocabularies,
        notes=(*checkpoint.notes, *_unused_weights(checkpoint), *_unmeasured(options)),
    )


def _sizes(
    checkpoint: Checkpoint, options: ExportOptions
) -> tuple[Sampling, Sizes, tuple[Sizes, ...]]:
    """The sampling constants, the default size, and all fixed ones, each once; () for none."""
    height, width = options.height or checkpoint.height, options.width or checkpoint.width
    constants = sampling(checkpoint, height, width)
    default = sizes(height, width, constants)
    if not (options.static or BACKENDS[options.backend].always_static):
        return constants, default, ()
    further = [sizes(*size, constants) for size in options.sizes]
    return constants, default, tuple(dict.fromkeys([default, *further]))


def _golden_steps(checkpoint: Checkpoint, options: ExportOptions) -> tuple[int, int] | None:
    """Even steps of both denoisers; None for the default schedules, which the demo affords."""
    if options.golden_steps == "full":
        return None
    if options.golden_steps is None:
        return None if checkpoint.is_demo else SHORT_STEPS
    return options.golden_steps


# How a graph of each format that computes in fp16 is judged.
_FP16_JUDGED = {
    "onnx": "'python -m quantization BUNDLE OUTPUT --precision fp16' makes one of the fp32 bundle "
    "by measuring it",
    "coreml": "'python -m validation BUNDLE' runs the packages in fp16 and says",
}


def _unmeasured(options: ExportOptions) -> list[str]:
    """A line where fp16 is a matter of the layers' types: nothing here runs in it."""
    precision = options.precision or BACKENDS[options.backend].precision
    if precision != "fp16" or options.backend not in _FP16_JUDGED:
        return []
    judged = _FP16_JUDGED[options.backend]
    return [f"whether this checkpoint's values stay in fp16's range is not measured here; {judged}"]


def _unused_weights(checkpoint: Checkpoint) -> list[str]:
    """Lines on what the text encoders' files hold that no graph needs."""
    folders = {
        text.folder: text for text in (checkpoint.text_encoder, checkpoint.decoder_text_encoder)
    }
    return [
        note
        for folder, text in folders.items()
        for note in note_weights([n for file in text.files for n in weight_names(file)], folder)
    ]


# What a checkpoint lacks where it has no graph of the picture side.
_LACKING = {
    "compressor": "no semantic compressor: give --compressor with its file",
    "stage_a_encoder": "an autoencoder that reads no pictures of 3 channels",
    "preview": "no previewer: give --preview with its file",
}


def _modules(checkpoint: Checkpoint, options: ExportOptions) -> tuple[str, ...]:
    """The graphs asked for. UsageError for one of the picture side that the checkpoint has not."""
    if options.modules is None:
        return default_modules(checkpoint)
    held = [plan.name for plan in plan_pictures(checkpoint, "nchw")]
    for name in PICTURE_GRAPHS:
        if name in options.modules and name not in held:
            raise UsageError(f"--modules {name}: the checkpoint has {_LACKING[name]}")
    return options.modules


def _embeddings(checkpoint: Checkpoint, options: ExportOptions) -> tuple[Embedding, ...]:
    widths = {name: t.config.hidden_size for name, (_, t) in _text_encoders(checkpoint).items()}
    if not options.text:
        del widths["decoder_text_encoder"]
    return tuple(open_embedding(file, widths) for file in options.embeddings)


def _vocabularies(
    checkpoint: Checkpoint, options: ExportOptions, embeddings: tuple[Embedding, ...]
) -> tuple[dict[str, Vocabulary], dict[str, tuple[Rows, ...]]]:
    """Each text encoder's vocabulary, and the rows of the embeddings that are as wide."""
    vocabularies, rows = {}, {}
    for name, (folder, text) in _text_encoders(checkpoint).items():
        config = text.config
        vocabulary = check_tokenizer(folder, config.max_position_embeddings, config.vocab_size)
        fitting = tuple(each for each in embeddings if each.width == config.hidden_size)
        vocabularies[name], rows[name] = extended(vocabulary, fitting)
        if options.openvino_tokenizer:
            check_openvino_tokens(state(build(vocabularies[name])), vocabulary.folder)
    return vocabularies, rows


def _text_encoders(checkpoint: Checkpoint) -> dict[str, tuple[Path, Component[TextConfig]]]:
    return {
        "text_encoder": (checkpoint.tokenizer, checkpoint.text_encoder),
        "decoder_text_encoder": (checkpoint.decoder_tokenizer, checkpoint.decoder_text_encoder),
    }


def _plans(
    checkpoint: Checkpoint,
    options: ExportOptions,
    modules: tuple[str, ...],
    loras: tuple[Lora, ...],
    vocabularies: dict[str, Vocabulary],
    rows: dict[str, tuple[Rows, ...]],
) -> list[GraphPlan]:
    """Every graph of the export, its weights' names and shapes checked."""
    backend = BACKENDS[options.backend]
    layout = backend.layout_of(options.precision or backend.precision)
    plans = plan_graphs(checkpoint, layout, text=options.text, loras=loras)
    # As in diffusers, where each pipeline has a text encoder of its own, an adapter changes one.
    adapted = any(TEXT in lora.parts for lora in loras)
    if options.text and not adapted and _shares_text_encoder(checkpoint, vocabularies):
        plans = [plan for plan in plans if plan.name != "decoder_text_encoder"]
    plans += plan_pictures(checkpoint, layout)
    if not {plan.name for plan in plans} & set(modules):
        raise UsageError(
            f"--modules {' '.join(modules)}: this export has no such graph (Stage B shares "
            "its text encoder, or has none)"
        )
    plans = [plan.with_rows(rows[plan.name]) if rows.get(plan.name) else plan for plan in plans]
    for plan in plans:
        with plan.weights():
            pass  # opening checks names and shapes
    return plans


def _shares_text_encoder(checkpoint: Checkpoint, vocabularies: dict[str, Vocabulary]) -> bool:
    """Whether both stages use one text encoder, as in the paper: same config, weights, tokens."""
    first, second = checkpoint.text_encoder, checkpoint.decoder_text_encoder
    if first.config != second.config or len(first.files) != len(second.files):
        return False
    if [p.stat().st_size for p in first.files] != [p.stat().st_size for p in second.files]:
        return False
    if vocabularies["text_encoder"] != vocabularies["decoder_text_encoder"]:
        return False
    return all(sha256(a) == sha256(b) for a, b in zip(first.files, second.files, strict=True))
