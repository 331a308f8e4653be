"""Around every request: its id, who may ask, a line in the log, and no error that says too much."""

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtimes.serve.clients import ClientGone
from runtimes.serve.keys import is_known, is_loopback
from runtimes.serve.refusal import Refusal, not_made
from runtimes.serve.service import Service

OPEN = ("/", "/healthz", "/readyz")  # without a key
ROUTES = (*OPEN, "/metrics", "/v1/models", "/v1/images/generations")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HOST = re.compile(r"(\[[^][]*\]|[^][:]*)(?::\d*)?", re.ASCII)
GONE = 499  # what nginx calls it: nobody was there to be answered


@dataclass
class Record:
    """What the log says of a request."""

    id: str
    status: int = GONE
    pictures: int = 0


class Guards:
    """The outermost application. Every answer has an `x-request-id`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        record, started = Record(token_hex(8)), time.monotonic()
        scope["record"] = record

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = record.id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self._guarded(scope, receive, answered)
        except ClientGone:
            record.status = GONE
        except Exception as error:  # the answer, if any can be given, was given
            self._service.internal(error, f"request {record.id}")
            if record.status == GONE:
                with suppress(Exception):
                    await answer(not_made())(scope, receive, answered)
        finally:
            self._note(scope, record, time.monotonic() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Headers(scope=scope), scope["path"])
        app = self._app if refusal is None else answer(refusal)
        await app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> Refusal | None:
        # A page from elsewhere whose name was made to mean this machine must not reach it.
        if self._service.loopback and not is_loopback(_name(headers.get("host", ""))):
            return Refusal(403, "this server answers to localhost only", code="wrong_host")
        keys = () if path in OPEN else self._service.keys
        if keys and not is_known(headers.get("authorization", ""), keys):
            text = "no API key, or none that is known: send 'Authorization: Bearer KEY'"
            return Refusal(401, text, code="invalid_api_key")
        return None

    def _note(self, scope: Scope, record: Record, seconds: float) -> None:
        path = scope["path"]
        route = path if path in ROUTES else "/v1/models/ID" if _is_model(path) else "other"
        self._service.metrics.request(route, record.status, seconds)
        made = f", {record.pictures} pictures" if record.pictures else ""
        # A path of a client's own is not written: it may hold line ends, or what is secret.
        self._service.log(
            f"{record.id} {_method(scope)} {route} {record.status} {seconds:.3f} s{made}"
        )


def answer(refusal: Refusal) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(refusal.body(), refusal.status, refusal.headers())


def _is_model(path: str) -> bool:
    return path.startswith("/v1/models/")


def _name(host: str) -> str:
    """The name of a Host header, without its port; '' for what is none."""
    found = _HOST.fullmatch(host)
    return found[1] if found else ""


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"
