"""Sampling options, and the plan they make once every default is filled in and checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtimes.bundle.manifest import DENOISERS, TEXT_ENCODERS, Denoiser, Manifest, Sampling
from runtimes.errors import UsageError
from runtimes.noise import NoiseSource, PerImageNoise, TorchNoise
from runtimes.schedule import check_timesteps, even_timesteps
from runtimes.sizes import Sizes, sizes


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
class Plan:
    """Options with every default filled in and checked, before anything is computed."""

    timesteps: list[float]
    guidance: float
    decoder_timesteps: list[float]
    decoder_guidance: float
    sizes: Sizes
    noise: NoiseSource

    def rows(self, graph: str, pictures: int) -> int:
        """Rows of a graph's batch in a run of so many prompts."""
        return batch_rows(graph, pictures, self.guidance, self.decoder_guidance)


def make_plan(sampling: Sampling, options: Options, count: int, noise: NoiseSource | None) -> Plan:
    """What `options` mean for `count` prompts; UsageError names the option that is wrong."""
    if count == 0:
        raise UsageError('there is no prompt; give at least one (it may be empty: "")')
    seeds = [options.seed] if isinstance(options.seed, int) else list(options.seed)
    if not isinstance(options.seed, int) and len(seeds) != count:
        raise UsageError(f"{len(seeds)} seeds for {count} prompts; give one, or one per prompt")
    drawn = TorchNoise(seeds[0]) if isinstance(options.seed, int) else PerImageNoise(seeds)
    stage_c, stage_b = sampling.stage_c, sampling.stage_b
    return Plan(
        timesteps_for(options, "stage_c", stage_c),
        _guidance(options.guidance, stage_c, ""),
        timesteps_for(options, "stage_b", stage_b),
        _guidance(options.decoder_guidance, stage_b, "decoder-"),
        sizes(
            sampling.height if options.height is None else options.height,
            sampling.width if options.width is None else options.width,
            sampling,
        ),
        noise or drawn,
    )


def batch_rows(graph: str, pictures: int, guidance: float, decoder_guidance: float) -> int:
    """Rows of a graph's batch for `pictures` prompts, one negative prompt each.

    Text encoders always take prompts and negative prompts. Under guidance, above 1, a stage's
    condition graph and denoiser take both halves; else they take the prompts' rows alone.
    """
    if graph in TEXT_ENCODERS:
        return 2 * pictures
    scales = {"stage_c": guidance, "stage_b": decoder_guidance}
    return pictures * (2 if scales.get(graph.removesuffix("_condition"), 0) > 1 else 1)


def check_static(manifest: Manifest, plan: Plan, count: int) -> None:
    """UsageError where graphs of fixed shape cannot serve this batch, size or guidance."""
    if manifest.sizes and plan.sizes.picture not in manifest.sizes:
        made = ", ".join("{} x {}".format(*size) for size in manifest.sizes)
        height, width = plan.sizes.picture
        raise UsageError(
            f"this bundle makes pictures of {made} pixels (height x width) only, this run asks for "
            f"{height} x {width}; export it for that size"
        )
    for name in DENOISERS:
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
    if name == "stage_c":
        return _timesteps(options.timesteps, options.steps, denoiser, "")
    return _timesteps(options.decoder_timesteps, options.decoder_steps, denoiser, "decoder-")


def negatives_for(given: str | Sequence[str], count: int) -> list[str]:
    """One negative prompt per prompt."""
    if isinstance(given, str):
        return [given] * count
    if len(given) != count:
        raise UsageError(f"{len(given)} negative prompts for {count} prompts; give one, or as many")
    return list(given)


def _timesteps(
    timesteps: tuple[float, ...] | None, steps: int | None, denoiser: Denoiser, prefix: str
) -> list[float]:
    if timesteps is not None and steps is not None:
        raise UsageError(f"--{prefix}steps and --{prefix}timesteps exclude each other")
    if timesteps is not None:
        return check_timesteps(timesteps, f"--{prefix}timesteps")
    if steps is not None:
        if steps < 1:
            raise UsageError(f"--{prefix}steps is {steps}; it must be at least 1")
        return even_timesteps(steps)
    return list(denoiser.timesteps)


def _guidance(guidance: float | None, denoiser: Denoiser, prefix: str) -> float:
    value = denoiser.guidance if guidance is None else guidance
    if not 0 <= value < float("inf"):
        raise UsageError(f"--{prefix}guidance is {value}; it must be 0 or more (up to 1 is off)")
    return value
