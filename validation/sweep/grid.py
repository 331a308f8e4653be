"""The cells of a sweep: every combination of guidance, Stage C steps and Stage B steps."""

from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from runtimes.bundle.manifest import Sampling
from runtimes.errors import UsageError
from runtimes.plan import Options

DEFAULT = "default"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Cell:
    """One way to sample; None takes the bundle's own schedule."""

    guidance: float
    steps: int | None
    decoder_steps: int | None

    @property
    def name(self) -> str:
        """A folder name: 'guidance-4_steps-29_decoder-steps-default'."""
        return "_".join(
            f"{axis}-{DEFAULT if value is None else f'{value:g}'}"
            for axis, value in (
                ("guidance", self.guidance),
                ("steps", self.steps),
                ("decoder-steps", self.decoder_steps),
            )
        )

    @property
    def options(self) -> Options:
        return Options(guidance=self.guidance, steps=self.steps, decoder_steps=self.decoder_steps)


def grid(
    guidance: str | None, steps: str | None, decoder_steps: str | None, sampling: Sampling
) -> list[Cell]:
    """The cells of comma-separated lists; an axis that is not given stays at its default.

    UsageError for what is no number, or twice in one list.
    """
    scales = _axis("--guidance", guidance, float)
    cells = [
        Cell(sampling.stage_c.guidance if scale is None else scale, c, b)
        for scale, c, b in product(
            scales, _axis("--steps", steps, int), _axis("--decoder-steps", decoder_steps, int)
        )
    ]
    return list(dict.fromkeys(cells))


def evaluations(cell: Cell, sampling: Sampling) -> tuple[int, int]:
    """How often each denoiser runs in a cell: Stage C, Stage B."""
    c, b = sampling.stage_c.schedule, sampling.stage_b.schedule
    return cell.steps or len(c), cell.decoder_steps or len(b)


def _axis(flag: str, text: str | None, kind: type[Number]) -> list[Number | None]:
    if text is None:
        return [None]
    values: list[Number | None] = []
    for part in text.split(","):
        try:
            value = None if part.strip() == DEFAULT else kind(part)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(
                f"{flag} {text}: '{part}' is not {what} nor '{DEFAULT}'; give a list such as 4,8"
            ) from None
        if value in values:
            raise UsageError(f"{flag} {text}: {part} is there twice")
        values.append(value)
    return values
