"""A server for tests: the whole application on a socket of this machine, in a thread."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runtimes.serve.limits import Limits, Queueing
from runtimes.serve.model import Model
from runtimes.serve.server import bind, serve
from runtimes.serve.service import Service

ENOUGH = 60.0  # seconds after which what has to come does not come any more
PATH = "/v1/images/generations"
JSON = {"Content-Type": "application/json"}


class Gated(Model):
    """A model that waits at every step until it is let through; says which steps it took."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate, self.steps, self.batches_made = threading.Semaphore(0), 0, 0
        self.arrived = threading.Semaphore(0)
        self.fault: Exception | None = None

    def make(self, pictures, options, on_step, on_preview=None, preview_every=1):
        def step(stage: str, done: int, of: int) -> None:
            self.arrived.release()
            assert self.gate.acquire(timeout=ENOUGH)
            on_step(stage, done, of)
            self.steps += 1

        if self.fault is not None:
            raise self.fault
        made = super().make(pictures, options, step, on_preview, preview_every)
        self.batches_made += 1
        return made

    def let_through(self) -> None:
        """All steps that come."""
        self.gate.release(1_000_000)


@dataclass
class Served:
    """A server that runs; `signals` takes what a process would hear, `ended` what comes of it."""

    service: Service
    port: int
    signals: list[int]
    thread: threading.Thread
    ended: list[bool]

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body; what is sent is JSON unless it is bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ENOUGH)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, JSON if headers is None else headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def make(self, **fields: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
        """The answer to a request for pictures."""
        status, headers, body = self.request("POST", PATH, fields)
        return status, headers, json.loads(body)

    def asking(self, **fields: Any) -> socket.socket:
        """A connection on which a request was sent and nothing was read."""
        body = json.dumps(fields).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=ENOUGH)
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection


@contextmanager
def served(
    models: Callable[[], Sequence[Model]],
    limits: Limits | None = None,
    queueing: Queueing | None = None,
    *,
    quiet: bool = True,
    keys: tuple[bytes, ...] = (),
    ready: bool = True,
) -> Iterator[Served]:
    """A server of these models, waited for until it is `ready`; stopped in the end."""
    bounds = limits or Limits()
    service = Service(bounds, queueing or Queueing(), keys, quiet=quiet)
    signals: list[int] = []
    listening = bind("127.0.0.1", 0, bounds.timeout)
    port = listening.getsockname()[1]
    ended: list[bool] = []

    def run() -> None:
        ended.append(serve(service, listening, models, signals))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    found = Served(service, port, signals, thread, ended)
    try:
        until(lambda: bool(service.models) or not ready)
        yield found
    finally:
        signals += [15, 15]
        thread.join(ENOUGH)


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that has to come, however slow the machine is."""
    ends = time.monotonic() + ENOUGH
    while not holds():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.01)
