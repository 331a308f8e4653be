"""Errors as a client sees them: the shape that OpenAI's interface has."""

import re
from typing import Any

# Flags of the command line that are fields of a request, and those of another name there.
_FLAG = re.compile(r"--((?:decoder-)?(?:steps|guidance)|height|width)")
_FIELDS = {"height": "size", "width": "size"}
_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class Refusal(Exception):
    """A request that gets no picture: an HTTP status, a sentence, and the field that is wrong.

    `retry_after`: seconds after which it is worth to ask again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """What is sent, as JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        about = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": about}

    def headers(self) -> dict[str, str]:
        """The headers that belong to it."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def bad(field: str, message: str) -> Refusal:
    """A field of a request that is not as it has to be."""
    return Refusal(400, f"{field}: {message}", param=field, code="invalid_value")


def of_usage(error: Exception, otherwise: str) -> Refusal:
    """What the runtimes say of a bad option, told of the request's field; `otherwise` of none."""
    text = str(error)
    flags = _FLAG.findall(text)
    field = flags[0].replace("-", "_") if flags else otherwise
    plain = _FLAG.sub(lambda flag: flag[1].replace("-", "_"), text)
    return Refusal(400, plain, param=_FIELDS.get(field, field), code="invalid_value")


NOT_MADE = "the pictures could not be made; the server's log says why, under this request's id"


def not_made() -> Refusal:
    """Something failed inside: no path, no traceback, and nobody else's prompt."""
    return Refusal(500, NOT_MADE, code="not_made")


def leaving() -> Refusal:
    """The server is about to stop."""
    text = "the server is shutting down; ask again in a moment"
    return Refusal(503, text, code="shutting_down", retry_after=10)
