"""A graph's recorded feeds, and what is measured over them once for every plan of the graph."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtimes.engines.base import Tensors

# The least and the largest value of each input channel of a product, (C,) each, by its weight.
Extremes = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


class Calibrated(list[Tensors]):
    """Recorded feeds; `extremes`, by weight, once something has measured them.

    `on_feed` is called with how many feeds were run and how many there are.
    """

    def __init__(
        self,
        feeds: Sequence[Tensors] = (),
        on_feed: Callable[[int, int], None] = lambda done, total: None,
        extremes: Extremes | None = None,
    ) -> None:
        super().__init__(feeds)
        self._on_feed = on_feed
        self.extremes = extremes

    def told(self) -> Iterator[Tensors]:
        """The feeds one by one, each reported once it was run."""
        for done, feed in enumerate(self, 1):
            yield feed
            self._on_feed(done, len(self))


def calibrated(feeds: Sequence[Tensors]) -> Calibrated:
    """The same feeds, which remember what is measured over them if they did so before."""
    return feeds if isinstance(feeds, Calibrated) else Calibrated(feeds)
