"""Noise sources. The default reproduces torch.randn with a CPU generator, in NumPy."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import RunError

Array = NDArray[np.float32]


class NoiseSource(Protocol):
    """Draws standard normal tensors, one after the other."""

    def draw(self, shape: tuple[int, ...]) -> Array: ...


class TorchNoise:
    """torch.randn(shape, generator=torch.Generator().manual_seed(seed)), draw after draw.

    MT19937 words; from 16 values on, Box-Muller over blocks of 16 in single precision, the last
    16 values drawn anew when the size is no multiple of 16; below 16, Box-Muller value by value
    in double precision, the spare value kept for the next such draw
    (ATen/native/cpu/DistributionTemplates.h, ATen/core/DistributionsHelper.h).
    """

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)
        self._spare: float | None = None

    def draw(self, shape: tuple[int, ...]) -> Array:
        size = int(np.prod(shape))
        values = self._blocks(size) if size >= 16 else self._singles(size)
        return values.reshape(shape)

    def _word(self, count: int) -> NDArray[np.uint32]:
        return self._words.randint(0, 1 << 32, size=count, dtype=np.uint32)

    # 24 bits: what fits a single-precision mantissa, so that every value is exact.
    def _uniform(self, count: int) -> NDArray[np.float64]:
        return (self._word(count) & 0xFFFFFF).astype(np.float64) * 2.0**-24

    def _blocks(self, size: int) -> Array:
        uniform = self._uniform(size)
        values = np.empty(size, dtype=np.float32)
        whole = size - size % 16
        values[:whole] = _box_muller(uniform[:whole])
        if whole < size:  # overwrites the end of the last whole block: torch does so, too
            values[-16:] = _box_muller(self._uniform(16))
        return values

    def _singles(self, size: int) -> Array:
        values = np.empty(size, dtype=np.float32)
        for i in range(size):
            if self._spare is not None:
                values[i], self._spare = self._spare, None
                continue
            # Two words make 64 bits, of which a double takes the lower 53.
            high1, low1, high2, low2 = (int(word) for word in self._word(4))
            first = ((high1 << 32 | low1) & ((1 << 53) - 1)) * 2.0**-53
            second = ((high2 << 32 | low2) & ((1 << 53) - 1)) * 2.0**-53
            radius, angle = np.sqrt(-2 * np.log1p(-second)), 2 * np.pi * first
            values[i], self._spare = radius * np.cos(angle), radius * np.sin(angle)
        return values


def _box_muller(uniform: NDArray[np.float64]) -> Array:
    # In each 16 values the first 8 are radii, the last 8 angles: torch's layout for vector units.
    blocks = uniform.reshape(-1, 2, 8)
    radius = np.sqrt(-2 * np.log(1 - blocks[:, 0]))  # 1 - u: u may be 0, whose logarithm is not
    angle = 2 * np.pi * blocks[:, 1]
    pair = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pair.reshape(-1).astype(np.float32)


class PerImageNoise:
    """One torch-compatible generator per picture: each draws its own slice of the batch."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self._sources = [TorchNoise(seed) for seed in seeds]

    def draw(self, shape: tuple[int, ...]) -> Array:
        if shape[0] != len(self._sources):
            raise RunError(f"{len(self._sources)} seeds cannot draw for a batch of {shape[0]}")
        return np.concatenate([source.draw((1, *shape[1:])) for source in self._sources])


class RecordedNoise:
    """Replays recorded tensors, in order, and refuses a draw of another shape."""

    def __init__(self, tensors: Iterable[Array]) -> None:
        self._tensors: Iterator[Array] = iter(tensors)

    def draw(self, shape: tuple[int, ...]) -> Array:
        tensor = next(self._tensors, None)
        if tensor is None:
            raise RunError("the recorded noise is used up: it was recorded for fewer steps")
        if tensor.shape != shape:
            raise RunError(f"recorded noise of shape {tensor.shape} cannot serve a draw of {shape}")
        return tensor
