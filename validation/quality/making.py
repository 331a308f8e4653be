"""Who makes the pictures of a series that are missing: this process, one by one, or a Ray cluster.

A picture is made alone in its batch from its own seed, so that it is the same whoever makes it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from runtimes.bundle.manifest import DENOISERS
from runtimes.engines.base import Tensors
from runtimes.pipeline import Pipeline, Result, load_tokenizers
from runtimes.spread import Spread
from validation.parity.graphs import graphs_for
from validation.quality.folder import make_folder
from validation.quality.series import Album, Made, Picture, Series

OnPicture = Callable[[str, int, int], None]  # what, pictures there, pictures in all


@dataclass(frozen=True)
class Piece:
    """One picture of one series: picture `index` of the album that is number `album` of a run."""

    album: int
    index: int


def _ignore(what: str, done: int, total: int) -> None:
    pass


def pictures_of(album: Album, on_picture: OnPicture = _ignore) -> list[Picture]:
    """The album's pictures: those that are there, and the rest, made now in this process.

    UsageError when a picture there is another one's; it stays as it is.
    """
    series, count = album.series, len(album.series.prompts)
    identity = series.identity()
    kept = [album.kept(index, identity) for index in range(count)]
    if None not in kept:
        return [picture for picture in kept if picture is not None]
    make_folder(album.folder)
    pictures = []
    with open_pipeline(series) as pipeline:
        for index, there in enumerate(kept):
            pictures.append(there or album.keep(index, make(pipeline, series, index), identity))
            on_picture(album.folder.name, index + 1, count)
    return pictures


def fill(albums: Sequence[Album], spread: Spread, on_picture: OnPicture = _ignore) -> int:
    """Make what is missing of the albums, or of a shard's part of them; returns how many those are.

    Each is on disk as soon as it is made. UsageError when a picture there is another one's.
    """
    identities = [album.series.identity() for album in albums]
    missing = [
        piece
        for piece in spread.part_of(pieces_of(albums))
        if albums[piece.album].kept(piece.index, identities[piece.album]) is None
    ]
    for number in sorted({piece.album for piece in missing}):
        make_folder(albums[number].folder)
    for done, (piece, made) in enumerate(_made(albums, missing, spread), 1):
        albums[piece.album].keep(piece.index, made, identities[piece.album])
        on_picture("pictures", done, len(missing))
    return len(missing)


def pieces_of(albums: Sequence[Album]) -> list[Piece]:
    """All pictures, album by album: the order that shards count in."""
    return [
        Piece(number, index)
        for number, album in enumerate(albums)
        for index in range(len(album.series.prompts))
    ]


def _made(
    albums: Sequence[Album], pieces: Sequence[Piece], spread: Spread
) -> Iterator[tuple[Piece, Made]]:
    for number, group in groupby(pieces, key=lambda piece: piece.album):
        series = albums[number].series
        with open_pipeline(series) as pipeline:
            for piece in group:
                yield piece, make(pipeline, series, piece.index)


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
