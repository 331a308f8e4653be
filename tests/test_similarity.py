"""PSNR and SSIM of pictures, against scikit-image's."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from runtimes.decibels import EXACT_DB
from runtimes.similarity import psnr_db, ssim
from runtimes.tolerances import SSIM


def pairs():
    """Pictures of several kinds beside spoilt ones of odd sizes: noise, shapes, flat colours."""
    random = np.random.RandomState(0)
    noise = random.randint(0, 256, (41, 67, 3)).astype(np.uint8)
    shapes = np.full((64, 48, 3), 230, np.uint8)
    shapes[10:40, 8:30] = (200, 30, 40)
    dim = np.clip(shapes * 0.7 + random.normal(0, 9, shapes.shape), 0, 255).astype(np.uint8)
    flat = np.full((11, 11, 3), 7, np.uint8)
    return {
        "noise beside other noise": (noise, random.randint(0, 256, noise.shape).astype(np.uint8)),
        "a picture beside its negative": (noise, 255 - noise),
        "shapes, darker and noisy": (shapes, dim),
        "one window, flat": (flat, flat + 20),
        "equal": (dim, dim),
    }


@pytest.mark.parametrize("name", list(pairs()))
def test_as_scikit_image_has_them(name):
    actual, expected = pairs()[name]
    similarity = structural_similarity(
        expected,
        actual,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert abs(ssim(actual, expected) - similarity) < SSIM
    if name == "equal":
        assert psnr_db(actual, expected, peak=255) == EXACT_DB
    else:
        wanted = peak_signal_noise_ratio(expected, actual, data_range=255)
        assert psnr_db(actual, expected, peak=255) == pytest.approx(wanted)


def test_a_picture_below_the_window_has_no_similarity():
    picture = np.zeros((10, 64, 3), np.uint8)
    assert ssim(picture, picture) is None
