"""Tables of values for weights: k-means in one dimension, the same numbers at every run.

coremltools' own (scikit-learn's) takes minutes for tables of 256 values, and cannot be had without
writing a package: here the damage of a table is known before anything is written.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

ROUNDS = 300  # Lloyd's, of which each is a lookup of 2^bits numbers
CELLS = 16384
Floats = NDArray[np.floating]


def table_of(values: Floats, bits: int) -> tuple[Floats, NDArray[np.uint8]]:
    """A table of 2^bits values, in the type of `values`, and the index of each value in it.

    Lloyd's algorithm over the sorted values, from a table that is dense as the cube root of the
    values' density, which is best for many entries (Panter and Dite 1951).
    """
    flat = np.asarray(values, np.float32).ravel()
    unique = np.unique(flat)
    table: NDArray[np.float32] | NDArray[np.float64]
    if len(unique) <= 1 << bits:
        table = np.pad(unique, (0, (1 << bits) - len(unique)), mode="edge")
    else:
        ordered = np.sort(flat)
        table = _lloyd(ordered, _start(ordered, 1 << bits))
    stored = table.astype(values.dtype)
    return stored, _nearest(flat, stored.astype(np.float32))


def palettised(weight: Floats, bits: int, groups: int, axis: int) -> NDArray[np.float32]:
    """A weight as its tables give it back: one for each of `groups` parts of `axis`."""
    back = np.empty(weight.shape, np.float32)
    for part, own in zip(_parts(weight, groups, axis), _parts(back, groups, axis), strict=True):
        table, indices = table_of(part, bits)
        own[...] = table.astype(np.float32)[indices].reshape(part.shape)
    return back


def _parts(weight: Floats, groups: int, axis: int) -> Iterator[Floats]:
    """Views of the parts of a weight that have a table each."""
    yield from np.split(weight, groups, axis=axis)


def _start(ordered: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """By cells with as many values each: the integral of the cube root of their density."""
    cells = min(CELLS, len(ordered) - 1)
    edges = ordered[np.linspace(0, len(ordered) - 1, cells + 1).round().astype(int)]
    spread = np.concatenate([[0.0], np.cumsum(np.diff(edges.astype(np.float64)) ** (2 / 3))])
    places = (np.arange(size) + 0.5) / size * spread[-1]
    return np.interp(places, spread, edges)


def _lloyd(ordered: NDArray[np.float32], table: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    before = None
    for _ in range(ROUNDS):
        inner = np.searchsorted(ordered, (table[1:] + table[:-1]) / 2)
        bounds = np.concatenate([[0], inner, [len(ordered)]])
        if before is not None and (bounds == before).all():
            break
        counts = np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(counts, 1)
        table, before = np.sort(np.where(counts > 0, means, table)), bounds
    return table


def _nearest(flat: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Tables are sorted: the entry between whose neighbours' middles a value lies."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, flat).astype(np.uint8)
