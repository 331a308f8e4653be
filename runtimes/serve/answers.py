"""News of a ticket as OpenAI's interface says them: one JSON answer, or server-sent events."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from runtimes.images import png_bytes
from runtimes.preview_files import enlarged
from runtimes.serve.mailbox import Mailbox
from runtimes.serve.model import in_words
from runtimes.serve.schema import Order
from runtimes.serve.waiting import Failed, Finished, News, Preview, Progress, Queued

PREFIX = "image_generation"
ALIVE = b": \n\n"  # a comment, which every reader skips
# OpenAI counts tokens; nothing is counted here, but its client reads the fields.
_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


async def whole(order: Order, mailbox: Mailbox) -> dict[str, Any]:
    """The one answer with all pictures; raises the Refusal of a ticket that failed."""
    found: dict[int, Finished] = {}
    while len(found) < len(order.seeds):
        for news in await mailbox.take():
            if isinstance(news, Failed):
                raise news.refusal
            if isinstance(news, Finished):
                found[news.picture] = news
    made = [found[index] for index in sorted(found)]
    answer: dict[str, Any] = {
        "created": int(time.time()),
        "data": [{"b64_json": await _file(each), "seed": each.made.seed} for each in made],
        "size": in_words(order.plan),
        "output_format": "png",
    }
    if truncated := _truncated(made[0]):
        answer["truncated"] = truncated
    return answer


async def events(order: Order, mailbox: Mailbox) -> AsyncIterator[bytes]:
    """The same as events, each as it comes; the last one is a picture or an error."""
    left = len(order.seeds)
    while left:
        news = await mailbox.take()
        if not news:
            yield ALIVE
        for each in news:
            yield event(*await _said(each, order))
            left -= isinstance(each, Finished)
            if isinstance(each, Failed):
                return


def event(kind: str, data: dict[str, Any]) -> bytes:
    """An event of the stream; JSON has no line ends, which would end it."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


async def _said(news: News, order: Order) -> tuple[str, dict[str, Any]]:
    match news:
        case Queued():
            return f"{PREFIX}.queued", {"ahead": news.ahead}
        case Progress():
            about = {"stage": news.stage, "step": news.step, "steps": news.steps}
            return f"{PREFIX}.progress", about | {"done": round(news.done, 4)}
        case Preview():
            data = {"b64_json": await _preview(news, order), "partial_image_index": news.index}
            return f"{PREFIX}.partial_image", data | _common(order, news.picture)
        case Finished():
            data = {"b64_json": await _file(news), "seed": news.made.seed, "usage": _USAGE}
            if truncated := _truncated(news):
                data["truncated"] = truncated
            return f"{PREFIX}.completed", data | _common(order, news.picture)
        case Failed():
            return "error", news.refusal.body()


def _common(order: Order, picture: int) -> dict[str, Any]:
    return {
        "picture": picture,
        "size": in_words(order.plan),
        "output_format": "png",
        "created_at": int(time.time()),
        "quality": "auto",
        "background": "auto",
    }


def _truncated(news: Finished) -> list[dict[str, str]]:
    """What of the request's own texts the model did not read."""
    return [{"param": field, "lost": lost} for field, lost in news.made.truncated.items()]


async def _file(news: Finished) -> str:
    # In a thread: a PNG of a million pixels takes a third of a second.
    made = news.made
    return _base64(await asyncio.to_thread(png_bytes, made.pixels, dict(made.parameters)))


async def _preview(news: Preview, order: Order) -> str:
    pixels = enlarged(news.pixels, order.model.preview_kind or "graph")
    return _base64(await asyncio.to_thread(png_bytes, pixels))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
