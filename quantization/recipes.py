"""What can be done to a graph: frozen data, a preset per `--precision`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtimes.bundle.manifest import (
    ALL_GRAPHS,
    CONDITION_GRAPHS,
    DENOISERS,
    PICTURE_GRAPHS,
    UNTOUCHED_GRAPHS,
    Island,
)


@dataclass(frozen=True)
class Float16:
    """Convolutions and matrix products in fp16; reductions, residuals and epsilon stay fp32.

    So do `islands`: further nodes, whose values come near the ends of fp16's range.
    """

    name: str = "fp16"
    islands: tuple[Island, ...] = ()


@dataclass(frozen=True)
class Float16Weights:
    """Weights stored in fp16, everything computed in fp32.

    For engines that have no fp16, or add up a product's terms in it: ONNX Runtime on ARM64 CPUs.
    """

    name: str = "fp16-weights"


@dataclass(frozen=True)
class IntegerWeights:
    """Weights stored in `bits` bits; nothing is calibrated.

    One scale per output channel, or per `group` inputs of each (0: none). With `activation_bits` 8
    an engine that multiplies blocks of integers (ONNX Runtime) may round activations by blocks,
    too, as they come; with 32 they stay fp32. Weights in `keep` get the next better form: eight
    bits of four, fp32 activations of eight bits; those in `skip` stay as they are.
    """

    name: str
    bits: int
    group: int
    activation_bits: Literal[8, 32] = 32
    keep: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Int8:
    """Weights (a scale per output channel) and activations in 8 bits, from calibration.

    `smoothing` is SmoothQuant's alpha for the Linear after GlobalResponseNorm, `norm_smoothing`
    the one for what is behind LayerNorms: how much of the activations' range moves into the
    weights. Weights in `keep` are stored in blocks of int8, as are the activations they multiply
    where an engine does that as it runs; those in `skip` stay as they are.
    """

    name: str = "int8"
    smoothing: float = 0.5
    norm_smoothing: float = 0.7
    keep: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Int8Dynamic:
    """As Int8, but each activation's range is measured whenever it is computed: no calibration."""

    name: str = "int8-dynamic"
    keep: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Palette:
    """Weights stored as indices of `bits` bits into tables of values, found by k-means.

    Weights in `keep` get eight-bit integers, those in `skip` stay as they are.
    """

    name: str
    bits: int
    keep: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class MixedBits:
    """Each weight in a form of its own, as `quantization.bit_forms` spells them: (weight, form).

    What is not named stays as it is. ONNX integers have their activations rounded by the same
    blocks, as those of presets for what runs at every step.
    """

    name: str = "mixed-bits"
    forms: tuple[tuple[str, str], ...] = ()


Recipe = Float16 | Float16Weights | IntegerWeights | Int8 | Int8Dynamic | Palette | MixedBits
Plan = Mapping[str, Recipe | None]  # graph -> what is done to it; None leaves it as it is


def judged(recipe: Recipe | None) -> bool:
    """Whether what keeps a graph above a target is found by measuring it."""
    return searchable(recipe) or isinstance(recipe, Float16)


def searchable(recipe: Recipe | None) -> bool:
    """Whether a recipe takes exceptions that a search can pick."""
    return isinstance(recipe, Int8 | Int8Dynamic | IntegerWeights)


INT8_WEIGHTS = IntegerWeights("int8-weights", bits=8, group=64)
INT4_WEIGHTS = IntegerWeights("int4-weights", bits=4, group=32)
PALETTE8 = Palette("palette8", bits=8)
PALETTE6 = Palette("palette6", bits=6)
PALETTE4 = Palette("palette4", bits=4)


def in_steps(recipe: IntegerWeights) -> IntegerWeights:
    """The recipe for what runs at every step: speed counts. What runs once stays exact, for its
    error would be in every step, or in the picture itself.
    """
    return dataclasses.replace(recipe, activation_bits=8)


def _everywhere(recipe: Recipe, pictures: Recipe | None) -> Plan:
    """One recipe, but for conditions, which stay as they are, and the `pictures`' side.

    No run from a prompt shows how large values get there, and it runs once a picture.
    """
    others: dict[str, Recipe | None] = dict.fromkeys(CONDITION_GRAPHS)
    others |= dict.fromkeys(PICTURE_GRAPHS, pictures)
    return {name: others.get(name, recipe) for name in ALL_GRAPHS} | UNTOUCHED


def _by_steps(denoisers: Recipe) -> Plan:
    """One recipe for what runs at every step; what runs once a picture shrinks to 8-bit weights."""
    plan = {name: denoisers if name in DENOISERS else INT8_WEIGHTS for name in ALL_GRAPHS}
    return plan | UNTOUCHED


UNTOUCHED: dict[str, Recipe | None] = dict.fromkeys(UNTOUCHED_GRAPHS)
PRESETS: dict[str, Plan] = {
    "fp16": _everywhere(Float16(), None),
    "fp16-weights": _everywhere(Float16Weights(), Float16Weights()),
    # Text encoders, Stage A and the picture side run once a picture: they shrink, and computing
    # them faster saves little.
    "int8-weights": _by_steps(in_steps(INT8_WEIGHTS)),
    "int4-weights": _by_steps(in_steps(INT4_WEIGHTS)),
    "int8-dynamic": _by_steps(Int8Dynamic()),
    "int8": _by_steps(Int8()),
    # Core ML. The denoisers are what a phone reads at every step; an error of the text encoders and
    # condition graphs would be in all of these steps, one of Stage A in the picture itself.
    "palette8": _by_steps(PALETTE8),
    "palette6": _by_steps(PALETTE6),
    "palette4": _by_steps(PALETTE4),
}

# Where bits are chosen: of the denoisers' weights. The rest is in 8 bits, as in every preset.
MIXED_BITS = _by_steps(MixedBits())

# What the worst step of each denoiser is held to, in dB against fp32, where nothing else is asked:
# 1 or 2 dB above what validation asks of any run, since a search judges by three. A uniform preset
# that misses it gets exceptions: see `python -m quantization sensitivity`.
TARGETS = {
    "fp16": 50.0,
    "int8": 32.0,
    "int8-dynamic": 32.0,
    "int8-weights": 36.0,
    "int4-weights": 22.0,
}
