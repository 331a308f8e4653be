"""What can be done to a graph: frozen data, a preset per `--precision`."""

from collections.abc import Mapping
from dataclasses import dataclass

from runtimes.manifest import CONDITION_GRAPHS, GRAPHS


@dataclass(frozen=True)
class Float16:
    """Convolutions and matrix products in fp16; reductions, residuals and epsilon stay fp32."""

    name: str = "fp16"


@dataclass(frozen=True)
class IntegerWeights:
    """Weights stored in `bits` bits and widened when they are used; activations stay fp32.

    One scale per output channel, or per `group` inputs of each (0: none). Weights in `keep` get
    eight bits whatever `bits` is, those in `skip` stay as they are.
    """

    name: str
    bits: int
    group: int
    keep: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Int8:
    """Weights (a scale per output channel) and activations in 8 bits, from calibration.

    `smoothing` is SmoothQuant's alpha for the Linear after GlobalResponseNorm: how much of the
    activations' range moves into the weights. Weights in `keep` are stored in int8 too, but
    multiply float activations; those in `skip` stay as they are.
    """

    name: str = "int8"
    smoothing: float = 0.5
    keep: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


Recipe = Float16 | IntegerWeights | Int8
Plan = Mapping[str, Recipe | None]  # graph -> what is done to it; None leaves it as it is

INT8_WEIGHTS = IntegerWeights("int8-weights", bits=8, group=64)
INT4_WEIGHTS = IntegerWeights("int4-weights", bits=4, group=32)
_DENOISERS = ("stage_c", "stage_b")


def _everywhere(recipe: Recipe, conditions: Recipe | None) -> Plan:
    return {name: conditions if name in CONDITION_GRAPHS else recipe for name in GRAPHS}


# Text encoders and Stage A run once a picture: they shrink, and computing them faster saves little.
PRESETS: dict[str, Plan] = {
    "fp16": _everywhere(Float16(), None),
    "int8-weights": _everywhere(INT8_WEIGHTS, INT8_WEIGHTS),
    "int4-weights": {name: INT4_WEIGHTS if name in _DENOISERS else INT8_WEIGHTS for name in GRAPHS},
    "int8": {name: Int8() if name in _DENOISERS else INT8_WEIGHTS for name in GRAPHS},
}
