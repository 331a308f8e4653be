"""How far two arrays are apart: absolute, relative, and in decibels."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.decibels import decibels

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference, relative L2 error, and the same as SQNR in dB."""

    max_abs: float
    relative: float

    @property
    def sqnr_db(self) -> float:
        return decibels(self.relative)


def difference(actual: Array, expected: Array) -> Difference:
    """Compare in fp64. A NaN anywhere makes the error infinite."""
    delta = actual.astype(np.float64) - expected.astype(np.float64)
    if not np.isfinite(delta).all():
        return Difference(math.inf, math.inf)
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(delta))
    # Nothing is relative to an expected output of zeros only: equal or infinitely far off.
    relative = error / scale if scale > 0 else (0.0 if error == 0 else math.inf)
    return Difference(float(np.abs(delta).max(initial=0)), relative)
