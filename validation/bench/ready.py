"""What a contender gives once it is prepared on a case."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from runtimes.engines.base import Tensors
from validation.bench.cases import Case


@dataclass(frozen=True)
class Ready:
    """`run` runs it once; `precision`, known after a run, is what its heavy operations compute in.

    `flops` are those of the form it runs; `notes` what else an engine says it does.
    """

    run: Callable[[], Tensors]
    precision: Callable[[], str]
    flops: int
    notes: Callable[[], tuple[str, ...]] = tuple


Prepare = Callable[[Case], contextlib.AbstractContextManager[Ready]]
