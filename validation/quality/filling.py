"""Who makes the pictures of a series that are missing: this process, a shard of many, or Ray."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from runtimes.ray_pool import spread as on_ray
from runtimes.spread import Spread
from validation.quality.folder import make_folder
from validation.quality.making import Opener, Piece, make, open_pipeline
from validation.quality.series import Album, Made, Picture, digest_of

OnPicture = Callable[[str, int, int], None]  # what, pictures there, pictures in all


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
    if spread.cluster is None:
        yield from _made_here(albums, pieces)
        return
    series = tuple(album.series for album in albums)
    opener = Opener(series, tuple(digest_of(one.bundle) for one in series))
    yield from on_ray(opener, pieces, spread.cluster)


def _made_here(albums: Sequence[Album], pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Made]]:
    for number, group in groupby(pieces, key=lambda piece: piece.album):
        series = albums[number].series
        with open_pipeline(series) as pipeline:
            for piece in group:
                yield piece, make(pipeline, series, piece.index)
