"""The other end of a connection: bodies that come slowly or too large, and clients that go away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtimes.serve.limits import Limits
from runtimes.serve.refusal import Refusal

T = TypeVar("T")
# Of a body that is too large so much is read and dropped: a client that is still writing would not
# see why its connection was closed.
_DROPPED = 64_000_000


class ClientGone(Exception):
    """Whoever asked has closed the connection, or takes nothing any more."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body; Refusal 413 for one that is too large, 408 for one that is too slow."""
    try:
        async with asyncio.timeout(limits.timeout):
            return await _body(request, limits.body)
    except TimeoutError:
        text = f"the body did not come within {limits.timeout:g} s"
        raise Refusal(408, text, code="body_too_slow") from None
    except ClientDisconnect:
        raise ClientGone from None


async def _body(request: Request, most: int) -> bytes:
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
        elif size > _DROPPED:
            break
    if size > most:
        raise Refusal(413, f"the body is larger than {most:,} bytes", code="body_too_large")
    return b"".join(parts)


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives; ClientGone, and no more of it, where the client goes away before."""
    job, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientGone
        return job.result()
    finally:
        for task in (job, gone):
            task.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Events as they come. `ended` is called whatever ends it; `stalled` are the seconds after
    which a reader that takes nothing has gone."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], *, ended: Callable[[], None], stalled: float
    ) -> None:
        # The second header keeps nginx from collecting events before it passes them on.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._ended, self._stalled = events, ended, stalled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send(send))
        finally:
            self._ended()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await self._within(send, {**start, "headers": self.raw_headers})
        async for part in self._events:
            await self._within(
                send, {"type": "http.response.body", "body": part, "more_body": True}
            )
        await self._within(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _within(self, send: Send, message: dict[str, object]) -> None:
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes with the result.
            async with asyncio.timeout(self._stalled):
                await send(message)
        except TimeoutError:
            raise ClientGone from None
