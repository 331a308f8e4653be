"""What a comparison found, as plain data: `report.json` is this, field by field.

docs/report.md documents every field. Times are seconds, sizes bytes, SQNR and PSNR decibels.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from runtimes.bundle.manifest import Model
from runtimes.engines.base import Placement
from validation.parity.gate import Check
from validation.quality.metric import Metric

FORMAT = "wuerstchen-report"
FORMAT_VERSION = 1

# The split of the paper's Figure 4: a stage's condition graph counts as part of it.
STAGES = {
    "text encoder": ("text_encoder", "decoder_text_encoder"),
    "Stage C": ("stage_c_condition", "stage_c"),
    "Stage B": ("stage_b_condition", "stage_b"),
    "Stage A": ("stage_a",),
}


@dataclass(frozen=True)
class Reference:
    """The run all variants are compared with; steps are evaluations of each denoiser."""

    source: str
    prompt: str
    negative_prompt: str
    seed: int
    height: int
    width: int
    steps: int
    decoder_steps: int


@dataclass(frozen=True)
class Environment:
    """The machine, its operating system, Python, and the packages that took part."""

    machine: str
    system: str
    packages: dict[str, str]


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of a value over the repeats."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class StageCost:
    """One stage of one picture: seconds of running and of loading its graphs.

    `peak_bytes` is the process's resident memory while only this stage's graphs are held.
    """

    stage: str
    seconds: Spread
    load_seconds: Spread
    peak_bytes: int


@dataclass(frozen=True)
class Cost:
    """One picture in a fresh process; `peak_bytes` is with all graphs kept loaded."""

    seconds: Spread
    load_seconds: Spread
    peak_bytes: int
    stages: tuple[StageCost, ...]


@dataclass(frozen=True)
class Limit:
    """The value that comes closest to a limit (or passes it furthest), both in dB."""

    what: str
    worst: str
    found_db: float
    least_db: float
    passed: bool


@dataclass(frozen=True)
class Failure:
    """Where a variant first leaves its limits, and how it is said in words."""

    graph: str
    step: int | None
    text: str


@dataclass(frozen=True)
class Variant:
    """One bundle: what it is, how far it is off, what it costs.

    `bytes` are those of each stage and of the rest (tokenizer, README), without the golden run,
    which no host needs. `stored` has the precision of each graph's weights, `placements` what it
    really ran on and in, `kernels` how many products of a graph ONNX Runtime computes in which
    integer kernel. `largest_difference` is the picture's, in 0..1. `cost` is None where
    nothing can be timed; `cost_note` says why.
    """

    name: str
    folder: str
    backend: str
    precision: str
    passed: bool
    failure: Failure | None
    limits: tuple[Limit, ...]
    bytes: dict[str, int]
    stored: dict[str, str]
    placements: dict[str, Placement]
    kernels: dict[str, dict[str, int]]
    graphs: tuple[Check, ...]
    steps: tuple[Check, ...]
    trajectory: tuple[Check, ...]
    picture_db: float
    picture_limit_db: float
    largest_difference: float
    cost: Cost | None
    cost_note: str
    quality: tuple[Metric, ...]

    @property
    def size(self) -> int:
        """Bytes to ship."""
        return sum(self.bytes.values())


@dataclass(frozen=True)
class Verdict:
    """Which variant to ship, in a sentence; None where no variant passes or none was timed."""

    text: str
    smallest: str | None
    fastest: str | None


@dataclass(frozen=True)
class Report:
    """A whole comparison."""

    format: str
    format_version: int
    created: str
    model: Model
    reference: Reference
    environment: Environment
    repeats: int
    verdict: Verdict
    variants: tuple[Variant, ...]


def to_json(report: Report) -> str:
    """Indented JSON text; a number that is not finite is null."""
    value = _finite(dataclasses.asdict(report))
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
