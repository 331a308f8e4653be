"""What a host in any language has to know beside tensors and constants: rules, as data.

All of it is in the manifest from format version 2 on. What the runtimes do by the same rule they
read from the values here.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from runtimes.bundle import values as v

When = Literal["prompt", "step", "picture"]
Rows = Literal["prompts_and_negatives", "guided", "pictures"]
Unconditional = Literal["negative_prompts", "repeat", "zeros", "included", "none"]


@dataclass(frozen=True)
class Feed:
    """Where one input of a graph comes from: an `output` of `source`.

    `source` is a graph, or the host's own 'tokenizer' (input_ids, attention_mask) or 'sampler'
    (latents and timestep_embedding of the stage, image_embedding). `unconditional`: what the second
    half of the rows is: the source's rows of the 'negative_prompts', the first half again
    ('repeat'), or 'zeros'; 'included' where the source's output has both halves already, 'none'
    where there is one half only.
    """

    input: v.Name
    source: v.Name
    output: v.Name
    unconditional: Unconditional


@dataclass(frozen=True)
class Call:
    """One graph in running order: when it runs, how many rows it takes, what it is fed.

    `stage` is the denoiser whose latents and guidance it goes by, '' for text encoders. Of B
    pictures: 'prompts_and_negatives' are 2B rows always, 'guided' 2B where the stage's guidance is
    on, else B, 'pictures' B rows.
    """

    graph: v.Name
    stage: v.Words
    when: When
    rows: Rows
    feeds: Annotated[tuple[Feed, ...], v.Some]


@dataclass(frozen=True)
class Noise:
    """The algorithm of the noise, PyTorch's on a CPU, and the order of the draws.

    `generator` is seeded by the low `seed_bits` of the seed. Of each 32-bit word the low
    `uniform_bits`, times 2^-uniform_bits, are a uniform u. Of each `block` of them the first half
    make radii r = sqrt(-2 ln(1 - u)), the second half angles p = 2 pi u, and the block of noise is
    all r cos p, then all r sin p. `tail`: where a draw is no multiple of `block` values, its last
    `block` are drawn anew ('redraw') from as many further words. `minimum`: smaller draws take
    another path, which no latents of a real model do. `draws`: a start, then one a step, each of
    all pictures' latents at once. `one_generator`: Stage B draws on from where Stage C ended;
    `in_last_step`: the last step draws too, though its noise is multiplied by 0.
    """

    algorithm: v.Name
    generator: v.Name
    seed_bits: v.Bits
    uniform_bits: v.Bits
    transform: v.Name
    block: v.Multiple
    tail: v.Name
    minimum: v.Multiple
    draws: Annotated[tuple[v.Name, ...], v.Few]
    one_generator: bool
    in_last_step: bool


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: off at or below `off_at`; which half of the rows is which."""

    off_at: v.Guidance
    halves: tuple[v.Name, v.Name]
    epsilon: v.Words


@dataclass(frozen=True)
class Schedule:
    """How schedules other than the tabulated ones are computed, in fp32.

    abar(t) = cos((t + s) / (1 + s) * pi / 2)^2 / cos(s / (1 + s) * pi / 2)^2, clamped to
    `alpha_clamp`; the timestep embedding is of t * `timestep_scale`.
    """

    kind: v.Name
    alpha_clamp: tuple[v.Time, v.Time]
    timestep_scale: v.Factor


@dataclass(frozen=True)
class Picture:
    """From `image` to bytes: clamped to `clamp`, times `scale`, rounded; rows of `channels`."""

    clamp: tuple[v.Number, v.Number]
    scale: v.Factor
    rounding: v.Name
    channels: Annotated[tuple[v.Name, ...], v.Few]


@dataclass(frozen=True)
class Sizes:
    """Heights and widths: Stage C's and Stage B's latents in cells, the picture in pixels."""

    stage_c: tuple[v.Side, v.Side]
    stage_b: tuple[v.Side, v.Side]
    picture: tuple[v.Side, v.Side]

    def latent(self, graph: str) -> tuple[int, int]:
        """Height and width of the latents that a graph reads or gives.

        Stage C's own, `compressor` and `preview` have Stage C's; Stage B's the others, also its
        condition graph, which reads them for their size alone, Stage A and its encoder.
        """
        own = graph.startswith("stage_c") or graph in ("compressor", "preview")
        return self.stage_c if own else self.stage_b


@dataclass(frozen=True)
class Tolerance:
    """How far off the golden run a graph may be that an engine computes in `compute`.

    `graph_error`: relative error (L2) of its outputs on the recorded inputs, the worst step.
    `latent_db`, `picture_db`: SQNR of the latents after each step and PSNR of the picture of a run
    of its own on the recorded noise, where no graph of the run is less exact than this one.
    """

    compute: v.Name
    graph_error: v.Error
    latent_db: v.Decibels
    picture_db: v.Decibels


@dataclass(frozen=True)
class Session:
    """How an engine's session is to be opened.

    `memory_pattern`: whether to let ONNX Runtime lay out memory ahead (None: no such thing).
    `config` are the engine's own keys and values, for every graph; `config_f32` those that hold a
    graph whose `compute` is 'f32' to it.
    """

    memory_pattern: bool | None
    config: Annotated[dict[v.Name, v.Words], v.FewNamed]
    config_f32: Annotated[dict[v.Name, v.Words], v.FewNamed]


@dataclass(frozen=True)
class Host:
    """The rules of a run, in the order a host needs them.

    `run` lists the graphs in running order. `sizes` tabulates the default picture size, then the
    other ones of graphs of fixed size. `tolerances` are by graph, `sessions` by engine. `tokens` is
    the file of prompts and their ids ('': none).
    """

    run: Annotated[tuple[Call, ...], v.Few]
    tokens: v.Words
    noise: Noise
    schedule: Schedule
    guidance: Guidance
    picture: Picture
    sizes: Annotated[tuple[Sizes, ...], v.Some]
    tolerances: Annotated[dict[v.Name, Annotated[tuple[Tolerance, ...], v.Some]], v.FewNamed]
    sessions: Annotated[dict[v.Name, Session], v.FewNamed]


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for before words are: in the normalised text where `normalized`."""

    content: v.RawText
    id: v.TokenId
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


@dataclass(frozen=True)
class Normalization:
    """A step on the prompt's text: 'nfc', 'replace' (`pattern` by `content`) or 'lowercase'.

    'lowercase' is Unicode's full mapping, each character by itself: a final sigma is an inner one.
    """

    kind: v.Name
    pattern: v.RawText
    content: v.RawText


@dataclass(frozen=True)
class TokenizerRules:
    """How a prompt becomes ids: added tokens, normalisation, words, pieces, frame.

    `words` is the pattern of words (Unicode classes); a word's UTF-8 bytes, as GPT-2's printable
    characters and with `end_of_word` after the last, are merged by the ranks in merges.txt;
    `unknown_id` stands for a piece that is in no vocabulary. `frame`: what the ids are put in, the
    tokens cut off to fit `max_length`, then filled up with `padding`. `mask`: what the attention
    mask has 1 for.
    """

    algorithm: v.Name
    bos: v.RawText
    eos: v.RawText
    padding: v.RawText
    unknown: v.RawText
    unknown_id: v.TokenId
    normalization: Annotated[tuple[Normalization, ...], v.Few]
    words: v.RawText
    end_of_word: v.RawText
    added: Annotated[tuple[AddedToken, ...], v.Many]
    frame: Annotated[tuple[v.Name, ...], v.Few]
    mask: Annotated[tuple[v.Name, ...], v.Few]


NOISE = Noise(
    algorithm="torch_cpu_randn",
    generator="mt19937",
    seed_bits=32,
    uniform_bits=24,
    transform="box_muller",
    block=16,
    tail="redraw",
    minimum=16,
    draws=("stage_c/start", "stage_c/steps", "stage_b/start", "stage_b/steps"),
    one_generator=True,
    in_last_step=True,
)
SCHEDULE = Schedule(kind="cosine", alpha_clamp=(1e-4, 0.9999), timestep_scale=10000)
GUIDANCE = Guidance(
    off_at=1.0,
    halves=("conditional", "unconditional"),
    epsilon="unconditional + scale * (conditional - unconditional)",
)
PICTURE = Picture(
    clamp=(0.0, 1.0), scale=255, rounding="nearest_even", channels=("red", "green", "blue")
)
