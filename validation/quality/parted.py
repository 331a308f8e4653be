"""A run of `quality` or `sweep` that makes a shard's part of its pictures, and measures nothing."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from runtimes.progress import Progress
from runtimes.shards import Shard
from runtimes.spread import Spread
from validation.quality.filling import fill
from validation.quality.folder import Json, claimed
from validation.quality.parts import Part
from validation.quality.series import Album


def make_part(
    args: argparse.Namespace, identity: Json, albums: Sequence[Album], spread: Spread, shard: Shard
) -> None:
    """Make the shard's pictures in `args.output`, and say how many are there of all."""
    progress = Progress(quiet=args.quiet or args.json)
    with claimed(args.output, identity, Part(shard, digest_of_list(albums, args.output))):
        made = fill(albums, spread, progress.step)
    there = sum(album.count() for album in albums)
    count = sum(len(album.series.prompts) for album in albums)
    if args.json:
        print(json.dumps({"shard": str(shard), "made": made, "there": there, "pictures": count}))
    elif not args.quiet:
        print(f"shard {shard}: made {made}, {_state(there, count, args.output)}")


def _state(there: int, count: int, folder: Path) -> str:
    if not count:  # cells that have their figures are none of a shard's
        return f"all of {folder} is measured already"
    return (
        f"{there} of {count} pictures are in {folder}; when all shards have ended, run the same "
        "without --shard to measure them"
    )


def digest_of_list(albums: Sequence[Album], folder: Path) -> str:
    """SHA-256 of which pictures there are to make, and where in `folder`, in their order."""
    listed = [
        [
            album.folder.relative_to(folder).as_posix(),
            album.series.identity(),
            album.series.prompts,
        ]
        for album in albums
    ]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
