"""Noise equals torch.randn with a CPU generator, draw after draw."""

import numpy as np
import pytest
import torch

from runtimes.errors import RunError
from runtimes.noise import PerImageNoise, RecordedNoise, TorchNoise
from runtimes.tolerances import NOISE


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1, 2**40 + 3])
def test_equals_torch_draw_after_draw(seed):
    generator, source = torch.Generator().manual_seed(seed), TorchNoise(seed)
    for size in (1, 15, 16, 17, 100, 9216, 262144, 3, 1, 31, 5):
        expected = torch.randn(size, generator=generator).numpy()
        assert np.abs(source.draw((size,)) - expected).max() < NOISE, size


def test_shapes_are_filled_in_order():
    expected = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(3)).numpy()
    assert np.abs(TorchNoise(3).draw((2, 4, 6, 5)) - expected).max() < NOISE


def test_one_seed_per_picture_draws_each_by_itself():
    batch = PerImageNoise([5, 6]).draw((2, 4, 8, 8))
    assert np.array_equal(batch[1:], TorchNoise(6).draw((1, 4, 8, 8)))


def test_recorded_noise_is_replayed_and_guarded():
    tensors = [np.ones((1, 2), np.float32), np.zeros((3,), np.float32)]
    source = RecordedNoise(tensors)
    assert source.draw((1, 2)) is tensors[0]
    with pytest.raises(RunError, match=r"shape \(3,\) cannot serve a draw of \(4,\)"):
        source.draw((4,))
    with pytest.raises(RunError, match="used up"):
        source.draw((3,))
