"""Over which processes the pictures of a run are spread: options, and what they mean together."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from runtimes.arguments import Drawn, positive
from runtimes.errors import UsageError
from runtimes.ray_cluster import EXTRA, OWN, Cluster, check_cluster, ray_address
from runtimes.shards import Shard, shard

T = TypeVar("T")
# A graph's sums depend on how many threads share them, and so would a picture on who makes it.
THREADS = 1


@dataclass(frozen=True)
class Spread:
    """Which part of a run's pictures is made, None for all; on which cluster, None for here."""

    shard: Shard | None = None
    cluster: Cluster | None = None

    def part_of(self, items: Sequence[T]) -> list[T]:
        """What is made here of all items."""
        return list(items) if self.shard is None else self.shard.part_of(items)


def add_spread_options(command_line: argparse.ArgumentParser) -> None:
    """`--shard`, `--ray` and `--workers`."""
    add = command_line.add_argument
    add(
        "--shard",
        type=shard,
        metavar="I/N",
        help="make part I of N of the pictures only, as one of N processes that may run at the "
        "same time on one folder, such as the tasks of a Slurm array",
    )
    add(
        "--ray",
        nargs="?",
        const=OWN,
        type=ray_address,
        metavar="ADDRESS",
        help="make the pictures on a Ray cluster, HOST:PORT of its head or 'auto' (without an "
        f"address: on one of this machine, while the run lasts); --threads is {THREADS} unless it "
        f"is given, so that pictures are the same for any number of workers. Extra '{EXTRA}'",
    )
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="with --ray: processes that make pictures, each with the bundle open, on --threads "
        "CPUs, or a GPU with --device cuda (default: as many as there is room for)",
    )


def spread_of(args: argparse.Namespace) -> Spread:
    """What `add_spread_options` parsed; UsageError for what does not go together."""
    if args.shard is not None and isinstance(args.seed, Drawn):
        raise UsageError("--seed random: each shard would draw its own; give all the same number")
    if args.ray is None:
        if args.workers is not None:
            raise UsageError("--workers is for --ray")
        return Spread(args.shard)
    if args.device not in ("cpu", "cuda"):
        raise UsageError(
            f"--ray with --device {args.device}: workers run on cpu, or on cuda with the GPU that "
            "Ray gives to each"
        )
    gpus = int(args.device == "cuda")
    cluster = Cluster(args.ray, args.workers, args.threads or THREADS, gpus)
    check_cluster(cluster)
    return Spread(args.shard, cluster)


def settle_threads(args: argparse.Namespace, backend: str) -> None:
    """Write the threads of a run on Ray into `args.threads` where none are given."""
    takes_them = args.device == "cpu" and backend != "coreml"
    if args.ray is not None and args.threads is None and takes_them:
        args.threads = THREADS
