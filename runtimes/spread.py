"""Over which processes the pictures of a run are spread: options, and what they mean together."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from runtimes.shards import Shard, shard

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Which part of a run's pictures is made here (None: all of them)."""

    shard: Shard | None = None

    def part_of(self, items: Sequence[T]) -> list[T]:
        """What is made here of all items."""
        return list(items) if self.shard is None else self.shard.part_of(items)


def add_spread_options(command_line: argparse.ArgumentParser) -> None:
    """`--shard`."""
    command_line.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="make part I of N of the pictures only, as one of N processes that may run at the "
        "same time on one folder, such as the tasks of a Slurm array",
    )


def spread_of(args: argparse.Namespace) -> Spread:
    """What `add_spread_options` parsed."""
    return Spread(args.shard)
