"""How far the rounding of one product moves its result, from powers and not from a run.

Errors of rounding are white: the noise power of a product is the sum over its inputs of their power
and the power of the weights' errors, and of the inputs' errors and the power of the weights.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantization.integers import KEPT_BLOCK, block_of, blocks_of
from quantization.onnx_weights import better
from quantization.powers import Powers
from quantization.recipes import Int8, IntegerWeights
from quantization.roles import Use
from quantization.trial import AnyRecipe, Noise

Activations = Literal["fp32", "blocks", "calibrated", "measured"]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Form:
    """How a weight is stored (`block` 0: one scale per output) and what its inputs are rounded to:

    not at all, to 8 bits by blocks of inputs, or by their range, calibrated or of each step.
    """

    bits: int
    block: int
    activations: Activations


def form_of(recipe: AnyRecipe, use: Use, inputs: int, *, kept: bool) -> Form:
    """What the quantisers make of a weight with so many inputs, as such or as an exception."""
    if use.kind != "MatMul":
        return Form(8, 0, "fp32")
    if isinstance(recipe, IntegerWeights):
        stored = better(recipe) if kept else recipe
        rounds: Activations = "blocks" if stored.activation_bits == 8 else "fp32"
        return Form(stored.bits, block_of(inputs, stored.group, stored.bits), rounds)
    if kept:
        return Form(8, block_of(inputs, KEPT_BLOCK, 8), "blocks")
    return Form(8, 0, "calibrated" if isinstance(recipe, Int8) else "measured")


def local_noise(
    weight: Floats, form: Form, powers: Powers, ends: tuple[float, float] | None = None
) -> Noise:
    """The mean square error of a product by a weight (K,N) at each step of `powers`: (S,).

    `ends` are the calibrated least and largest input.
    """
    size = np.square(weight).mean(axis=1)
    error = np.square(rounded(weight, form) - weight).mean(axis=1)
    noise = powers.inputs.astype(np.float64) @ error
    if form.activations == "blocks":
        step = np.sqrt(powers.peaks[form.block].astype(np.float64)) / 127
        noise += np.repeat(step**2 / 12, form.block, axis=1)[:, : len(size)] @ size
    elif form.activations != "fp32":
        low, high = (powers.low, powers.high) if form.activations == "measured" else _known(ends)
        step = (np.maximum(high, 0) - np.minimum(low, 0)) / 255
        noise += step**2 / 12 * size.sum()
    return np.asarray(noise, np.float64)


def rounded(weight: Floats, form: Form) -> NDArray[np.float32]:
    """A weight (K,N) as its integers give it back."""
    inputs = len(weight)
    integers, scale = blocks_of(np.asarray(weight, np.float32), form.bits, form.block or inputs)
    wide = (integers * scale[..., None]).reshape(len(integers), -1)
    return np.ascontiguousarray(wide[:, :inputs].T)


def _known(ends: tuple[float, float] | None) -> tuple[float, float]:
    assert ends is not None  # every weight that is quantised so was calibrated
    return ends
