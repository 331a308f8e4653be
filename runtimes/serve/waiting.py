"""Who waits, and which pictures are made next: plain data, without threads or clocks.

First come, first served, but for those of equal options, which are made with the first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtimes.serve.model import Made
from runtimes.serve.refusal import Refusal
from runtimes.serve.schema import Order


@dataclass(frozen=True)
class Queued:
    """So many pictures are made before the first of this ticket."""

    ahead: int


@dataclass(frozen=True)
class Progress:
    """Where the run is; `done` is the share, 0..1, of all that the ticket asked for."""

    stage: str
    step: int
    steps: int
    done: float


@dataclass(frozen=True)
class Preview:
    """Number `index` of the previews of a picture, (h,w,3) uint8."""

    picture: int
    index: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Finished:
    """Picture number `picture` of the ticket."""

    picture: int
    made: Made


@dataclass(frozen=True)
class Failed:
    """Nothing more comes of this ticket."""

    refusal: Refusal


News = Queued | Progress | Preview | Finished | Failed


@dataclass(eq=False)
class Ticket:
    """A request that was let in. `tell` is called from any thread, and has to return at once.

    `id`: what the log calls it. `left`: pictures that are not made yet. `gone`: nobody waits for
    them any more.
    """

    order: Order
    tell: Callable[[News], None]
    id: str = ""
    left: int = 0
    gone: bool = False

    def __post_init__(self) -> None:
        self.left = len(self.order.seeds)

    @property
    def done(self) -> int:
        """Pictures that are made."""
        return len(self.order.seeds) - self.left


@dataclass(frozen=True, eq=False)
class Picture:
    """Number `index` of a ticket's pictures, which has waited since `since`, in seconds."""

    ticket: Ticket
    index: int
    since: float

    @property
    def prompt(self) -> str:
        return self.ticket.order.prompt

    @property
    def negative(self) -> str:
        return self.ticket.order.negative

    @property
    def seed(self) -> int:
        return self.ticket.order.seeds[self.index]


@dataclass
class Waiting:
    """The pictures that wait, in the order they came.

    The oldest one starts a batch when `window` seconds have gone by since it came, or when the
    batch is full, which is of `most(order)` pictures.
    """

    window: float
    most: Callable[[Order], int]
    pictures: list[Picture] = field(default_factory=list)

    def add(self, ticket: Ticket, now: float) -> None:
        """A ticket comes last."""
        self.pictures += [Picture(ticket, i, now) for i in range(len(ticket.order.seeds))]

    def remove(self, tickets: Iterable[Ticket]) -> None:
        """Tickets wait no longer."""
        gone = set(tickets)
        self.pictures = [each for each in self.pictures if each.ticket not in gone]

    def due_in(self, now: float) -> float | None:
        """Seconds until the oldest picture has waited long enough; None where nothing waits."""
        return max(self.pictures[0].since + self.window - now, 0) if self.pictures else None

    def take(self, now: float) -> list[Picture]:
        """The pictures of the next batch, which wait no longer; [] where none is due."""
        if not self.pictures:
            return []
        order = self.pictures[0].ticket.order
        alike = [each for each in self.pictures if each.ticket.order.likeness == order.likeness]
        most = self.most(order)
        if len(alike) < most and self.due_in(now):
            return []
        batch = alike[:most]
        taken = set(batch)
        self.pictures = [each for each in self.pictures if each not in taken]
        return batch

    def tickets(self) -> dict[Ticket, int]:
        """Every ticket that waits, and how many pictures wait before its first."""
        first: dict[Ticket, int] = {}
        for place, picture in enumerate(self.pictures):
            first.setdefault(picture.ticket, place)
        return first
