"""What is exported from what: a checkpoint and settings, everything checked, nothing written."""

from dataclasses import dataclass

from exporter.backends import BACKENDS, Target
from exporter.bundle_manifest import license_of
from exporter.components import Checkpoint
from exporter.fixed_sizes import close, named_sizes
from exporter.graphs import GraphPlan, lora_shapes, plan_graphs
from exporter.inspection import graph_parameters
from exporter.lora import Lora, open_lora
from exporter.lora_names import TEXT
from exporter.options import Settings
from exporter.sampling import sampling
from exporter.tokenizer import check_tokenizer, same_tokenizer
from runtimes.bundle import sha256
from runtimes.errors import UsageError
from runtimes.manifest import CONDITION_GRAPHS, Sampling
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

    def chosen(self, also: set[str]) -> list[GraphPlan]:
        """The graphs that were asked for, and those `also` there."""
        names = also.union(self.settings.given.modules)
        return [plan for plan in self.plans if plan.name in names]

    def records_golden(self, plans: list[GraphPlan]) -> bool:
        """Whether an export of these graphs records the golden run: it takes all of them."""
        given = self.settings.given
        return given.golden and given.batch_size == 1 and len(plans) == len(self.plans)

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
    for folder, text in (
        (checkpoint.tokenizer, checkpoint.text_encoder),
        (checkpoint.decoder_tokenizer, checkpoint.decoder_text_encoder),
    ):
        check_tokenizer(folder, text.config.max_position_embeddings)
    shapes = lora_shapes(checkpoint)
    loras = tuple(open_lora(lora, shapes) for lora in given.loras)
    plans = _plans(checkpoint, settings, loras)
    for plan in plans:
        with plan.weights():
            pass  # opening checks names and shapes
    fixed_once = tuple(dict.fromkeys(fixed))
    return Job(checkpoint, settings, constants, default, fixed_once, plans, loras)


def _plans(checkpoint: Checkpoint, settings: Settings, loras: tuple[Lora, ...]) -> list[GraphPlan]:
    given = settings.given
    layout = BACKENDS[settings.backend].layout
    plans = plan_graphs(checkpoint, layout, text=given.text, loras=loras)
    # As in diffusers, where each pipeline has a text encoder of its own, an adapter changes one.
    adapted = any(TEXT in lora.parts for lora in loras)
    if given.text and not adapted and _shared_text(checkpoint):
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
