"""The API as one ASGI application."""

import asyncio
import functools
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kumiai import __version__
from kumiai.core.clock import Clock
from kumiai.core.errors import KumiaiError
from kumiai.identity import MTLSAuthenticationMiddleware
from kumiai.node.http import (
    audit,
    budgets,
    deletion,
    enrolment,
    explain,
    models,
    operations,
    runs,
    stream,
    tokens,
)
from kumiai.node.http.access import methods_of, requirement_of
from kumiai.node.http.dependencies import ApiDependencies
from kumiai.node.http.errors import (
    answer_http_error,
    answer_invalid_request,
    answer_kumiai_error,
    refusal,
    unlisted,
)
from kumiai.node.http.metrics import ApiMetrics, RunObserver
from kumiai.node.http.models import ModelUploads
from kumiai.node.http.operations import Operations
from kumiai.node.http.stream import OpenStreams

__all__ = ["create_app"]

_BODY_BYTES_MAX: Final = 1 << 20
_COPIES_BYTES_MAX: Final = 1 << 26
_COPIES_PATH: Final = "/api/v1/budgets/reconcile"
_MODEL_SUFFIX: Final = "/model"
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


def create_app(parts: ApiDependencies) -> FastAPI:
    """Return the API over a coordinator's parts; nothing is opened or read yet."""
    app = FastAPI(
        title="Kumiai coordinator",
        version=__version__,
        # Swagger's and Redoc's pages load scripts from elsewhere, and the document is a route
        # with a guard like the others.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    metrics = ApiMetrics(parts.meter, parts.near.metrics)
    app.state.parts = parts
    app.state.closing = asyncio.Event()
    app.state.uploads = ModelUploads()
    app.state.streams = OpenStreams()
    app.state.operations = Operations(
        metrics=metrics,
        observer=RunObserver(parts, metrics),
        started_at=parts.clock.monotonic(),
    )
    app.router.routes.extend(_routes())
    app.add_exception_handler(KumiaiError, answer_kumiai_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(RequestValidationError, answer_invalid_request)
    app.add_middleware(
        MTLSAuthenticationMiddleware,
        gate=parts.gate,
        required=requirement_of,
        refuse=refusal,
        unlisted=lambda _method, path: unlisted(methods_of(path)),
    )
    app.add_middleware(_BodyLimit)
    app.add_middleware(_Headers)
    app.add_middleware(_Latency, metrics=metrics, clock=parts.clock)
    return app


@functools.cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return all routes, made once: they find the parts of their app by the request.

    Not by ``include_router``, which has FastAPI make each of them a second time for the app; to
    make them is most of what it costs to create one.
    """
    rooms = (
        audit,
        operations,
        runs,
        deletion,
        stream,
        explain,
        models,
        enrolment,
        tokens,
        budgets,
    )
    return tuple(route for room in rooms for route in room.new_router().routes)


class _Latency:
    """Measures each request until its answer begins; a stream has no end worth measuring."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, clock: Clock) -> None:
        self._app = app
        self._durations = metrics.http_duration
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = self._clock.monotonic()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The route's pattern, never the path: that is chosen by whoever asks.
                route = getattr(scope.get("route"), "path", "unmatched")
                self._durations.labels(
                    _method(scope["method"]), route, str(message["status"])
                ).observe(self._clock.monotonic() - began)
            await send(message)

        await self._app(scope, receive, measured)


class _Headers:
    """Puts the headers on every answer that each of them needs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def extended(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        await self._app(scope, receive, extended)


class _BodyLimit:
    """Refuses a body whose size is not announced, or is too large; models have their own limit.

    The HTTP parser lets through a length that is a number, and no more bytes than that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        size_bytes = int(headers.get(b"content-length", b"0"))
        is_model = scope["method"] == "PUT" and scope["path"].endswith(_MODEL_SUFFIX)
        if b"transfer-encoding" in headers:
            await _refusal(411, "Content-Length must be given")(scope, receive, send)
        elif not is_model and size_bytes > (limit := _body_bytes_max(scope["path"])):
            message = f"body must be at most {limit} bytes"
            await _refusal(413, message)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _body_bytes_max(path: str) -> int:
    # The sites' ledgers come together, because one act must bring all of them in line.
    return _COPIES_BYTES_MAX if path == _COPIES_PATH else _BODY_BYTES_MAX


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"kind": "config", "message": message}}, status)


def _method(method: str) -> str:
    known = {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"}
    return method if method in known else "other"
