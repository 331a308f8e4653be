"""The bundle's manifest, `bundle.json`: what a host needs to know to run the graphs."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal

from runtimes.bundle import values as v
from runtimes.bundle.host import Host, TokenizerRules
from runtimes.bundle.ranges import Entries, OneOf

FORMAT = "wuerstchen-bundle"
# 2: with what hosts had to guess before. Bundles of 1 open, and whoever seals one makes it 2.
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
# Of a field whose default stands for its absence in version 1: from 2 on it has another value.
SINCE_2 = {"since": 2}
OPTIONAL = {"optional": True}  # of a field that manifests of every version may lack
MANIFEST_NAME = "bundle.json"
ORT_SUFFIX = ".ort"  # of a graph in ONNX Runtime's own format, in ONNX bundles
GOLDEN_FILE = "golden/run.safetensors"
TOKENS_FILE = "golden/tokens.json"
# The revision of the demo checkpoint; tests/test_demo.py pins its weights. New weights: a new one.
DEMO_REVISION = "demo-1"

# Every graph from prompt to picture, in the order it runs.
GRAPHS = (
    "text_encoder",
    "stage_c_condition",
    "stage_c",
    "decoder_text_encoder",
    "stage_b_condition",
    "stage_b",
    "stage_a",
)
# What a bundle may hold beside them: pictures to latents, and Stage C's latents to small pictures.
PICTURE_GRAPHS = ("compressor", "stage_a_encoder", "preview")
ALL_GRAPHS = (*GRAPHS, *PICTURE_GRAPHS)
# The graphs that run at every step, Stage C's first.
DENOISERS = ("stage_c", "stage_b")
TEXT_ENCODERS = ("text_encoder", "decoder_text_encoder")
# What runs once per prompt or image is cheap, and its error would enter every step: always fp32.
CONDITION_GRAPHS = ("stage_c_condition", "stage_b_condition")
# With what reads and shows pictures, once a picture too: in bf16 the demo's previews have 30 dB.
EXACT_GRAPHS = (*CONDITION_GRAPHS, *PICTURE_GRAPHS)
# Presets leave it as it is: its colours are small differences, and 8-bit weights alone take the
# demo's to 29 dB, for a tenth of a megabyte.
UNTOUCHED_GRAPHS = ("preview",)
# Every precision that a graph may be stored in: those of exports, and the names of the recipes.
PRECISIONS = (
    "fp32",
    "fp16",
    "fp16-weights",
    "int8",
    "int8-dynamic",
    "int8-weights",
    "int4-weights",
    "palette8",
    "palette6",
    "palette4",
    "mixed-bits",
)

# What engines compute in, and the stored precision that it is as exact as.
STORED = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}

GraphName = Annotated[str, OneOf(ALL_GRAPHS)]
Precision = Annotated[str, OneOf(PRECISIONS)]
Backend = Annotated[str, OneOf(("onnx", "openvino", "coreml", "executorch", "litert"))]


@dataclass(frozen=True)
class Model:
    """Which checkpoint the graphs come from; revisions are commit hashes for hub models.

    `variant` names the weight files ('fp16'), '' for the plain ones.
    """

    id: v.Words
    revision: v.Words
    prior_id: v.Words
    prior_revision: v.Words
    license: v.Words
    variant: v.Words

    @property
    def is_demo(self) -> bool:
        """Whether both halves are the demo's: its judge and its prompts fit no other model.

        By the revision, which stands for the hashes of its weights: anybody may call a model
        'demo/...', and a hub's revisions are commit hashes.
        """
        return self.revision == self.prior_revision == DEMO_REVISION


@dataclass(frozen=True)
class Adapter:
    """What was fused in: a LoRA adapter, or an embedding, named 'file:token', of weight 1.

    Its name, its file's SHA-256 and the weight it got.
    """

    id: v.Words
    sha256: v.Sha256
    scale: v.Strength


@dataclass(frozen=True)
class Tensor:
    """A graph input or output. A dimension is a number, or a name where it is dynamic."""

    name: v.Name
    dtype: v.DType
    shape: v.Dimensions


@dataclass(frozen=True)
class Data:
    """A file of a graph's weights in the bundle, and its `location`: how the graph itself calls it.

    The location of an ONNX graph's external data, with '/' between folders, relative to the folder
    of the graph's file; in other formats the path from that folder.
    """

    file: v.FilePath
    location: v.FilePath


@dataclass(frozen=True)
class Graph:
    """One exported graph: its file (Core ML: package folder) inside the bundle, precision, tensors.

    The precision is that of the stored weights and, but for fp32 islands, of the computation;
    OpenVINO's computes in its device's. `origin` is the exporter's SHA-256 over what the graph was
    made from and how: weights, adapters, options and tools. `activations`, where it is known: bytes
    that one row of a batch keeps alive at once, in any case, per position (height * width) of
    `latents`, and per pair of positions.

    From format version 2 on: `compute` is 'f32' where an engine that has a choice has to compute in
    fp32, else 'any'. `data` are the graph's further files. `opsets` (by domain, 'ai.onnx' the
    standard one) and `ir_version` are an ONNX file's own. `engines` has the oldest version of each
    engine that graphs of this kind were run on: older ones were not tried, or failed.
    """

    file: v.FilePath
    precision: Precision
    inputs: Annotated[tuple[Tensor, ...], v.Some]
    outputs: Annotated[tuple[Tensor, ...], v.Some]
    origin: v.Origin = ""
    activations: v.Activations = ()
    compute: Literal["f32", "any", ""] = field(default="", metadata=SINCE_2)
    data: Annotated[tuple[Data, ...], v.Few] = ()
    opsets: Annotated[dict[v.Name, v.Version], v.FewNamed] = field(default_factory=dict)
    ir_version: v.Version | None = None
    engines: Annotated[dict[v.Name, v.Name], v.FewNamed] = field(default_factory=dict)

    @property
    def is_ort(self) -> bool:
        """Whether it is in ONNX Runtime's own format: one file, without external data."""
        return self.file.endswith(ORT_SUFFIX)

    @property
    def batch_is_open(self) -> bool:
        """Whether the graph takes any number of rows."""
        return isinstance(self.inputs[0].shape[0], str)


@dataclass(frozen=True)
class Tokenizer:
    """A text encoder's tokenizer: its folder inside the bundle and its special token ids.

    `rules` say what tokenizer.json means (None: format version 1).
    """

    folder: v.FilePath
    max_length: v.TextLength
    bos_id: v.TokenId
    eos_id: v.TokenId
    pad_id: v.TokenId
    rules: TokenizerRules | None = field(default=None, metadata=SINCE_2)


@dataclass(frozen=True)
class Row:
    """One sampling step, x' = a*x + b*epsilon + c*noise, from timestep t to the next row's t."""

    t: v.Time
    a: v.Coefficient
    b: v.Coefficient
    c: v.Coefficient


@dataclass(frozen=True)
class Denoiser:
    """How a denoiser is sampled: `s` and `scaler` shape its cosine schedule.

    `timestep_embedding` of t is sin, then cos, of (t * 10000) * timestep_frequencies in fp32,
    zero-padded by `timestep_padding` values; `embeddings` tabulates it for the default schedule.
    `guidance` above 1 doubles the batch: conditional half first.
    """

    channels: v.Channels
    s: v.Offset
    scaler: v.Exponent
    guidance: v.Guidance
    timestep_frequencies: v.Frequencies
    timestep_padding: v.Padding
    timesteps: v.Times
    schedule: Annotated[tuple[Row, ...], v.OneAStep]
    embeddings: Annotated[tuple[v.SineCosine, ...], v.OneAStep]


@dataclass(frozen=True)
class Sampling:
    """Constants of the C -> B -> A loop, from the checkpoint's configs.

    Stage C's latent side is ceil(pixels / resolution_multiple); Stage B's is
    int(that * latent_dim_scale) and a multiple of `stage_b_multiple`; the picture's is that
    times `stage_a_scale`. image_embedding = stage C latents * latent_mean - latent_std.
    """

    resolution_multiple: v.Ratio
    latent_dim_scale: v.Ratio
    latent_mean: v.Latent
    latent_std: v.Latent
    stage_b_multiple: v.Multiple
    stage_a_scale: v.Scale
    height: v.Side
    width: v.Side
    stage_c: Denoiser
    stage_b: Denoiser


@dataclass(frozen=True)
class File:
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: v.Bytes
    sha256: v.Sha256


@dataclass(frozen=True)
class Weight:
    """A weight that quantisation met: how it is stored now, or why it was left alone.

    `kernel` is the operator that ONNX Runtime multiplies it by; '' for other engines, and for what
    is no product of integers.
    """

    name: v.Name
    stored: v.Words
    reason: v.Words
    kernel: v.Words = ""


@dataclass(frozen=True)
class Island:
    """A node of an fp16 graph that computes in fp32, beside norms and the like, and why."""

    node: v.Words
    op: v.Name
    reason: v.Words


@dataclass(frozen=True)
class Quantization:
    """What was done to one graph; bytes of its files before and after.

    `worst_db`: the SQNR of its outputs at the worst step against fp32, on recorded runs, where
    measured. `islands`: what stays fp32 in an fp16 graph for the values that were measured there.
    `average_bits`: of the weights whose forms were chosen, tables and scales included.
    """

    recipe: Precision
    weights: Annotated[tuple[Weight, ...], v.Many]
    bytes_before: v.Bytes
    bytes_after: v.Bytes
    worst_db: v.Decibels | None = None
    islands: Annotated[tuple[Island, ...], v.Many] = ()
    average_bits: v.AverageBits | None = None

    @property
    def kernels(self) -> dict[str, int]:
        """How many products ONNX Runtime computes in which integer kernel."""
        return dict(Counter(weight.kernel for weight in self.weights if weight.kernel))


@dataclass(frozen=True)
class Calibration:
    """What activations were measured on: `samples` steps of runs of `prompts`, their SHA-256."""

    prompts: v.Count
    samples: v.Count
    seed: v.Seed
    sha256: v.Sha256


@dataclass(frozen=True)
class Golden:
    """The recorded run: evaluations of Stage C and Stage B, and what else a replay has to know.

    `default_schedule`: the schedules are the manifest's own; else both have even steps.
    """

    steps: v.Steps
    decoder_steps: v.Steps
    default_schedule: bool
    seed: v.Seed
    guidance: v.Guidance
    decoder_guidance: v.Guidance


@dataclass(frozen=True)
class Mobile:
    """What graphs were made ready for, that run in ONNX Runtime on a phone.

    `level`: ONNX Runtime's optimisations that are in graphs in its own format, 'none' for ONNX
    files. `keep`: whether a host should keep 'all' graphs open, or 'one' at a time, and `memory`
    the bytes that weights and activations of a run are estimated to take then. `budget`: bytes that
    they had to fit into, where one was given.
    """

    level: Literal["none", "basic", "extended"]
    keep: Literal["all", "one"]
    memory: v.Bytes
    budget: v.Bytes | None = None


@dataclass(frozen=True)
class PictureSide:
    """What hosts have to know to run `compressor`, and to preview latents.

    The compressor reads a picture of `compressor_stride` pixels per cell of Stage C's latents,
    which the host resizes to by `resample`: 'bilinear' is PyTorch's with antialias, and Pillow's of
    float values. `linear_preview` makes a pixel of each cell without a graph: red, green and blue
    are rows of weights, one a channel, and a constant at the end, of Stage C's latents; clamped to
    0..1. It was fitted to `preview_pictures` decoded pictures.
    """

    compressor_stride: v.Scale | None = None
    resample: Literal["bilinear"] = "bilinear"
    linear_preview: v.LinearPreview = ()
    preview_pictures: v.Count = 0


@dataclass(frozen=True)
class Manifest:
    """What a bundle is and holds.

    `text_graphs` names the text encoders of `stage_c` and `stage_b` (None: text-free); `sizes`
    are the only picture sizes (height, width) its graphs take, none if sizes are open;
    `quantization` has the graphs that were quantised, `adapters` what was fused into the prior,
    `golden` what was recorded (None: nothing, or by a version that did not say), `host` the rules
    of a run for hosts in any language (None: format version 1), `mobile` what graphs for phones
    were made for (None: for any machine), `picture_side` what its optional graphs take (None: a
    bundle from before they were there). `sha256` is bundle.json's own, as
    it is with 64 zeros in this place ('': not said; nothing tells then whether it is unchanged).
    """

    format: v.Name
    format_version: v.Version
    model: Model
    backend: Backend
    precision: Precision
    graphs: Annotated[dict[GraphName, Graph], Entries(1, len(ALL_GRAPHS))]
    tokenizers: Annotated[dict[v.Name, Tokenizer], v.FewNamed]
    text_graphs: Annotated[dict[v.Name, v.Name | None], v.FewNamed]
    sampling: Sampling
    sizes: Annotated[tuple[tuple[v.Side, v.Side], ...], v.Few]
    files: Annotated[dict[v.FilePath, File], v.ManyNamed]
    tools: Annotated[dict[v.Name, v.Words], v.FewNamed]
    quantization: Annotated[dict[GraphName, Quantization], v.FewNamed] = field(default_factory=dict)
    calibration: Calibration | None = None
    adapters: Annotated[tuple[Adapter, ...], v.Few] = ()
    golden: Golden | None = None
    host: Host | None = field(default=None, metadata=SINCE_2)
    mobile: Mobile | None = field(default=None, metadata=OPTIONAL)
    picture_side: PictureSide | None = field(default=None, metadata=OPTIONAL)
    sha256: v.Origin = field(default="", metadata=OPTIONAL)
