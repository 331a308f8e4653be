"""A bundle that makes batches, and what it says of itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.batches import MOST, UNKNOWN
from runtimes.bundle.manifest import MANIFEST_NAME, Sampling
from runtimes.bundle.read import Bundle
from runtimes.errors import UsageError
from runtimes.parameters import parameters_of, parameters_of_picture
from runtimes.pipeline import OnPreview, OnStep, Pipeline, Result
from runtimes.plan import Options, Plan, check_static, fixed_batch, make_plan
from runtimes.previews import preview_kind
from runtimes.serve.limits import GUIDANCE, PARTIAL_IMAGES, Limits
from runtimes.serve.presets import Preset
from runtimes.sizes import valid_sides

OWNER = "wuerstchen-export"
_MOST_SIDES = 64  # that /v1/models lists
# Its scales are of a whole tensor: what a picture becomes would depend on what is made with it.
_MIXING = "int8-dynamic"
# Their activations are rounded to integers, or may be: sums in another order flip some, and a
# picture is up to 9 of 255 levels off here and there (docs/serving.md has the figures).
_FLIPPING = ("int8", "int8-weights", "int4-weights")


class Wanted(Protocol):
    """One picture of a batch."""

    @property
    def prompt(self) -> str: ...
    @property
    def negative(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def index(self) -> int: ...


@dataclass(frozen=True)
class _First:
    """The picture that nobody asked for."""

    prompt: str = ""
    negative: str = ""
    seed: int = 0
    index: int = 0


@dataclass(frozen=True)
class Made:
    """A finished picture (H,W,3) uint8; `parameters` go into its file.

    `truncated`: by field of the request, from where on a text was too long to be read.
    """

    pixels: NDArray[np.uint8]
    seed: int
    parameters: Mapping[str, Any]
    truncated: Mapping[str, str]


class Model:
    """One served bundle, by its name."""

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        pipeline: Pipeline,
        presets: Mapping[str, Preset],
        max_batch: int | None = None,
    ) -> None:
        self.name, self.presets, self._bundle, self._pipeline = name, presets, bundle, pipeline
        self._fixed, self._max_batch = fixed_batch(bundle.manifest), max_batch
        if max_batch is not None and self._fixed not in (None, max_batch):
            raise UsageError(
                f"--max-batch {max_batch}: {bundle.folder} was exported for a batch of "
                f"{self._fixed}; leave it out, or export without --static"
            )

    def plan(self, options: Options) -> Plan:
        """What options mean; UsageError where they mean nothing."""
        return make_plan(self._bundle.manifest.sampling, options, 1, None)

    def check(self, plan: Plan) -> None:
        """UsageError where graphs of fixed shape cannot make a plan."""
        check_static(self._bundle.manifest, plan, self._fixed or 1)

    def check_offer(self, limits: Limits) -> None:
        """UsageError where what a request gets that asks for nothing is above the limits, and for
        a preset that cannot be made."""
        plan = self.plan(Options())
        made, most = math.prod(plan.sizes.picture), self.most_pixels(limits)
        steps = max(len(plan.stage_c.rows), len(plan.stage_b.rows))
        for flag, own, bound in (("steps", steps, limits.steps), ("pixels", made, most)):
            if own > bound:
                raise UsageError(
                    f"--max-{flag} is {bound:,}, and {self.name} makes pictures of {own:,} {flag} "
                    "where a request says nothing: give at least that"
                )
        for name, preset in self.presets.items():
            try:
                self.check(self.plan(Options(**preset)))
            except UsageError as error:
                raise UsageError(f"--presets: {self.name} cannot make {name!r}: {error}") from None

    @property
    def sizes(self) -> list[str]:
        """The only sizes that graphs of fixed shape make, as OpenAI writes them."""
        return [f"{width}x{height}" for height, width in self._bundle.manifest.sizes]

    def most(self, options: Options) -> int:
        """How many pictures of these options to make at a time."""
        if self._fixed is not None:
            return self._fixed
        asked = 1 if self.one_by_one else self._max_batch
        return self._pipeline.largest_batch(options, asked or MOST) or asked or UNKNOWN

    def make(
        self,
        pictures: Sequence[Wanted],
        options: Options,
        on_step: OnStep,
        on_preview: OnPreview | None = None,
        preview_every: int = 1,
    ) -> list[Made]:
        """The pictures of one batch, each by its own seed, as it would be alone.

        Raises what a pipeline raises, and what `on_step` does.
        """
        # Graphs of fixed shape take whole batches: the last picture fills up, and is made once.
        spare = (self._fixed or len(pictures)) - len(pictures)
        full = [*pictures, *[pictures[-1]] * spare]
        result = self._pipeline(
            [picture.prompt for picture in full],
            [picture.negative for picture in full],
            replace(options, seed=[picture.seed for picture in full]),
            on_step=on_step,
            on_preview=on_preview,
            preview_every=preview_every,
        )
        return [self._made(row, picture, result) for row, picture in enumerate(pictures)]

    def warm_up(self) -> None:
        """Load every graph: one picture of one step. What cannot run shows now, not to a client."""
        options = Options(steps=1, decoder_steps=1)
        self.make([_First()], options, lambda stage, done, of: None)

    def close(self) -> None:
        """Release the graphs."""
        self._pipeline.close()

    @property
    def one_by_one(self) -> str:
        """Why no picture is made together with another; '' where that changes nothing.

        Pictures of a batch are those made alone, within 1 of 255 levels, or they are made alone.
        """
        stored = {graph.precision for graph in self._bundle.manifest.graphs.values()}
        if _MIXING in stored:
            return "the scales of its activations would be of all pictures of a batch"
        if self._max_batch is None and stored & {*_FLIPPING}:
            return (
                "integers round otherwise in a batch; --max-batch N makes N together all the same"
            )
        return ""

    @cached_property
    def preview_kind(self) -> str | None:
        """What makes its previews: 'graph', 'linear', or nothing."""
        try:
            return preview_kind(self._bundle.manifest)
        except UsageError:
            return None

    def most_pixels(self, limits: Limits) -> int:
        """Pixels that a request may ask for."""
        return limits.pixels or 2 * math.prod(self.plan(Options()).sizes.picture)

    def about(self, limits: Limits) -> dict[str, Any]:
        """The model object of /v1/models."""
        manifest, plan = self._bundle.manifest, self.plan(Options())
        most = self.most_pixels(limits)
        steps = {"steps": limits.steps, "decoder_steps": limits.steps}
        previews = PARTIAL_IMAGES if self.preview_kind else 0
        sides = [] if manifest.sizes else _sides(manifest.sampling)
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": OWNER,
            "default_size": in_words(plan),
            "sides": sides,
            "size_multiple": _multiple(sides),
            "sizes": self.sizes,
            "limits": steps
            | {"n": limits.n, "pixels": most, "prompt_chars": limits.prompt_chars}
            | {"guidance": GUIDANCE, "partial_images": previews},
            "defaults": {
                "steps": len(plan.stage_c.rows),
                "decoder_steps": len(plan.stage_b.rows),
                "guidance": plan.guidance,
                "decoder_guidance": plan.decoder_guidance,
            },
            "presets": {name: dict(preset) for name, preset in self.presets.items()},
            "previews": self.preview_kind is not None,
        }

    @cached_property
    def _created(self) -> int:
        return int((self._bundle.folder / MANIFEST_NAME).stat().st_mtime)

    def _made(self, row: int, picture: Wanted, result: Result) -> Made:
        texts = {"prompt": picture.prompt, "negative_prompt": picture.negative}
        lost = dict(result.truncated)
        placements = {name: str(place) for name, place in result.placements.items()}
        own = parameters_of_picture(picture.prompt, picture.negative, picture.seed)
        own |= parameters_of(self._bundle, result.plan)
        return Made(
            result.pictures[row],
            picture.seed,
            own | {"index": picture.index, "placements": placements},
            {field: lost[text] for field, text in texts.items() if text in lost},
        )


def _sides(sampling: Sampling) -> list[int]:
    """Sides that both a height and a width can have, in pixels: those asked for are those made."""
    most = 2 * max(sampling.height, sampling.width)
    return list(valid_sides(sampling, most))[:_MOST_SIDES]


def _multiple(sides: Sequence[int]) -> int | None:
    """What all sides are multiples of, one after the other; None where they are not."""
    regular = all(side == (place + 1) * sides[0] for place, side in enumerate(sides))
    return sides[0] if sides and regular else None


def in_words(plan: Plan) -> str:
    """The size of the pictures that a plan makes, as OpenAI writes it: width first."""
    height, width = plan.sizes.picture
    return f"{width}x{height}"
