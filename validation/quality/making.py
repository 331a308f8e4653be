"""One picture of a series, made in this process, and what a worker elsewhere takes to make it.

A picture is made alone in its batch from its own seed, so that it is the same whoever makes it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from runtimes.bundle.manifest import DENOISERS
from runtimes.engines.base import Tensors
from runtimes.pipeline import Pipeline, Result, load_tokenizers
from runtimes.ray_batches import same_bundle
from validation.parity.graphs import graphs_for
from validation.quality.series import Made, Series


@dataclass(frozen=True)
class Piece:
    """One picture of one series: picture `index` of the series that is number `album` of a run."""

    album: int
    index: int


def open_pipeline(series: Series) -> Pipeline:
    """The series' bundle, ready to make its pictures."""
    bundle = series.bundle
    graphs, tokenizers = graphs_for(bundle, series.execution), load_tokenizers(bundle)
    return Pipeline(bundle.manifest, graphs, tokenizers, low_memory=series.low_memory)


def make(pipeline: Pipeline, series: Series, index: int) -> Made:
    """Picture `index` of the series."""
    last: Tensors = {}

    def keep(name: str, tensors: Tensors) -> None:
        graph = name.partition("/")[0]
        if graph in DENOISERS:
            last[graph] = tensors["latents"][0]

    options = dataclasses.replace(series.options, seed=series.seed + index)
    start = series.start(index)
    result = pipeline([series.prompts[index]], options=options, on_tensors=keep, start=start)
    # Without a step there are no latents after one: the picture's own are where Stage C ends.
    last.setdefault("stage_c", result.latents[0])
    placements = {name: str(used) for name, used in result.placements.items()}
    return Made(result.pictures[0], last, seconds_of(result), placements)


def seconds_of(result: Result) -> float:
    """Seconds in the graphs of a run and between them, without loading."""
    return sum(usage.seconds - usage.load_seconds for usage in result.usage.values())


@dataclass(frozen=True)
class Opener:
    """What a worker takes: all series of a run, and the digest of each one's bundle."""

    series: tuple[Series, ...]
    digests: tuple[str, ...]

    def __call__(self) -> Callable[[Piece], Made]:
        """What makes pieces, with one pipeline for each bundle, opened when it is first needed.

        It raises RunError for a bundle that is another one by now, or there.
        """
        pipelines: dict[str, Pipeline] = {}

        def of(piece: Piece) -> Made:
            series, digest = self.series[piece.album], self.digests[piece.album]
            if digest not in pipelines:
                bundle = same_bundle(series.bundle.folder, digest)
                pipelines[digest] = open_pipeline(dataclasses.replace(series, bundle=bundle))
            return make(pipelines[digest], series, piece.index)

        return of
