"""How far two arrays are apart."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
EXACT_DB = 200.0  # reported for equal arrays, whose ratio is infinite


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference, relative L2 error, and the same as SQNR in dB."""

    max_abs: float
    relative: float

    @property
    def sqnr_db(self) -> float:
        return decibels(self.relative)


def decibels(relative: float) -> float:
    """A relative L2 error as SQNR in dB; an infinite one is -inf dB."""
    return EXACT_DB if relative == 0 else min(-20 * math.log10(relative), EXACT_DB)


def difference(found: Array, expected: Array) -> Difference:
    """Compare in fp64. A NaN anywhere makes the error infinite."""
    delta = found.astype(np.float64) - expected.astype(np.float64)
    if not np.isfinite(delta).all():
        return Difference(math.inf, math.inf)
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(delta))
    relative = error / scale if scale > 0 else (0.0 if error == 0 else math.inf)
    return Difference(float(np.abs(delta).max(initial=0)), relative)


def psnr_db(found: Array, expected: Array) -> float:
    """Peak signal-to-noise ratio of pictures in 0..1."""
    error = float(np.square(found.astype(np.float64) - expected.astype(np.float64)).mean())
    return EXACT_DB if error == 0 else min(-10 * math.log10(error), EXACT_DB)
