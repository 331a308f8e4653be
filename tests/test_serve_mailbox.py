"""What a stream waits for can be cancelled at any moment, also in the one in which it comes."""

import asyncio

import pytest

from runtimes.serve.mailbox import Mailbox
from runtimes.serve.waiting import Queued


def test_whoever_is_cancelled_as_news_come_is_cancelled():
    async def taken_from() -> None:
        mailbox = Mailbox()
        taking = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)  # it waits
        await asyncio.sleep(0)
        mailbox.tell(Queued(0))
        await asyncio.sleep(0)  # the news are put in, nobody has taken them
        taking.cancel()
        await taking

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(taken_from())
