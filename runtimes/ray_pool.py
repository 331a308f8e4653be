"""Workers on a Ray cluster: each opens what it needs once, and makes one item after another.

An actor pool of Ray Data: results come back as they are made, in any order. An item whose worker
dies is made by another one. Ray is imported when a pool is opened.
"""

import inspect
import logging
import os
import pickle
import secrets
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from runtimes.errors import RunError, UsageError, one_line
from runtimes.ray_cluster import OWN, Cluster

_RETRIES = 3  # workers that may die of one item before the run fails: an item could kill them all
_BLOCKS, _BLOCK = 2_000, 16  # blocks from which on one has several items, and how many at most
_OBJECTS = 256 << 20  # bytes of an own cluster's object store: pictures on their way
T = TypeVar("T")
R = TypeVar("R")
Opener = Callable[[], Callable[[T], R]]


def spread(opener: Opener[T, R], items: Sequence[T], cluster: Cluster) -> Iterator[tuple[T, R]]:
    """Each item and what a worker made of it, as they are made, in any order.

    `opener` is called once in every worker, and what it gives with one item after another; both
    are pickled, as the results are. UsageError and RunError are raised here as they were there;
    `check_cluster` comes before.
    """
    if not items:
        return
    with _connected(cluster, len(items)) as workers:
        for index, outcome in _outcomes(opener, items, cluster, workers):
            if isinstance(outcome, UsageError | RunError):
                raise outcome
            yield items[index], outcome


@contextmanager
def _connected(cluster: Cluster, items: int) -> Iterator[int | None]:
    """Be connected to the cluster; gives how many workers there are to be, None for any number."""
    _settle_environment(cluster.address)
    import ray

    workers = cluster.workers
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _own_signals(), _without_stderr():
        try:
            if cluster.address == OWN:
                workers = workers or max(len(_cores()) // cluster.cpus, 1)
                room: dict[str, Any] = {
                    "num_cpus": workers * cluster.cpus,
                    "object_store_memory": _OBJECTS,
                }
                ray.init("local", include_dashboard=False, **room, **quiet)
            else:
                ray.init(cluster.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise RunError(f"--ray {cluster.address}: {one_line(error)[:300]}") from error
    try:
        _check_room(cluster, ray.cluster_resources())
        yield workers if workers is None else min(workers, items)
    finally:
        ray.shutdown()


def _settle_environment(address: str) -> None:
    """What Ray reads of the environment, where nothing else is said there."""
    said = {"RAY_USAGE_STATS_ENABLED": "0"}
    said["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # or its core prints among our lines
    # Of a worker that dies it tells on stdout, where --json's answer is to be, whatever is said to
    # `ray.init`: lines that match are left out. Ray reads this when it is imported.
    said["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."
    if address == OWN and "RAY_AUTH_MODE" not in os.environ:
        # Ray listens on every interface, and runs what it is sent: nobody else knows the token.
        said |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in said.items():
        os.environ.setdefault(name, value)


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and so would not let this process end by it as it did."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's core says there, past Python, that it read the level of its log; errors are raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_room(cluster: Cluster, there: dict[str, float]) -> None:
    """UsageError where the cluster can never hold the workers that are asked for."""
    workers = cluster.workers or 1
    for what, each in (("CPU", cluster.cpus), ("GPU", cluster.gpus)):
        have = there.get(what, 0.0)
        if workers * each > have:
            raise UsageError(
                f"--ray: the cluster has {have:g} {what}, {workers * each} are needed ({workers} "
                f"x {each}); give fewer --workers, or leave it out for what there is"
            )


def _outcomes(
    opener: Opener[T, R], items: Sequence[T], cluster: Cluster, workers: int | None
) -> Iterator[tuple[int, Any]]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items)]
    pieces = ray.data.from_items(rows, override_num_blocks=blocks_of(len(rows)))
    pool = ActorPoolStrategy(size=workers) if workers else ActorPoolStrategy(min_size=1)
    more: dict[str, Any] = {}
    if "ray_remote_args_fn" in inspect.signature(pieces.map_batches).parameters:  # until Ray 2.64
        more = {"ray_remote_args_fn": _retries}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will go
        results = pieces.map_batches(
            Worker,
            batch_size=1,
            batch_format="numpy",
            compute=pool,
            fn_constructor_args=(opener,),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            **more,
        )
    try:
        for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
            for index, outcome in zip(batch["index"], batch["outcome"], strict=True):
                yield int(index), pickle.loads(outcome)
    except ray.exceptions.RayError as error:
        said = one_line(error)[:300]
        raise RunError(
            f"Ray gave up: {said}; what was made is kept, run it again for the rest"
        ) from error


def blocks_of(items: int) -> int:
    """Into how many blocks items are put: the results of one come when all of it is made.

    One item each for as long as the cost of a block, some ten milliseconds, is none.
    """
    each = min(-(-items // _BLOCKS), _BLOCK)
    return -(-items // each)


def _retries() -> dict[str, Any]:
    return {"max_task_retries": _RETRIES}


class Worker:
    """One process of the pool."""

    def __init__(self, opener: Callable[[], Callable[[Any], Any]]) -> None:
        self._opener = opener
        self._make: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The outcome of a batch of one item, pickled: a result, or an error of ours."""
        outcome = self._outcome(pickle.loads(batch["item"][0]))
        return {"index": batch["index"], "outcome": [pickle.dumps(outcome)]}

    def _outcome(self, item: Any) -> Any:
        try:
            # Here and not when the actor starts: its errors would be Ray's, and tried again.
            if self._make is None:
                self._make = self._opener()
            return self._make(item)
        except (UsageError, RunError) as error:
            return error
        except Exception as error:  # whatever a library raises: its class may not be known there
            return RunError(f"a worker failed: {type(error).__name__}: {one_line(error)[:300]}")
