"""The demo's own measures: what the judge reads in pictures, how far they are from drawings.

The judge is a small network that ships with the demo checkpoint, so that no download is needed.
Its Frechet distance is not FID: features, pictures and scale are its own.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from validation.demo.drawing import draw
from validation.demo.judge import Judge, Readings, shares, tally
from validation.demo.scenes import Scene, held_out_scenes
from validation.quality import frechet
from validation.quality.bootstrap import Interval, percentile, resamples
from validation.quality.metric import Metric

ACCURACY = "judge: {}"
MAIN = ACCURACY.format("pair")  # the share of named colour + shape pairs found
FRECHET = "Frechet distance, judge"
DRAWINGS, DRAWINGS_SEED = 1000, 1
FLOOR_SEED = 2
FRECHET_ROUNDS = 400  # half a second for 200 pictures; an interval needs no more


@functools.cache
def judge() -> Judge:
    """The shipped judge, loaded once."""
    return Judge()


def accuracy(readings: Readings, scenes: Sequence[Scene]) -> list[Metric]:
    """Share right of what the prompts name, per attribute, resampling prompts."""
    counts = tally(readings, scenes)
    accuracies = shares(counts.sum(axis=0))
    replicates = _resampled_shares(counts)
    return [
        Metric(
            ACCURACY.format(name),
            100 * float(value),
            *_spread(100 * replicates[name], len(scenes)),
            "%",
            f"{len(scenes)} prompts",
        )
        for name, value in accuracies.items()
    ]


def accuracy_change(first: Readings, second: Readings, scenes: Sequence[Scene]) -> Metric:
    """Share of pairs found in the second pictures less that in the first, prompt by prompt."""
    before, after = tally(first, scenes), tally(second, scenes)
    replicates = _resampled_shares(after)["pair"] - _resampled_shares(before)["pair"]
    value = shares(after.sum(axis=0))["pair"] - shares(before.sum(axis=0))["pair"]
    name = f"{MAIN}, change"
    note = f"{len(scenes)} prompts, percentage points"
    return Metric(name, 100 * float(value), *_spread(100 * replicates, len(scenes)), "%", note)


def frechet_distance(
    features: NDArray[np.float32], reference: NDArray[np.float32], what: str
) -> Metric:
    """Distance of features (N,D) from a reference's, resampling pictures.

    A resample holds fewer different pictures, which alone moves the distance up, far past the
    value at some tens of pictures: the interval is that of the resamples, moved back by what
    their mean is off.
    """
    if min(len(features), len(reference)) < 2:
        return Metric(FRECHET, None, note="needs 2 pictures or more on either side")
    target = frechet.fit(reference)
    value = frechet.distance(frechet.fit(features), target)
    chosen = resamples(len(features), FRECHET_ROUNDS)
    replicates = np.array(
        [frechet.distance(frechet.fit(features[rows]), target) for rows in chosen]
    )
    low, high = percentile(replicates + (value - replicates.mean()))
    note = f"{len(features)} pictures, {what}; compare at equal counts only"
    return Metric(FRECHET, value, max(low, 0.0), high, "", note)


def drawings(count: int, seed: int) -> NDArray[np.uint8]:
    """Drawings (N,128,128,3) of held-out scenes of one or two things."""
    rng = np.random.default_rng(seed)
    return np.stack([draw(scene, rng) for scene in held_out_scenes(count, seed)])


@functools.cache
def drawn_features() -> NDArray[np.float32]:
    """The judge's features (DRAWINGS,128) of drawings: the reference without --images."""
    return judge()(drawings(DRAWINGS, DRAWINGS_SEED)).features


@functools.cache
def floor_of(count: int) -> float:
    """What `count` other drawings score against the reference: no model can be expected below."""
    features = judge()(drawings(count, FLOOR_SEED)).features
    return frechet.distance(frechet.fit(features), frechet.fit(drawn_features()))


def read(pictures: Iterable[NDArray[np.uint8]]) -> Readings:
    """What the judge sees in pictures (128,128,3)."""
    return judge()(np.stack(list(pictures)))


def _resampled_shares(counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    return shares(counts[resamples(len(counts))].sum(axis=1))


def _spread(replicates: NDArray[np.float64], count: int) -> Interval:
    return percentile(replicates) if count > 1 else (None, None)
