"""How close a picture is to another: PSNR, and the structural similarity of Wang et al. 2004."""

import numpy as np
from numpy.typing import NDArray

from runtimes.decibels import decibels

Array = NDArray[np.float64]
# "Image quality assessment: from error visibility to structural similarity", section III: a window
# of 11 x 11 with Gaussian weights of 1.5 pixels, and two constants that keep quotients finite.
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03


def psnr_db(actual: NDArray[np.generic], expected: NDArray[np.generic], peak: float) -> float:
    """PSNR in dB of pictures of any shape, over all values; `peak` is what white is."""
    error = actual.astype(np.float64) - expected.astype(np.float64)
    return decibels(float(np.sqrt(np.mean(error**2))) / peak)


def ssim(actual: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float | None:
    """Structural similarity of pictures (H,W,3) of 8 bits, 1 for equal ones; mean over the colours.

    Windows that reach over an edge are left out. None for a side below the window's 11 pixels.
    """
    if min(actual.shape[:2]) < _WINDOW:
        return None
    planes = np.moveaxis(np.stack([actual, expected]).astype(np.float64), -1, 1)  # (2,3,H,W)
    x, y = _blurred(planes)
    xx, yy = _blurred(planes**2) - np.stack([x**2, y**2])  # variances
    xy = _blurred(planes[0] * planes[1]) - x * y
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    luminance = (2 * x * y + c1) / (x**2 + y**2 + c1)
    structure = (2 * xy + c2) / (xx + yy + c2)
    return float(np.mean(luminance * structure))


def _blurred(planes: Array) -> Array:
    """Means of (...,H,W) under the window, where it lies inside: (...,H-10,W-10)."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    return _weighted(_weighted(planes, weights).swapaxes(-1, -2), weights).swapaxes(-1, -2)


def _weighted(planes: Array, weights: Array) -> Array:
    """Weighted means along the last axis."""
    inside = planes.shape[-1] - len(weights) + 1
    means = np.zeros((*planes.shape[:-1], inside))
    for start, weight in enumerate(weights):
        means += weight * planes[..., start : start + inside]
    return means
