"""The routes: OpenAI's images interface, models, health, metrics and the page."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from runtimes.serve.answers import events, whole
from runtimes.serve.clients import EventStream, read_body, unless_gone
from runtimes.serve.guards import Guards, Record, answer
from runtimes.serve.mailbox import Mailbox
from runtimes.serve.page import page
from runtimes.serve.refusal import Refusal, not_made
from runtimes.serve.schema import parse
from runtimes.serve.service import Service
from runtimes.serve.waiting import Finished, News, Ticket

Route = Callable[[Request], Awaitable[Response]]


def make_app(service: Service) -> ASGIApp:
    """The application of a service."""
    # No pages of documentation: they take scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    routes: dict[str, tuple[Route, str]] = {
        "/": (_document(), "GET"),
        "/healthz": (_alive, "GET"),
        "/readyz": (_of(service, _ready), "GET"),
        "/metrics": (_of(service, _metrics), "GET"),
        "/v1/models": (_of(service, _models), "GET"),
        "/v1/models/{name:path}": (_of(service, _model), "GET"),
        "/v1/images/generations": (_of(service, _generations), "POST"),
    }
    for path, (route, method) in routes.items():
        app.add_route(path, route, [method])
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    return Guards(app, service)


def _of(service: Service, route: Callable[[Service, Request], Awaitable[Response]]) -> Route:
    async def call(request: Request) -> Response:
        return await route(service, request)

    return call


def _document() -> Route:
    """The page, read once."""
    body, policy = page()
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}

    async def call(request: Request) -> Response:
        return Response(body, headers=headers, media_type="text/html; charset=utf-8")

    return call


async def _alive(request: Request) -> Response:
    return JSONResponse({"status": "alive"})


async def _ready(service: Service, request: Request) -> Response:
    service.check_ready()
    return JSONResponse({"status": "ready"})


async def _metrics(service: Service, request: Request) -> Response:
    text = "text/plain; version=0.0.4; charset=utf-8"
    return Response(service.metrics.text(), headers={"Content-Type": text})


async def _models(service: Service, request: Request) -> Response:
    models = service.check_ready().values()
    return JSONResponse({"object": "list", "data": [m.about(service.limits) for m in models]})


async def _model(service: Service, request: Request) -> Response:
    model = service.check_ready().get(request.path_params["name"])
    if model is None:
        raise Refusal(404, "there is no such model", param="model", code="model_not_found")
    return JSONResponse(model.about(service.limits))


async def _generations(service: Service, request: Request) -> Response:
    """Pictures: checked, queued, and answered whole or as a stream of events."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "send the body as application/json", code="wrong_content_type")
    models = service.check_ready()
    order = parse(await read_body(request, service.limits), models, service.limits)
    mailbox = Mailbox()
    record: Record = request.scope["record"]

    def tell(news: News) -> None:
        record.pictures += isinstance(news, Finished)
        mailbox.tell(news)

    ticket = Ticket(order, tell, record.id)
    service.batcher.submit(ticket)

    def ended() -> None:
        service.batcher.cancel(ticket)

    if order.stream:
        stalled = service.limits.timeout
        return EventStream(events(order, mailbox), ended=ended, stalled=stalled)
    try:
        return JSONResponse(await unless_gone(request.receive, whole(order, mailbox)))
    finally:
        ended()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return answer(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: "there is nothing here", 405: "this method is not taken here"}
    text = texts.get(error.status_code, "the request cannot be answered")
    response = answer(Refusal(error.status_code, text))
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    return answer(not_made())
