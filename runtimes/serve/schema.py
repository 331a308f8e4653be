"""A request's body to an order: what is to be made, every field checked before it waits."""

import difflib
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.arguments import SEEDS
from runtimes.errors import UsageError
from runtimes.plan import Options, Plan
from runtimes.serve import fields
from runtimes.serve.limits import PARTIAL_IMAGES, Limits
from runtimes.serve.model import Model, in_words
from runtimes.serve.presets import KEYS, Preset
from runtimes.serve.refusal import Refusal, bad, of_usage

FIELDS = (
    *("prompt", "model", "n", "size", "seed", "negative_prompt", "preset", "stream"),
    *("partial_images", "user", *KEYS, *fields.NEUTRAL),
)


@dataclass(frozen=True)
class Order:
    """What a request asks for: a picture for each of `seeds`.

    `options` are without a seed; `plan` is what they mean. `partial_images`: previews a picture.
    """

    model: Model
    prompt: str
    negative: str
    seeds: tuple[int, ...]
    options: Options
    plan: Plan
    stream: bool = False
    partial_images: int = 0

    @property
    def likeness(self) -> tuple[Any, ...]:
        """Equal for orders whose pictures can be made in one batch: by what their plans say."""
        stages = (self.plan.stage_c, self.plan.stage_b)
        sampled = ((tuple(stage.timesteps), stage.guidance) for stage in stages)
        return (self.model.name, self.plan.sizes, *sampled)


def parse(body: bytes, models: Mapping[str, Model], limits: Limits) -> Order:
    """The order that a body of JSON is; Refusal names the field that is wrong."""
    given = {name: value for name, value in _object(body).items() if value is not None}
    for name in given:
        _check_known(name)
    if "prompt" not in given:
        raise Refusal(400, "prompt: it is missing", param="prompt", code="missing_field")
    for name in fields.NEUTRAL.keys() & given.keys():
        fields.neutral(name, given[name])
    model = _model(given.get("model"), models)
    options, plan = _sampling(given, model, limits)
    stream = fields.flag("stream", given.get("stream", False))
    return Order(
        model,
        fields.text("prompt", given["prompt"], limits),
        fields.text("negative_prompt", given.get("negative_prompt", ""), limits),
        _seeds(given, limits),
        options,
        plan,
        stream,
        _partial_images(given, stream),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # a decoding error is a ValueError
        text = f"the body is no JSON: {_why_not(error)}"
        raise Refusal(400, text, code="invalid_json") from None
    if not isinstance(found, dict):
        raise Refusal(400, "the body is no JSON object", code="invalid_json")
    return found


def _why_not(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # Python's own sentence is for who wrote the server.
    long = str(error).startswith("Exceeds the limit")
    return "a number has thousands of digits" if long else str(error)[:200]


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON's")


def _check_known(name: str) -> None:
    if name in FIELDS:
        return
    near = difflib.get_close_matches(name[:40], FIELDS, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    shown = name[:40].encode("ascii", "backslashreplace").decode()
    raise Refusal(400, f"there is no field {shown!r}{meant}", param=shown, code="unknown_field")


def _model(name: Any, models: Mapping[str, Model]) -> Model:
    if name is None:
        return next(iter(models.values()))
    if not isinstance(name, str) or name not in models:
        text = f"model: there is no such model; there are: {', '.join(models)}"
        raise Refusal(404, text, param="model", code="model_not_found")
    return models[name]


def _sampling(given: Mapping[str, Any], model: Model, limits: Limits) -> tuple[Options, Plan]:
    """The options of a request, over those of its preset, and the plan that they make."""
    preset: Preset = {}
    if "preset" in given:
        preset = fields.one_of("preset", given["preset"], model.presets, "preset")
    own = {key: fields.ranged(key, given[key], limits) for key in KEYS if key in given}
    height, width = fields.size("size", given.get("size", "auto")) or (None, None)
    options = Options(**{**preset, **own}, height=height, width=width)
    try:
        plan = model.plan(options)
    except UsageError as error:
        raise of_usage(error, "size") from None
    # Of the size that is made: a side of 1 is made as the smallest that there is.
    if math.prod(plan.sizes.picture) > (most := model.most_pixels(limits)):
        raise bad("size", f"{in_words(plan)} is more than {most:,} pixels")
    if model.sizes and in_words(plan) not in model.sizes:
        raise bad("size", f"this model makes pictures of {' or '.join(model.sizes)} only")
    try:
        model.check(plan)
    except UsageError as error:
        raise of_usage(error, "guidance") from None
    return options, plan


def _seeds(given: Mapping[str, Any], limits: Limits) -> tuple[int, ...]:
    """Picture k has the request's seed + k, or one that is drawn + k."""
    count = fields.whole("n", given.get("n", 1), 1, limits.n)
    if "seed" in given:
        first = fields.whole("seed", given["seed"], 0, fields.MOST_SEED - count + 1)
    else:
        first = secrets.randbelow(SEEDS)
    return tuple(range(first, first + count))


def _partial_images(given: Mapping[str, Any], stream: bool) -> int:
    count = fields.whole("partial_images", given.get("partial_images", 0), 0, PARTIAL_IMAGES)
    if count and not stream:
        raise bad("partial_images", "it goes with stream: true only")
    return count
