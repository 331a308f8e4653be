"""Sampling options, and the plan they make once every default is filled in and checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtimes.bundle.host import GUIDANCE
from runtimes.bundle.manifest import (
    DENOISERS,
    TEXT_ENCODERS,
    Denoiser,
    Graph,
    Manifest,
    Row,
    Sampling,
)
from runtimes.bundle.ranges import shown
from runtimes.errors import UsageError
from runtimes.noise import NoiseSource, PerImageNoise, TorchNoise
from runtimes.schedule import MOST_STEPS, check_timesteps, even_timesteps, schedule
from runtimes.sizes import Sizes, sizes
from runtimes.start import Start, check_start, last_timesteps

# The graphs between pixels and latents, which run picture by picture.
ONE_BY_ONE = ("stage_a", "compressor", "stage_a_encoder")


@dataclass(frozen=True)
class Options:
    """How to sample. None takes the bundle's default, which is the checkpoint's.

    `guidance` above 1 turns classifier-free guidance on. `timesteps` descend within 1..0 and
    replace `steps`. A list of seeds draws each picture's noise from its own generator; one seed
    draws the whole batch from one, as diffusers does.
    """

    seed: int | Sequence[int] = 0
    steps: int | None = None
    timesteps: tuple[float, ...] | None = None
    guidance: float | None = None
    decoder_steps: int | None = None
    decoder_timesteps: tuple[float, ...] | None = None
    decoder_guidance: float | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Stage:
    """How one denoiser is sampled: everything that tells Stage C from Stage B.

    `name` is its graph's, stage_c or stage_b. `timesteps` descend to where the last step ends;
    `rows` are the steps between them. `guidance` above 1 is on. `size` is the latent's height and
    width, `denoiser` what the manifest says of the graph.
    """

    name: str
    denoiser: Denoiser
    timesteps: list[float]
    rows: tuple[Row, ...]
    guidance: float
    size: tuple[int, int]

    @property
    def guided(self) -> bool:
        """Whether each picture takes two rows: the conditional half of the batch comes first."""
        return is_guided(self.guidance)

    def latent_shape(self, pictures: int) -> tuple[int, int, int, int]:
        """(B,C,H,W) of the noise that so many pictures start from."""
        return (pictures, self.denoiser.channels, *self.size)


@dataclass(frozen=True)
class Plan:
    """Options with every default filled in and checked, before anything is computed."""

    stage_c: Stage
    stage_b: Stage
    sizes: Sizes
    noise: NoiseSource
    start: Start | None = None

    @property
    def picture_graphs(self) -> tuple[str, ...]:
        """The optional graphs that the run takes: none without a picture."""
        return () if self.start is None else self.start.graphs

    @property
    def timesteps(self) -> list[float]:
        """Stage C's."""
        return self.stage_c.timesteps

    @property
    def guidance(self) -> float:
        """Stage C's scale."""
        return self.stage_c.guidance

    @property
    def decoder_timesteps(self) -> list[float]:
        """Stage B's."""
        return self.stage_b.timesteps

    @property
    def decoder_guidance(self) -> float:
        """Stage B's scale."""
        return self.stage_b.guidance

    def rows(self, graph: str, pictures: int) -> int:
        """Rows of a graph's batch in a run of so many prompts."""
        return batch_rows(graph, pictures, self.guidance, self.decoder_guidance)


def make_plan(
    sampling: Sampling,
    options: Options,
    count: int,
    noise: NoiseSource | None,
    start: Start | None = None,
) -> Plan:
    """What `options` mean for `count` prompts; UsageError names the option that is wrong.

    `start`: the picture to start from, which cuts Stage C's steps by its strength.
    """
    if count == 0:
        raise UsageError('there is no prompt; give at least one (it may be empty: "")')
    drawn = _noise(options.seed, count)
    picture_sizes = sizes(*pixels_asked(sampling, options), sampling)
    if start is not None:
        check_start(start, picture_sizes, count)
    return Plan(
        _stage("stage_c", sampling.stage_c, options, picture_sizes, start),
        _stage("stage_b", sampling.stage_b, options, picture_sizes),
        picture_sizes,
        noise or drawn,
        start,
    )


def pixels_asked(sampling: Sampling, options: Options) -> tuple[int, int]:
    """Height and width as asked for; what the picture gets may differ a little (`sizes`)."""
    return (
        sampling.height if options.height is None else options.height,
        sampling.width if options.width is None else options.width,
    )


def is_guided(guidance: float) -> bool:
    """Whether a scale turns classifier-free guidance on; up to 1 it is off, as in diffusers."""
    return guidance > GUIDANCE.off_at


def batch_rows(graph: str, pictures: int, guidance: float, decoder_guidance: float) -> int:
    """Rows of a graph's batch for `pictures` prompts, one negative prompt each.

    Text encoders always take prompts and negative prompts. Under guidance, above 1, a stage's
    condition graph and denoiser take both halves; else they take the prompts' rows alone.
    """
    if graph in TEXT_ENCODERS:
        return 2 * pictures
    scales = {"stage_c": guidance, "stage_b": decoder_guidance}
    scale = scales.get(graph.removesuffix("_condition"), 0)
    return pictures * (2 if is_guided(scale) else 1)


def pictures_at_once(graph: Graph | None, pictures: int) -> int:
    """How many pictures a graph of ONE_BY_ONE takes in one run: one where its batch is open.

    Their activations grow most with a batch, which saves a CPU no time.
    """
    return 1 if graph is not None and graph.batch_is_open else pictures


def check_static(manifest: Manifest, plan: Plan, count: int) -> None:
    """UsageError where graphs of fixed shape cannot serve this batch, size or guidance."""
    if manifest.sizes and plan.sizes.picture not in manifest.sizes:
        possible = ", ".join("{} x {}".format(*size) for size in manifest.sizes)
        height, width = plan.sizes.picture
        raise UsageError(
            f"this bundle makes pictures of {possible} pixels (height x width) only, this run asks "
            f"for {height} x {width}; export it for that size"
        )
    for name in (*DENOISERS, *plan.picture_graphs):
        fixed = manifest.graphs[name].inputs[0].shape[0] if name in manifest.graphs else ""
        wanted = plan.rows(name, count)
        if isinstance(fixed, int) and fixed != wanted:
            raise UsageError(
                f"{name} was exported for a batch of {fixed}, this run needs {wanted} (prompts, "
                "doubled under guidance); change prompts or guidance, or export without --static"
            )


def fixed_batch(manifest: Manifest) -> int | None:
    """How many pictures graphs of fixed shape make at a time; None where batches are open."""
    graph = manifest.graphs.get("stage_a")
    size = graph.inputs[0].shape[0] if graph is not None else ""
    return size if isinstance(size, int) else None


def timesteps_for(options: Options, name: str, denoiser: Denoiser) -> list[float]:
    """The timesteps `options` mean for the denoiser `name`, stage_c or stage_b."""
    asked = _asked(options, name)
    if asked.timesteps is not None and asked.steps is not None:
        raise UsageError(f"--{asked.prefix}steps and --{asked.prefix}timesteps exclude each other")
    if asked.timesteps is not None:
        return check_timesteps(asked.timesteps, f"--{asked.prefix}timesteps")
    if asked.steps is not None:
        if asked.steps < 1:
            raise UsageError(f"--{asked.prefix}steps is {asked.steps}; it must be at least 1")
        if asked.steps > MOST_STEPS:
            raise UsageError(
                f"--{asked.prefix}steps is {shown(asked.steps)}; it can be {MOST_STEPS:,} at most"
            )
        return even_timesteps(asked.steps)
    return list(denoiser.timesteps)


def negatives_for(negatives: str | Sequence[str], count: int) -> list[str]:
    """One negative prompt per prompt; UsageError for another number of them than one or `count`."""
    if isinstance(negatives, str):
        return [negatives] * count
    if len(negatives) != count:
        raise UsageError(
            f"{len(negatives)} negative prompts for {count} prompt{'s' * (count != 1)}; give one, "
            "or as many"
        )
    return list(negatives)


@dataclass(frozen=True)
class _Asked:
    """The options of one stage, and what the names of their flags begin with."""

    prefix: str
    steps: int | None
    timesteps: tuple[float, ...] | None
    guidance: float | None


def _asked(options: Options, name: str) -> _Asked:
    if name == "stage_c":
        return _Asked("", options.steps, options.timesteps, options.guidance)
    return _Asked(
        "decoder-", options.decoder_steps, options.decoder_timesteps, options.decoder_guidance
    )


def _stage(
    name: str,
    denoiser: Denoiser,
    options: Options,
    picture_sizes: Sizes,
    start: Start | None = None,
) -> Stage:
    timesteps = timesteps_for(options, name, denoiser)
    if start is not None:
        timesteps = last_timesteps(timesteps, start.strength)
    return Stage(
        name,
        denoiser,
        timesteps,
        schedule(timesteps, denoiser.s, denoiser.scaler),
        _guidance(_asked(options, name), denoiser),
        picture_sizes.latent(name),
    )


def _guidance(asked: _Asked, denoiser: Denoiser) -> float:
    value = denoiser.guidance if asked.guidance is None else asked.guidance
    if not 0 <= value < float("inf"):
        raise UsageError(
            f"--{asked.prefix}guidance is {value}; it must be 0 or more (up to 1 is off)"
        )
    return value


def _noise(seed: int | Sequence[int], count: int) -> NoiseSource:
    """One generator for the whole batch, as in diffusers, or one for each picture's own seed."""
    if isinstance(seed, int):
        return TorchNoise(seed)
    if len(seed) != count:
        raise UsageError(f"{len(seed)} seeds for {count} prompts; give one, or one per prompt")
    return PerImageNoise(seed)
