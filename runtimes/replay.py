"""The golden run again without an engine: everything that is a host's own work, checked.

The graphs' recorded outputs stand in for the graphs. What is left is tokens, noise, schedules,
guidance, what feeds what, and sizes: wherever a host goes wrong first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtimes.bundle.host import Call, Feed
from runtimes.bundle.manifest import DENOISERS, TOKENS_FILE, Manifest
from runtimes.bundle.read import Bundle
from runtimes.bundle.typed_json import decode
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.bundle.values import Count, RawText, TokenId
from runtimes.errors import RunError
from runtimes.pipeline import load_tokenizers
from runtimes.plan import Plan, Stage, make_plan
from runtimes.recording import Recording, read_golden
from runtimes.sampler import Denoise, sample
from runtimes.schedule import schedule, timestep_embedding
from runtimes.tokenizer import PromptTokenizer
from runtimes.tolerances import EMBEDDING, NOISE, REPLAYED_LATENTS, SCHEDULE

Values = NDArray[np.generic]
Tokenizers = Mapping[str, PromptTokenizer]
_MOST_BYTES = 16_000_000  # of golden/tokens.json: some 40,000 of the demo's prompts
_Ids = dict[str, tuple[TokenId, ...]]


@dataclass(frozen=True)
class Replayed:
    """One thing checked: the largest absolute error of any value (inf: another shape), its limit.

    Computed on the machine that recorded the run, all errors are 0.
    """

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def replay(bundle: Bundle, seed: int | None = None) -> tuple[Replayed, ...]:
    """Replay a bundle's golden run, from `seed` instead of its own where given.

    Raises RunError where the bundle has no golden run, or it is damaged.
    """
    recording, manifest = read_golden(bundle), bundle.manifest
    if seed is not None:
        recording = replace(recording, options=replace(recording.options, seed=seed))
    plan = make_plan(manifest.sampling, recording.options, 1, None)
    tokenizers = load_tokenizers(bundle)
    checks = [
        Replayed("tokens", max(_tokens(bundle, tokenizers, recording), default=0.0), 0),
        *(_tables(manifest, name) for name in DENOISERS),
    ]
    for stage in (plan.stage_c, plan.stage_b):
        checks += _stage(stage, plan, recording)
    if manifest.host is not None:
        wiring = max(_wiring(manifest.host.run, manifest, plan, recording), default=0.0)
        checks.append(Replayed("wiring", wiring, 0))
    return tuple(checks)


def _tokens(bundle: Bundle, tokenizers: Tokenizers, recording: Recording) -> Iterator[float]:
    """The recorded prompts' ids, then those of `golden/tokens.json` where the bundle has one."""
    for graph, tokenizer in tokenizers.items():
        if f"{graph}.input_ids" in recording.tensors:
            encoding = tokenizer([recording.prompt, recording.negative_prompt])
            yield _error(encoding.input_ids, recording.tensors[f"{graph}.input_ids"])
            yield _error(encoding.attention_mask, recording.tensors[f"{graph}.attention_mask"])
    if TOKENS_FILE in bundle.manifest.files:
        for entry in _prompts(bundle.verified(TOKENS_FILE)):
            for graph, ids in entry.input_ids.items():
                if graph not in tokenizers:
                    raise RunError(f"{TOKENS_FILE}: the bundle has no tokenizer of '{graph}'")
                encoding = tokenizers[graph]([entry.prompt])
                yield _error(encoding.input_ids[0], np.array(ids))
                yield _error(encoding.attention_mask.sum(), np.array(entry.length.get(graph, -1)))


@dataclass(frozen=True)
class _Prompt:
    prompt: RawText
    input_ids: _Ids
    length: dict[str, Count]


def _prompts(path: Path) -> tuple[_Prompt, ...]:
    """The entries of `golden/tokens.json`; RunError where it is none."""
    try:
        value = parse_json(read_regular(path, _MOST_BYTES))
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); export the bundle again") from None
    return decode(tuple[_Prompt, ...], value, str(path))


def _tables(manifest: Manifest, name: str) -> Replayed:
    """The manifest's schedule and timestep embeddings, computed again from its constants."""
    denoiser = getattr(manifest.sampling, name)
    rows = schedule(denoiser.timesteps, denoiser.s, denoiser.scaler)
    limit = max(EMBEDDING, SCHEDULE)
    steps = [np.array([(r.t, r.a, r.b, r.c) for r in r_]) for r_ in (rows, denoiser.schedule)]
    embeddings = np.concatenate([timestep_embedding(row.t, denoiser) for row in rows])
    error = max(_error(*steps), _error(embeddings, np.array(denoiser.embeddings, np.float32)))
    return Replayed(f"{name}: schedule and timestep embeddings", error, limit)


def _stage(stage: Stage, plan: Plan, recording: Recording) -> Iterator[Replayed]:
    """A stage's noise and latents where the recorded epsilons stand in for its graph."""
    tensors, name = recording.tensors, stage.name
    _check_shapes(stage, recording)
    start = plan.noise.draw(stage.latent_shape(1))
    noise, latents = [_error(start, tensors[f"{name}/start.latents"])], [0.0]
    for step in sample(_recorded(stage, recording), stage, start, plan.noise):
        noise.append(_error(step.noise, tensors[f"{name}/{step.index}.noise"]))
        latents.append(_error(step.latents, tensors[f"{name}/{step.index}.latents"]))
    yield Replayed(f"{name}: noise", max(noise), NOISE)
    yield Replayed(f"{name}: latents after every step", max(latents), REPLAYED_LATENTS)


def _check_shapes(stage: Stage, recording: Recording) -> None:
    """RunError where what was recorded of a stage is not of the size that its options make."""
    shape = stage.latent_shape(1)
    rows = (2 if stage.guided else 1, *shape[1:])
    expected = {"start.latents": shape}
    for index in range(len(stage.rows)):
        expected |= {f"{index}.noise": shape, f"{index}.latents": shape, f"{index}.epsilon": rows}
    for tensor, wanted in expected.items():
        found = recording.tensors[f"{stage.name}/{tensor}"].shape
        if found != wanted:
            raise RunError(
                f"{recording.source}: '{stage.name}/{tensor}' has shape {found}, its options make "
                f"it {wanted}; export the bundle again"
            )


def _recorded(stage: Stage, recording: Recording) -> Denoise:
    """A denoiser that gives the recorded epsilons, one a call."""
    names = iter(range(len(stage.rows)))

    def denoise(latents: NDArray[np.float32], embedding: object) -> NDArray[np.float32]:
        epsilon = recording.tensors[f"{stage.name}/{next(names)}.epsilon"]
        return epsilon.astype(np.float32, copy=False)

    return denoise


def _wiring(
    calls: tuple[Call, ...], manifest: Manifest, plan: Plan, recording: Recording
) -> Iterator[float]:
    """Every recorded input of a graph against what the manifest's `host.run` says it is."""
    for call in calls:
        for feed in call.feeds:
            if (name := f"{call.graph}.{feed.input}") in recording.tensors:
                rows = _fed(call, feed, manifest, plan, recording)
                yield _error(rows, recording.tensors[name])


def _fed(call: Call, feed: Feed, manifest: Manifest, plan: Plan, recording: Recording) -> Values:
    """The rows of an input, for one picture."""
    values = _source(call, feed, manifest, recording)
    if call.rows != "guided":
        return values
    if not getattr(plan, call.stage).guided:
        return values[:1]
    second = {"repeat": values, "zeros": np.zeros_like(values)}.get(feed.unconditional)
    return values if second is None else np.concatenate([values, second])


def _source(call: Call, feed: Feed, manifest: Manifest, recording: Recording) -> Values:
    sampling = manifest.sampling
    if feed.source == "tokenizer":
        return _tensor(recording, f"{call.graph}.{feed.output}")  # see `_tokens`
    if feed.source != "sampler":
        return _tensor(recording, f"{feed.source}.{feed.output}")
    if feed.output == "image_embedding":
        latents = _last_latents("stage_c", recording)
        return latents * np.float32(sampling.latent_mean) - np.float32(sampling.latent_std)
    if call.graph == "stage_a":
        return _last_latents(call.stage, recording)
    return _tensor(recording, f"{call.stage}/start.{feed.output}")


def _last_latents(stage: str, recording: Recording) -> NDArray[np.float32]:
    latents = recording.tensors[f"{stage}/{recording.steps(stage) - 1}.latents"]
    return latents.astype(np.float32, copy=False)


def _tensor(recording: Recording, name: str) -> Values:
    if name not in recording.tensors:
        raise RunError(
            f"{recording.source}: it has no '{name}', which the manifest's host.run names"
        )
    return recording.tensors[name]


def _error(values: Values, recorded: Values) -> float:
    if values.shape != recorded.shape:
        return float("inf")
    return float(np.abs(values.astype(np.float64) - recorded.astype(np.float64)).max(initial=0.0))
