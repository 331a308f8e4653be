"""What is exported from what: a checkpoint and settings, everything checked, nothing written."""

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
from exporter.graphs import GraphPlan, lora_shapes, plan_graphs
from exporter.manifest import license_of
from exporter.options import ExportOptions, Settings
from exporter.sampling import sampling
from runtimes.bundle.manifest import CONDITION_GRAPHS, Sampling
from runtimes.bundle.read import sha256
from runtimes.errors import UsageError
from runtimes.sizes import Sizes, sizes

BYTES = {"fp32": 4, "fp16": 2}


@dataclass(frozen=True)
class Job:
    """A checked export: what is written from what. `sizes`: the fixed picture sizes, or none."""

    checkpoint: Checkpoint
    settings: Settings
    constants: Sampling
    default: Sizes
    sizes: tuple[Sizes, ...]
    plans: list[GraphPlan]
    loras: tuple[Lora, ...]
    notes: tuple[str, ...]
    embeddings: tuple[Embedding, ...]
    vocabularies: dict[str, Vocabulary]

    def chosen(self, also: set[str]) -> list[GraphPlan]:
        """The graphs that were asked for, and those `also` there."""
        names = also.union(self.settings.given.modules)
        return [plan for plan in self.plans if plan.name in names]

    def records_golden(self, plans: list[GraphPlan]) -> bool:
        """Whether an export of these graphs records the golden run: it takes all of them."""
        given = self.settings.given
        return given.golden and given.batch_size == 1 and len(plans) == len(self.plans)

    @property
    def golden_steps(self) -> tuple[int, int] | None:
        """Even steps of the golden run; None: the default schedules, for the demo or when asked."""
        asked = self.settings.given.golden_steps
        if asked == "full" or (asked is None and self.checkpoint.is_demo):
            return None
        return asked or SHORT_STEPS

    def precision(self, plan: GraphPlan) -> str:
        return "fp32" if plan.name in CONDITION_GRAPHS else self.settings.precision

    def bytes_of(self, plan: GraphPlan) -> int:
        """Bytes of a graph's weights as they are stored."""
        return graph_parameters(plan) * BYTES[self.precision(plan)]

    def closed(self, plan: GraphPlan) -> GraphPlan:
        """The plan with its fixed dimensions as numbers."""
        return close(plan, list(self._named(plan).values()))

    def target(self, plan: GraphPlan, metadata: dict[str, str]) -> Target:
        """What a graph is written as."""
        named = self._named(plan)
        return Target(
            precision=self.precision(plan),
            static=self.settings.static,
            license=license_of(self.checkpoint),
            metadata=metadata,
            deployment_target=self.settings.deployment_target,
            fused_attention=self.settings.given.fused_attention,
            sizes=named if len(named) > 1 else {},
        )

    def _named(self, plan: GraphPlan) -> dict[str, dict[str, int]]:
        """The values of a graph's named dimensions for each fixed size."""
        batch = self.settings.given.batch_size
        return {
            "size_{}x{}".format(*size.picture): named_sizes(plan, batch, self.constants, size)
            for size in self.sizes
        }


def checked(checkpoint: Checkpoint, settings: Settings) -> Job:
    """Every size, tokenizer, adapter, weight name and weight shape, before anything is written."""
    given = settings.given
    constants = sampling(
        checkpoint, given.height or checkpoint.height, given.width or checkpoint.width
    )
    default = sizes(constants.height, constants.width, constants)
    fixed = [default, *(sizes(*size, constants) for size in given.sizes)] if settings.static else []
    embeddings = _embeddings(checkpoint, given)
    vocabularies, rows = _vocabularies(checkpoint, embeddings)
    if given.openvino_tokenizer:
        for vocabulary in vocabularies.values():
            check_openvino_tokens(state(build(vocabulary)), vocabulary.folder)
    shapes = lora_shapes(checkpoint)
    loras = tuple(open_lora(lora, shapes) for lora in given.loras)
    plans = _plans(checkpoint, settings, loras, vocabularies)
    plans = [plan.with_rows(rows[plan.name]) if rows.get(plan.name) else plan for plan in plans]
    for plan in plans:
        with plan.weights():
            pass  # opening checks names and shapes
    fixed_once = tuple(dict.fromkeys(fixed))
    return Job(
        checkpoint,
        settings,
        constants,
        default,
        fixed_once,
        plans,
        loras,
        (*checkpoint.notes, *_unused_weights(checkpoint)),
        embeddings,
        vocabularies,
    )


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


def _embeddings(checkpoint: Checkpoint, given: ExportOptions) -> tuple[Embedding, ...]:
    widths = {name: t.config.hidden_size for name, (_, t) in _text_encoders(checkpoint).items()}
    if not given.text:
        del widths["decoder_text_encoder"]
    return tuple(open_embedding(asked, widths) for asked in given.embeddings)


def _vocabularies(
    checkpoint: Checkpoint, embeddings: tuple[Embedding, ...]
) -> tuple[dict[str, Vocabulary], dict[str, tuple[Rows, ...]]]:
    """Each text encoder's vocabulary, and the rows of the embeddings that are as wide."""
    vocabularies, rows = {}, {}
    for name, (folder, text) in _text_encoders(checkpoint).items():
        config = text.config
        vocabulary = check_tokenizer(folder, config.max_position_embeddings, config.vocab_size)
        fitting = tuple(each for each in embeddings if each.width == config.hidden_size)
        vocabularies[name], rows[name] = extended(vocabulary, fitting)
    return vocabularies, rows


def _text_encoders(checkpoint: Checkpoint) -> dict[str, tuple[Path, Component[TextConfig]]]:
    return {
        "text_encoder": (checkpoint.tokenizer, checkpoint.text_encoder),
        "decoder_text_encoder": (checkpoint.decoder_tokenizer, checkpoint.decoder_text_encoder),
    }


def _plans(
    checkpoint: Checkpoint,
    settings: Settings,
    loras: tuple[Lora, ...],
    vocabularies: dict[str, Vocabulary],
) -> list[GraphPlan]:
    given = settings.given
    layout = BACKENDS[settings.backend].layout
    plans = plan_graphs(checkpoint, layout, text=given.text, loras=loras)
    # As in diffusers, where each pipeline has a text encoder of its own, an adapter changes one.
    adapted = any(TEXT in lora.parts for lora in loras)
    if given.text and not adapted and _shared_text(checkpoint, vocabularies):
        plans = [plan for plan in plans if plan.name != "decoder_text_encoder"]
    if not {plan.name for plan in plans} & set(given.modules):
        raise UsageError(
            f"--modules {' '.join(given.modules)}: this export has no such graph (Stage B shares "
            "its text encoder, or has none)"
        )
    return plans


def _shared_text(checkpoint: Checkpoint, vocabularies: dict[str, Vocabulary]) -> bool:
    """Whether both stages use one text encoder, as in the paper: same config, weights, tokens."""
    first, second = checkpoint.text_encoder, checkpoint.decoder_text_encoder
    if first.config != second.config or len(first.files) != len(second.files):
        return False
    if [p.stat().st_size for p in first.files] != [p.stat().st_size for p in second.files]:
        return False
    if vocabularies["text_encoder"] != vocabularies["decoder_text_encoder"]:
        return False
    return all(sha256(a) == sha256(b) for a, b in zip(first.files, second.files, strict=True))
