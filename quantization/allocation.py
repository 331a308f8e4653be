"""Which of its forms each weight gets, so that together they fit and do the least damage.

A multiple-choice knapsack, solved by dynamic programming over the bytes above the least.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The bytes above the least are counted in so many units at most, an option's rounded up: exact
# where they are fewer, and within a quarter of a percent of the budget for 300 weights.
UNITS = 1 << 16
ROUNDS = 12  # of turning to the steps that are worst
Noise = NDArray[np.float64]


@dataclass(frozen=True)
class Option:
    """A form of a weight: its name, all of its bytes, and the noise it makes at each step (S,)."""

    form: str
    bytes: int
    noise: Noise


def allocate(weights: Sequence[Sequence[Option]], budget: int) -> list[Option] | None:
    """An option for each weight, `budget` bytes at most, with the least noise at the worst step.

    For one step that is the optimum, up to `UNITS`. For several it is the best of the optima for
    sums over steps that weigh the worst ones more from round to round. None where the smallest
    options do not fit.
    """
    spare = budget - sum(min(option.bytes for option in options) for options in weights)
    if spare < 0:
        return None
    share = np.ones(len(weights[0][0].noise))
    best, least = None, np.inf
    for _ in range(ROUNDS):
        picked = _for_sum(weights, spare, share)
        noise = np.sum([option.noise for option in picked], axis=0)
        if noise.max() < least:
            best, least = picked, noise.max()
        if len(share) == 1 or noise.max() == 0:
            break
        share = share * noise / noise.max()
        share = share / share.sum()
    return best


def _for_sum(
    weights: Sequence[Sequence[Option]], spare: int, share: NDArray[np.float64]
) -> list[Option]:
    """The options with the least noise, summed over weights and, by their `share`, over steps."""
    unit, costs = _costs(weights, spare)
    room = spare // unit
    least = np.zeros(room + 1)  # by how many units may be spent on the weights so far
    chosen = np.zeros((len(weights), room + 1), np.uint8)
    for row, (options, own) in enumerate(zip(weights, costs, strict=True)):
        totals = np.full((len(options), room + 1), np.inf)
        for index, (option, cost) in enumerate(zip(options, own, strict=True)):
            if cost <= room:
                totals[index, cost:] = least[: room + 1 - cost] + option.noise @ share
        chosen[row] = totals.argmin(axis=0)
        least = totals.min(axis=0)
    picked = []
    for row in reversed(range(len(weights))):
        index = int(chosen[row, room])
        picked.append(weights[row][index])
        room -= costs[row][index]
    return picked[::-1]


def _costs(weights: Sequence[Sequence[Option]], spare: int) -> tuple[int, list[list[int]]]:
    """Bytes of a unit, and what each option costs above its weight's smallest in units."""
    above = []
    for options in weights:
        smallest = min(option.bytes for option in options)
        above.append([option.bytes - smallest for option in options])
    common = math.gcd(*(extra for own in above for extra in own)) or 1
    unit = common * max(1, -(-spare // (common * UNITS)))
    return unit, [[-(-extra // unit) for extra in own] for own in above]
