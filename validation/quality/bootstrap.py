"""Intervals by resampling prompts: the percentile bootstrap (Efron and Tibshirani, 1993, ch. 13).

Every figure of a run is resampled with the same seed, so that two bundles' figures on the same
prompts can be compared pair by pair.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 1000
CONFIDENCE = 95.0  # percent
SEED = 0

Array = NDArray[np.float64]
Interval = tuple[float | None, float | None]


def resamples(count: int, rounds: int = ROUNDS, seed: int = SEED) -> NDArray[np.int64]:
    """Indices (rounds, count) into `count` prompts, drawn with replacement."""
    return np.random.default_rng(seed).integers(0, count, size=(rounds, count))


def percentile(replicates: Array) -> tuple[float, float]:
    """The central 95 % of a figure's values over the resamples."""
    low, high = np.percentile(replicates, [50 - CONFIDENCE / 2, 50 + CONFIDENCE / 2])
    return float(low), float(high)


def interval_of(values: Array, statistic: Callable[..., Any]) -> Interval:
    """Interval of `statistic(values, axis=...)`, such as np.median, of one value a prompt (N,)."""
    if len(values) < 2:
        return None, None
    return percentile(statistic(values[resamples(len(values))], axis=1))
