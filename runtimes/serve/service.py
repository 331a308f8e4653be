"""What the routes share: the models, the batcher, the bounds, and how far the server is."""

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runtimes.serve.batcher import Batcher, Counts, in_the_log
from runtimes.serve.limits import Limits, Queueing
from runtimes.serve.metrics import Metrics
from runtimes.serve.model import Model
from runtimes.serve.refusal import Refusal, leaving
from runtimes.serve.schema import Order


@dataclass
class Service:
    """One server. `keys` are those that are let in, everybody where there are none; with
    `loopback`, only requests to a name of this machine are answered."""

    limits: Limits
    queueing: Queueing
    keys: tuple[bytes, ...] = ()
    loopback: bool = True
    quiet: bool = False
    models: dict[str, Model] = field(default_factory=dict)
    leaving: bool = False

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.batcher.load)
        self.batcher = Batcher(
            window=self.queueing.window,
            capacity=self.queueing.capacity,
            most=_most,
            counts=Counts(self.metrics.batch, self._failed),
        )
        self._worker = threading.Thread(target=self.batcher.work, name="batcher", daemon=True)
        self._writing = threading.Lock()

    def open(self, models: Sequence[Model]) -> None:
        """Take requests for these models from now on."""
        self.models = {model.name: model for model in models}
        self._worker.start()

    def check_ready(self) -> Mapping[str, Model]:
        """The models; Refusal 503 while they are opened, and while the server is leaving."""
        if self.leaving:
            raise leaving()
        if not self.models:
            text = "the models are being loaded; ask again in a moment"
            raise Refusal(503, text, code="not_ready", retry_after=5)
        return self.models

    @property
    def working(self) -> bool:
        """Whether the thread that makes the pictures is there."""
        return self._worker.is_alive()

    def leave(self) -> None:
        """Take nothing new; what is there is still made."""
        self.leaving = True
        self.batcher.leave()

    def close(self, seconds: float) -> None:
        """Refuse what is left, and release the models once a batch under way has stopped.

        A batch stops at its next step; where that takes longer, it is still `working`.
        """
        self.leave()
        self.batcher.refuse_rest()
        if self._worker.ident is not None:
            self._worker.join(seconds)
        if not self._worker.is_alive():
            for model in self.models.values():
                model.close()

    def log(self, line: str) -> None:
        """A line on standard error; where that cannot be written, nothing."""
        if self.quiet:
            return
        self.say(line)

    def say(self, line: str) -> None:
        """The same, also where the server is to be quiet."""
        with self._writing:
            try:
                print(line, file=sys.stderr, flush=True)
            except (OSError, ValueError):  # a full disk or a closed stream stops no pictures
                return

    def internal(self, error: BaseException, where: str) -> None:
        """An error that a client is told nothing of."""
        self.say(f"error: {where}: {in_the_log(error)}")

    def _failed(self, error: BaseException, request: str) -> None:
        self.metrics.failure()
        self.internal(error, f"request {request}")


def _most(order: Order) -> int:
    return order.model.most(order.options)
