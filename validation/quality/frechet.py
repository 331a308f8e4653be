"""The Frechet distance between Gaussians fitted to two sets of features.

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2), Heusel et al. 2017, equation 6. With C = A^T A the last
trace is the sum of the singular values of A1 A2^T, which needs no square root of a matrix.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and a factor (K,D) of the covariance, K <= D: covariance = factor^T factor."""

    mean: Array
    factor: Array


def fit(features: NDArray[np.floating]) -> Gaussian:
    """The Gaussian of features (N,D), N of 2 or more; the covariance is divided by N - 1."""
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    centred: Array = (values - mean) / np.sqrt(len(values) - 1)
    return Gaussian(mean, np.asarray(np.linalg.qr(centred, mode="r")))


def distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Frechet (2-Wasserstein) distance, as FID reports it."""
    cross = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    spread = np.square(first.factor).sum() + np.square(second.factor).sum()
    return float(np.square(first.mean - second.mean).sum() + spread - 2 * cross)
