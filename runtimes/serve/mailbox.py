"""What a ticket's reader has not read yet: all pictures, but of progress the newest only.

A reader that is slow, or reads nothing, so holds no more than its pictures, and holds up nobody.
"""

import asyncio

from runtimes.serve.waiting import Failed, Finished, News, Preview, Progress, Queued

QUIET = 15.0  # seconds without news, after which a stream says that it is alive


class Mailbox:
    """Filled from any thread by `tell`, emptied by one task of the event loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._place: Queued | Progress | None = None
        self._previews: dict[int, Preview] = {}
        self._pictures: list[Finished] = []
        self._failed: Failed | None = None

    def tell(self, news: News) -> None:
        """Put something in, from any thread; nothing where the loop has ended."""
        try:
            self._loop.call_soon_threadsafe(self._put, news)
        except RuntimeError:  # it is closed: the server has stopped
            return

    async def take(self) -> list[News]:
        """All there is, once there is anything; [] after QUIET seconds without."""
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes with news.
            async with asyncio.timeout(QUIET):
                await self._came.wait()
        except TimeoutError:
            return []
        self._came.clear()
        found: list[News] = [] if self._place is None else [self._place]
        found += [*self._previews.values(), *self._pictures]
        found += [] if self._failed is None else [self._failed]
        self._place, self._previews, self._pictures = None, {}, []
        return found

    def _put(self, news: News) -> None:
        if self._failed is not None:
            return
        match news:
            case Queued() | Progress():
                self._place = news
            case Preview():
                self._previews[news.picture] = news
            case Finished():
                self._previews.pop(news.picture, None)
                self._pictures.append(news)
            case Failed():
                self._failed = news
        self._came.set()
