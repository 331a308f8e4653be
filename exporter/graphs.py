"""The graphs of a checkpoint: tensors from the configs alone, modules on demand.

Seven from prompt to picture, and up to three beside them, from pictures to latents and to previews.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn

from exporter.checkpoint.compressor import CompressorConfig, compressor_shapes
from exporter.checkpoint.configs import StageAConfig, StageBConfig, StageCConfig, TextConfig
from exporter.checkpoint.embeddings import Rows, WithRows, table_rows
from exporter.checkpoint.harmless import UNUSED_TEXT_WEIGHTS
from exporter.checkpoint.layer_shapes import UNUSED_NORM_WEIGHTS
from exporter.checkpoint.lora import Fused, Lora, LoraPart
from exporter.checkpoint.lora_names import PRIOR, TEXT
from exporter.checkpoint.open import Checkpoint, Component
from exporter.checkpoint.previewer import PreviewConfig, previewer_shapes
from exporter.checkpoint.shapes import (
    Shapes,
    stage_a_decoder_shapes,
    stage_a_encoder_shapes,
    stage_b_shapes,
    stage_c_shapes,
    text_shapes,
)
from exporter.checkpoint.weights import Deferred, MetaWeights, Weights, WeightSource
from exporter.modules import picture_rewrites, rewrites
from exporter.modules.layout import Layout
from runtimes.bundle.manifest import GRAPHS, Tensor
from runtimes.dimensions import (
    BATCH,
    EMBEDDING_HEIGHT,
    EMBEDDING_WIDTH,
    HEIGHT,
    WIDTH,
    over,
    times,
)

Shape = tuple[int | str, ...]
AnyComponent = (
    Component[TextConfig]
    | Component[StageCConfig]
    | Component[StageBConfig]
    | Component[StageAConfig]
    | Component[CompressorConfig]
    | Component[PreviewConfig]
)
# Weights that a component's files may hold beside what its graphs need.
_UNUSED: dict[type, tuple[str, ...]] = {
    TextConfig: UNUSED_TEXT_WEIGHTS,
    CompressorConfig: UNUSED_NORM_WEIGHTS,
    PreviewConfig: UNUSED_NORM_WEIGHTS,
}


@dataclass(frozen=True)
class GraphPlan:
    """One graph before its weights are read.

    Dimensions that are strings may change from run to run: see runtimes.dimensions. `multiple` is
    what 'height' and 'width' are multiples of. `defer` gives the export-form module and recipes
    for its weights, `build` the module with its weights, which `loras` are added to and a text
    encoder's `rows` put into.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    multiple: int
    component: AnyComponent
    shapes: Shapes
    defer: Callable[[WeightSource], Deferred]
    build: Callable[[WeightSource], nn.Module]
    loras: tuple[LoraPart, ...] = ()
    rows: tuple[Rows, ...] = ()

    @contextmanager
    def weights(self) -> Iterator[WeightSource]:
        """The checkpoint's weights, every name and shape checked; read, and fused, on demand."""
        unused = _UNUSED.get(type(self.component.config), ())
        with Weights(self.component.files, self.shapes, unused) as weights:
            source = Fused(weights, self.loras) if self.loras else weights
            yield WithRows(source, self.rows) if self.rows else source

    def with_rows(self, rows: tuple[Rows, ...]) -> "GraphPlan":
        """A text encoder's plan with embeddings in its table, which may grow."""
        config = self.component.config
        assert isinstance(config, TextConfig)
        grown = replace(config, vocab_size=table_rows(config.vocab_size, rows))
        plan = _text(self.name, Component(self.component.folder, grown, self.component.files))
        return replace(plan, shapes=self.shapes, loras=self.loras, rows=rows)

    @contextmanager
    def module(self) -> Iterator[nn.Module]:
        """The export-form module, its weights mapped from disk while in use."""
        with self.weights() as weights:
            yield self.build(weights)

    def meta_module(self) -> nn.Module:
        """The same module without memory behind its weights: for counting."""
        return self.defer(MetaWeights(self.shapes)).module


def plan_graphs(
    checkpoint: Checkpoint, layout: Layout, *, text: bool, loras: tuple[Lora, ...] = ()
) -> list[GraphPlan]:
    """The graphs from prompt to picture, in running order.

    `text=False` leaves Stage B text-free (rewrite 6).

    `loras` are fused into Stage C's weights and its text encoder's; Stage B's text encoder stays.
    """
    prior, encoder = (
        tuple(lora.parts[part] for lora in loras if part in lora.parts) for part in (PRIOR, TEXT)
    )
    decoder_text = [_text("decoder_text_encoder", checkpoint.decoder_text_encoder)] if text else []
    return [
        replace(_text("text_encoder", checkpoint.text_encoder), loras=encoder),
        replace(_stage_c_condition(checkpoint), loras=prior),
        replace(_stage_c(checkpoint, layout), loras=prior),
        *decoder_text,
        _stage_b_condition(checkpoint, text),
        _stage_b(checkpoint, layout, text),
        _stage_a(checkpoint, layout),
    ]


def plan_pictures(checkpoint: Checkpoint, layout: Layout) -> Iterator[GraphPlan]:
    """The picture side's graphs, those of the three that the checkpoint has."""
    if checkpoint.compressor is not None:
        yield _compressor(checkpoint.compressor)
    if checkpoint.stage_a.config.in_channels == 3:
        yield _stage_a_encoder(checkpoint, layout)
    if checkpoint.preview is not None:
        yield _preview(checkpoint.preview)


def default_modules(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of the graphs that are exported where nothing is asked for.

    Stage A's encoder goes with the compressor: what starts from a picture needs both.
    """
    held = [plan.name for plan in plan_pictures(checkpoint, "nchw")]
    unasked = () if "compressor" in held else ("stage_a_encoder",)
    return (*GRAPHS, *(name for name in held if name not in unasked))


def lora_shapes(checkpoint: Checkpoint) -> dict[str, Shapes]:
    """The weights that an adapter may change, by the part of the prior's pipeline."""
    return {
        PRIOR: stage_c_shapes(checkpoint.stage_c.config),
        TEXT: text_shapes(checkpoint.text_encoder.config),
    }


def stage_a_shapes(config: StageAConfig) -> Shapes:
    """Both halves of the VQGAN: the file holds both."""
    return stage_a_decoder_shapes(config) | stage_a_encoder_shapes(config)


def _plan(
    name: str,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    multiple: int,
    component: AnyComponent,
    shapes: Shapes,
    defer: Callable[[WeightSource], Deferred],
) -> GraphPlan:
    def build(weights: WeightSource) -> nn.Module:
        return defer(weights).load()

    return GraphPlan(name, inputs, outputs, multiple, component, shapes, defer, build)


def _text(name: str, component: Component[TextConfig]) -> GraphPlan:
    config = component.config
    tokens: Shape = (BATCH, config.max_position_embeddings)
    return _plan(
        name,
        (Tensor("input_ids", "int64", tokens), Tensor("attention_mask", "int64", tokens)),
        (_float("last_hidden_state", (*tokens, config.hidden_size)),),
        1,
        component,
        text_shapes(config),
        lambda weights: rewrites.load_text_encoder(config, weights),
    )


def _stage_c_condition(checkpoint: Checkpoint) -> GraphPlan:
    component, tokens = checkpoint.stage_c, _tokens(checkpoint.text_encoder)
    config = component.config
    return _plan(
        "stage_c_condition",
        (_float("last_hidden_state", (BATCH, tokens, config.c_cond)),),
        (_float("text_kv", (BATCH, config.depth, 2, tokens, config.c)),),
        1,
        component,
        stage_c_shapes(config),
        lambda weights: rewrites.load_stage_c_condition(config, weights),
    )


def _stage_c(checkpoint: Checkpoint, layout: Layout) -> GraphPlan:
    component, tokens = checkpoint.stage_c, _tokens(checkpoint.text_encoder)
    config = component.config
    latents: Shape = (BATCH, config.c_in, HEIGHT, WIDTH)
    return _plan(
        "stage_c",
        (
            _float("latents", latents),
            _float("timestep_embedding", (BATCH, config.c_r)),
            _float("text_kv", (BATCH, config.depth, 2, tokens, config.c)),
        ),
        (_float("epsilon", latents),),
        1,
        component,
        stage_c_shapes(config),
        lambda weights: rewrites.load_stage_c(config, weights, layout),
    )


def _stage_b_conditions(checkpoint: Checkpoint, text: bool) -> tuple[Tensor, ...]:
    """What `stage_b_condition` gives and `stage_b` takes."""
    config, tokens = checkpoint.stage_b.config, _tokens(checkpoint.decoder_text_encoder)
    conditions = []
    for level in config.effnet_levels:
        cell = config.patch_size * 2**level
        shape: Shape = (BATCH, config.effnet_embd, over(HEIGHT, cell), over(WIDTH, cell))
        conditions.append(_float(f"effnet_{level}", shape))
    if text:
        pairs = list(zip(config.c_hidden, config.level_config, config.blocks, strict=True))
        for width in config.text_widths:
            blocks = sum(2 * n * kinds.count("A") for c, kinds, n in pairs if c == width)
            conditions.append(_float(f"text_kv_{width}", (BATCH, blocks, 2, tokens, width)))
    return tuple(conditions)


def _stage_b_condition(checkpoint: Checkpoint, text: bool) -> GraphPlan:
    component = checkpoint.stage_b
    config, tokens = component.config, _tokens(checkpoint.decoder_text_encoder)
    embedding: Shape = (BATCH, config.effnet_embd, EMBEDDING_HEIGHT, EMBEDDING_WIDTH)
    inputs = [
        _float("image_embedding", embedding),
        _float("latents", (BATCH, config.c_in, HEIGHT, WIDTH)),
    ]
    if text:
        inputs.append(_float("last_hidden_state", (BATCH, tokens, config.clip_embd)))
    return _plan(
        "stage_b_condition",
        tuple(inputs),
        _stage_b_conditions(checkpoint, text),
        config.multiple,
        component,
        stage_b_shapes(config),
        lambda weights: rewrites.load_stage_b_condition(config, weights, text),
    )


def _stage_b(checkpoint: Checkpoint, layout: Layout, text: bool) -> GraphPlan:
    component = checkpoint.stage_b
    config = component.config
    zero_tokens = None if text else _tokens(checkpoint.decoder_text_encoder)
    latents: Shape = (BATCH, config.c_in, HEIGHT, WIDTH)
    return _plan(
        "stage_b",
        (
            _float("latents", latents),
            _float("timestep_embedding", (BATCH, config.c_r)),
            *_stage_b_conditions(checkpoint, text),
        ),
        (_float("epsilon", latents),),
        config.multiple,
        component,
        stage_b_shapes(config),
        lambda weights: rewrites.load_stage_b(config, weights, layout, zero_tokens),
    )


def _stage_a(checkpoint: Checkpoint, layout: Layout) -> GraphPlan:
    component = checkpoint.stage_a
    config = component.config
    scale = config.scale
    return _plan(
        "stage_a",
        (_float("latents", (BATCH, config.latent_channels, HEIGHT, WIDTH)),),
        (_float("image", (BATCH, 3, times(scale, HEIGHT), times(scale, WIDTH))),),
        1,
        component,
        stage_a_shapes(config),
        lambda weights: rewrites.load_stage_a(config, weights, layout),
    )


def _compressor(component: Component[CompressorConfig]) -> GraphPlan:
    config, stride = component.config, component.config.stride
    return _plan(
        "compressor",
        (_float("image", (BATCH, 3, times(stride, HEIGHT), times(stride, WIDTH))),),
        (_float("image_embedding", (BATCH, config.c_latent, HEIGHT, WIDTH)),),
        1,
        component,
        compressor_shapes(config),
        lambda weights: picture_rewrites.load_compressor(config, weights),
    )


def _stage_a_encoder(checkpoint: Checkpoint, layout: Layout) -> GraphPlan:
    component = checkpoint.stage_a
    config, scale = component.config, component.config.scale
    return _plan(
        "stage_a_encoder",
        (_float("image", (BATCH, 3, times(scale, HEIGHT), times(scale, WIDTH))),),
        (_float("latents", (BATCH, config.latent_channels, HEIGHT, WIDTH)),),
        1,
        component,
        stage_a_shapes(config),
        lambda weights: picture_rewrites.load_stage_a_encoder(config, weights, layout),
    )


def _preview(component: Component[PreviewConfig]) -> GraphPlan:
    config, scale = component.config, component.config.scale
    return _plan(
        "preview",
        (_float("latents", (BATCH, config.c_latent, HEIGHT, WIDTH)),),
        (_float("image", (BATCH, 3, times(scale, HEIGHT), times(scale, WIDTH))),),
        1,
        component,
        previewer_shapes(config),
        lambda weights: picture_rewrites.load_preview(config, weights),
    )


def _tokens(component: Component[TextConfig]) -> int:
    return component.config.max_position_embeddings


def _float(name: str, shape: Shape) -> Tensor:
    return Tensor(name, "float32", shape)
