"""For those who run the coordinator: is it alive, is it ready, what does it do, who is there."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, cast

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from kumiai import __version__
from kumiai.core.errors import KumiaiError
from kumiai.node.coordinator.sessions import ClientSession
from kumiai.node.http.access import GuardedRouter
from kumiai.node.http.dependencies import ApiDependencies, Parts
from kumiai.node.http.metrics import ApiMetrics, RunObserver
from kumiai.node.http.views import (
    ClientsView,
    ClientView,
    InfoView,
    ReadyView,
    StatusView,
)
from kumiai.node.wire.channel import PROTOCOL_VERSION
from kumiai.storage import ClientRecord

__all__ = ["Operations", "new_router"]

_READY_SECONDS: Final = 1.0
_CHECK_SECONDS: Final = 5.0


@dataclass(slots=True)
class Operations:
    """What these routes keep between requests."""

    metrics: ApiMetrics
    observer: RunObserver
    started_at: float
    """On the monotonic clock."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    checked_at: float = float("-inf")
    ready: ReadyView = field(default_factory=lambda: ReadyView(ready=False, reasons=[]))


async def _operations(request: Request) -> Operations:
    return cast("Operations", request.app.state.operations)


_Kept = Annotated[Operations, Depends(_operations)]


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("operations")
    router.get("/healthz")(health)
    router.get("/readyz", responses={503: {"model": ReadyView}})(readiness)
    router.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
    )(metrics)
    router.get("/openapi.json", include_in_schema=False)(document)
    router.get("/api/v1/info")(info)
    router.get("/api/v1/clients")(clients)
    return router


async def health() -> StatusView:
    """Answer while the process lives."""
    return StatusView()


async def readiness(parts: Parts, kept: _Kept, response: Response) -> ReadyView:
    """Tell whether the database answers, the blob store can be written and all parts go on."""
    async with kept.lock:
        # Everybody may ask, and each check writes: once a second is enough.
        if parts.clock.monotonic() - kept.checked_at >= _READY_SECONDS:
            kept.ready = await _check(parts)
            kept.checked_at = parts.clock.monotonic()
        ready = kept.ready
    response.status_code = 200 if ready.ready else 503
    return ready


async def metrics(kept: _Kept) -> Response:
    """Return the metrics in Prometheus' text format."""
    async with kept.lock:
        await kept.observer.refresh()
    return Response(generate_latest(kept.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def document(request: Request) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return cast("FastAPI", request.app).openapi()


async def info(parts: Parts, kept: _Kept) -> InfoView:
    """Tell who answers here."""
    return InfoView(
        coordinator_id=parts.coordinator_id,
        version=__version__,
        protocol_version=PROTOCOL_VERSION,
        led_runs=parts.supervisor.led_runs,
        database=parts.database.dialect,
        can_evaluate=parts.can_evaluate,
        uptime_seconds=parts.clock.monotonic() - kept.started_at,
    )


async def clients(parts: Parts) -> ClientsView:
    """Return every client that ever attached, with its session at this coordinator."""
    now = parts.clock.monotonic()
    return ClientsView(
        clients=[
            _client_view(record, parts.hub.find(record.client_id), now)
            for record in await parts.near.clients()
        ]
    )


def _client_view(record: ClientRecord, session: ClientSession | None, now: float) -> ClientView:
    return ClientView(
        client_id=record.client_id,
        instance_id=record.instance_id,
        software_version=record.software_version,
        apps=list(record.apps),
        first_seen_at=record.first_seen_at,
        last_seen_at=record.last_seen_at,
        state=record.state,
        address=record.address,
        attached=session is not None,
        attached_at=None if session is None else session.attached_at,
        phase=None if session is None else session.phase,
        clock_skew_seconds=None if session is None else session.clock_skew_seconds,
        heard_seconds_ago=None if session is None else max(now - session.last_heard, 0.0),
    )


async def _check(parts: ApiDependencies) -> ReadyView:
    reasons = [
        f"{what} must {rule} within {_CHECK_SECONDS:.0f} s"
        for what, rule, error in (
            ("database", "answer", await _error_of(parts.database.check())),
            ("blob store", "take a write", await _error_of(_write_probe(parts))),
        )
        if error
    ]
    reasons += [f"{work} must go on, got its end by an error" for work in parts.unwell()]
    return ReadyView(ready=not reasons, reasons=reasons)


async def _error_of(check: Any) -> str | None:
    # Everybody may read the answer, so the details, which name hosts and paths, go to the log.
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await check
    except (KumiaiError, TimeoutError) as error:
        structlog.get_logger("kumiai.http").warning("not ready", error=str(error) or "timed out")
        return "failed"
    return None


async def _write_probe(parts: ApiDependencies) -> None:
    namespace = f"probes/{parts.coordinator_id}"
    await parts.blobs.put(namespace, [b"ready?"])
    await parts.blobs.delete_namespace(namespace)
