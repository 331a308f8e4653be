"""The process: a socket, the event loop, and what signals mean."""

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import FrameType
from typing import Any

import uvicorn

from runtimes.errors import RunError, UsageError, reason_of
from runtimes.serve.app import make_app
from runtimes.serve.model import Model
from runtimes.serve.service import Service

BACKLOG = 128
CONNECTIONS = 512  # at a time; more are answered 503
_LAST_WORDS = 15  # seconds for answers that are on their way when the server stops
_LAST_STEP = 2.0  # seconds for a step that nobody waits for any more
_POLL = 0.05
_SAME_AGAIN = 60.0  # seconds
Context = Mapping[str, Any]  # of asyncio's: a message, and an exception or none


def bind(host: str, port: int, timeout: float) -> socket.socket:
    """A socket that listens; UsageError where its address is taken or is none of this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            # As servers do: or a restart would have to wait for old connections to be forgotten.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _give_up_stalled(listening, timeout)
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
    except socket.gaierror as error:
        raise UsageError(f"--host {host} is no address: {error.strerror}") from None
    except OSError as error:
        raise UsageError(_why_not(host, port, error)) from None
    return listening


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what listens there, or give another --port"
    if error.errno == errno.EACCES:
        return f"--port {port} needs rights that this user has not; give one from 1024 on"
    return f"cannot listen on {host}, port {port}: {reason_of(error)}"


def _give_up_stalled(listening: socket.socket, timeout: float) -> None:
    """Let Linux end connections whose other end takes nothing for so many seconds."""
    if hasattr(socket, "TCP_USER_TIMEOUT") and timeout:
        milliseconds = int(timeout * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def address_of(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    service: Service,
    listening: socket.socket,
    open_models: Callable[[], Sequence[Model]],
    signals: list[int] | None = None,
) -> bool:
    """Answer on a socket until SIGINT or SIGTERM; models are opened while it says 'not ready'.

    A signal lets nothing new in and gives what is there `grace` seconds; a second one gives none.
    In a thread, none are heard: whatever is put into `signals` is one. False where a graph is
    still being loaded or run, which nothing can stop. Raises what `open_models` raises.
    """
    models: Future[Sequence[Model]] = Future()
    # None of the event loop's own threads: it would wait for them at its end.
    opener = threading.Thread(target=_open_into, args=(models, open_models), daemon=True)
    opener.start()
    asyncio.run(_serve(service, listening, models, [] if signals is None else signals))
    return not (opener.is_alive() or service.working)


def _open_into(
    models: "Future[Sequence[Model]]", open_models: Callable[[], Sequence[Model]]
) -> None:
    try:
        models.set_result(open_models())
    except BaseException as error:
        models.set_exception(error)


async def _serve(
    service: Service,
    listening: socket.socket,
    models: "Future[Sequence[Model]]",
    signals: list[int],
) -> None:
    server = _Server(
        uvicorn.Config(
            make_app(service),
            log_config=None,
            log_level="critical",  # what there is to say, we say
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            http="h11",  # whatever else is installed: it bounds headers at 64 KB
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=_LAST_WORDS,
        )
    )
    asyncio.get_running_loop().set_exception_handler(lines_of_asyncio(service))
    with _heard(signals):
        answering = asyncio.create_task(server.serve([listening]))
        try:
            await _open(service, models, address_of(listening), signals)
            await _until_signal(service, signals, answering)
        finally:
            service.leave()
            service.batcher.refuse_rest()
            server.should_exit = True
            await answering
            await asyncio.to_thread(service.close, _LAST_STEP)


async def _open(
    service: Service,
    models: "Future[Sequence[Model]]",
    address: str,
    signals: Sequence[int],
) -> None:
    while not (models.done() or signals):
        await asyncio.sleep(_POLL)
    if signals:
        return
    service.open(models.result())
    for model in service.models.values():
        if model.one_by_one:
            service.log(f"{model.name}: pictures are made one by one: {model.one_by_one}")
    service.log(f"serving {', '.join(service.models)} on {address}")


async def _until_signal(
    service: Service, signals: Sequence[int], answering: "asyncio.Task[None]"
) -> None:
    """Return when everything is done that has to be done before the server stops."""
    while not signals:
        await asyncio.sleep(_POLL)
        if answering.done() or not service.working:
            raise RunError("the server stopped by itself")
    service.leave()
    service.log("stopping: nothing new is taken, what is there is finished")
    ends = asyncio.get_running_loop().time() + service.queueing.grace
    while any(service.batcher.load) and len(signals) < 2:
        if asyncio.get_running_loop().time() >= ends:
            service.log("stopping: what is left is refused")
            break
        await asyncio.sleep(_POLL)


def lines_of_asyncio(service: Service) -> Callable[[asyncio.AbstractEventLoop, Context], None]:
    """What asyncio has to say, in a line; the same again once a minute only.

    Where too many connections are open it says so, with a traceback, a hundred times a second.
    """
    said: dict[str, float] = {}

    def say(loop: asyncio.AbstractEventLoop, context: Context) -> None:
        what, now = str(context["message"]), loop.time()
        if now < said.get(what, now):
            return
        said.clear()
        said[what] = now + _SAME_AGAIN
        service.internal(context.get("exception") or RunError("it says no more"), what)

    return say


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to us: it would end the process by the one that it heard."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _heard(signals: list[int]) -> Iterator[None]:
    """Gather SIGINT and SIGTERM; where this is not the main thread, none are heard."""

    def hear(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    try:
        before = {each: signal.signal(each, hear) for each in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
