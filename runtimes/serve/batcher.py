"""One thread that makes the pictures, batch after batch, for any number of tickets."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import RunError, UsageError, one_line, printable
from runtimes.progress import share_done
from runtimes.serve.refusal import Refusal, leaving, not_made
from runtimes.serve.schema import Order
from runtimes.serve.waiting import Failed, Finished, Picture, Preview, Queued, Ticket, Waiting
from runtimes.serve.waiting import Progress as Progressed

UNMEASURED = 5  # seconds after which to ask again, before the first picture is made
_LONGEST = 3_600
_WEIGHT = 0.3  # of the newest batch in the seconds that a picture takes


class Abandoned(Exception):
    """Nobody waits for this batch any more."""


@dataclass(frozen=True)
class Counts:
    """What a batcher tells those who measure: called from the worker's thread.

    For each batch its model, pictures and seconds; for each ticket that failed why, and its id.
    """

    batch: Callable[[str, int, float], None] = lambda model, pictures, seconds: None
    failed: Callable[[BaseException, str], None] = lambda error, request: None


class Batcher:
    """Lets tickets in while there is room for `capacity` pictures, and makes them in order.

    `most(order)` pictures are made at a time; `clock` counts seconds.
    """

    def __init__(
        self,
        *,
        window: float,
        capacity: int,
        most: Callable[[Order], int],
        counts: Counts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting, self._capacity = Waiting(window, most), capacity
        self._counts, self._clock = counts, clock
        self._changed = threading.Condition()
        self._running: Sequence[Picture] = ()
        self._open, self._stopped = True, False
        self._seconds: float | None = None  # that a picture took of late

    def submit(self, ticket: Ticket) -> None:
        """Let a ticket in; Refusal 429 where there is no room, 503 where the server is leaving."""
        with self._changed:
            if not self._open:
                raise leaving()
            count = len(ticket.order.seeds)
            if len(self._waiting.pictures) + count > self._capacity:
                text = f"{len(self._waiting.pictures)} pictures are waiting; ask again later"
                again = self._again(count)
                raise Refusal(429, text, code="queue_full", retry_after=again)
            ticket.tell(Queued(len(self._waiting.pictures) + len(self._running)))
            self._waiting.add(ticket, self._clock())
            self._changed.notify_all()

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for a ticket any more: it makes room, and its batch ends if it is alone."""
        with self._changed:
            ticket.gone = True
            self._waiting.remove([ticket])
            self._changed.notify_all()

    def leave(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._open = False
            self._waiting.window = 0  # nobody else will come
            self._changed.notify_all()

    def refuse_rest(self) -> None:
        """Refuse whatever is not made yet, and end the worker's thread."""
        with self._changed:
            self._open, self._stopped = False, True
            rest = {*self._waiting.tickets(), *(picture.ticket for picture in self._running)}
            self._waiting.remove(rest)
            for ticket in rest:
                ticket.gone = True
            self._changed.notify_all()
        for ticket in rest:
            ticket.tell(Failed(leaving()))

    @property
    def load(self) -> tuple[int, int]:
        """Pictures that wait, and pictures that are being made."""
        with self._changed:
            return len(self._waiting.pictures), len(self._running)

    def work(self) -> None:
        """Make batches until `refuse_rest`; the one thread's whole life."""
        while self.work_once():
            pass

    def work_once(self) -> bool:
        """Wait for a batch and make it; False when there is nothing more to do."""
        batch = self._next()
        if not batch:
            return False
        try:
            self._make(batch)
        finally:
            with self._changed:
                self._running = ()
                self._changed.notify_all()
        return True

    def _next(self) -> list[Picture]:
        with self._changed:
            while not self._stopped:
                now = self._clock()
                if batch := self._take(now):
                    self._running = batch
                    self._tell_places()
                    return batch
                self._changed.wait(self._waiting.due_in(now))
            return []

    def _take(self, now: float) -> list[Picture]:
        try:
            return self._waiting.take(now)
        except Exception as error:  # of how many fit: the worker has to outlive it
            self._fail(self._waiting.pictures[0].ticket, error)
            return []

    def _tell_places(self) -> None:
        for ticket, before in self._waiting.tickets().items():
            if not any(picture.ticket is ticket for picture in self._running):
                ticket.tell(Queued(before + len(self._running)))

    def _make(self, batch: Sequence[Picture]) -> None:
        """Make a batch; what fails in company is tried alone, so that it fails alone."""
        started, order = self._clock(), batch[0].ticket.order
        watch = _Watch(batch)
        try:
            made = order.model.make(
                batch, order.options, watch.step, watch.shown(), watch.preview_every
            )
        except Abandoned:
            return
        except Exception as error:
            tickets = dict.fromkeys(picture.ticket for picture in batch)
            if len(tickets) == 1:
                self._fail(next(iter(tickets)), error)
            for ticket in tickets if len(tickets) > 1 else ():
                self._make([picture for picture in batch if picture.ticket is ticket])
            return
        self._measure(order.model.name, len(batch), self._clock() - started)
        for picture, result in zip(batch, made, strict=True):
            picture.ticket.left -= 1
            picture.ticket.tell(Finished(picture.index, result))

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        with self._changed:
            self._waiting.remove([ticket])
        self._counts.failed(error, ticket.id)
        ticket.tell(Failed(refusal_of(error)))

    def _measure(self, model: str, pictures: int, seconds: float) -> None:
        each = seconds / pictures
        before = each if self._seconds is None else self._seconds
        self._seconds = (1 - _WEIGHT) * before + _WEIGHT * each
        self._counts.batch(model, pictures, seconds)

    def _again(self, count: int) -> int:
        """Seconds until there may be room for so many pictures more."""
        if self._seconds is None:
            return UNMEASURED
        over = len(self._waiting.pictures) + count - self._capacity
        return min(max(math.ceil(self._seconds * (len(self._running) + over)), 1), _LONGEST)


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error of a run."""
    if isinstance(error, UsageError):  # everything else was checked before it waited
        text = "the pictures need more memory than is free: ask for a smaller size, or later"
        return Refusal(503, text, code="not_enough_memory", retry_after=60)
    return not_made()


def in_the_log(error: BaseException) -> str:
    """One line for who runs the server."""
    known = isinstance(error, RunError | UsageError)
    return printable(one_line(error) if known else f"{type(error).__name__}: {one_line(error)}")


class _Watch:
    """What the tickets of a batch hear while it is made."""

    def __init__(self, batch: Sequence[Picture]) -> None:
        self._batch = batch
        self._tickets = {picture.ticket: 0 for picture in batch}
        for picture in batch:
            self._tickets[picture.ticket] += 1
        self._sent = dict.fromkeys(batch, 0)

    def step(self, stage: str, done: int, of: int) -> None:
        """As `on_step` of a pipeline; Abandoned where everybody has gone."""
        if all(ticket.gone for ticket in self._tickets):
            raise Abandoned
        share = share_done(stage, done, of)
        if share is None:
            return
        for ticket, count in self._tickets.items():
            whole = (ticket.done + share * count) / len(ticket.order.seeds)
            ticket.tell(Progressed(stage, done, of, whole))

    @property
    def preview_every(self) -> int:
        """Steps of Stage C between two previews, so that everybody gets as many as asked for."""
        order = self._batch[0].ticket.order
        most = max(ticket.order.partial_images for ticket in self._tickets)
        return max(len(order.plan.stage_c.rows) // (most + 1), 1)

    def shown(self) -> Callable[[int, int, NDArray[np.uint8]], None] | None:
        """As `on_preview` of a pipeline; None where nobody wants any, or none can be made."""
        wanted = any(ticket.order.partial_images for ticket in self._tickets)
        kind = self._batch[0].ticket.order.model.preview_kind
        return self._show if wanted and kind is not None else None

    def _show(self, step: int, total: int, pixels: NDArray[np.uint8]) -> None:
        """Previews are spread evenly over the steps, the last of which gives the picture."""
        # Not strict: a batch of fixed size may have spare pictures at its end.
        for picture, shown in zip(self._batch, pixels, strict=False):
            asked, sent = picture.ticket.order.partial_images, self._sent[picture]
            if sent < asked and step * (asked + 1) >= (sent + 1) * total:
                self._sent[picture] += 1
                picture.ticket.tell(Preview(picture.index, sent, shown))
