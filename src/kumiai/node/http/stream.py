"""A run as it happens: Server-Sent Events, resumable by the number of the last event seen.

``event`` carries an event row and its number as ``id``; ``progress`` tells where the round stands
whenever that changes; ``end`` is the last word of a run that has ended. A stream that stops
without ``end`` was cut off (a restart, a lost database): whoever wants more connects again with
``Last-Event-ID``. Everything is read from the rows, so any replica can serve any run.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from kumiai.core.errors import ConfigError, ConflictError, KumiaiError
from kumiai.identity import Principal
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import ApiDependencies, Parts
from kumiai.node.http.runs import find_run
from kumiai.node.http.views import CountsView, EventView
from kumiai.storage import RoundStage, RunRecord, RunState

__all__ = ["OpenStreams", "new_router"]

_LOOK_SECONDS: Final = 0.2
_KEEPALIVE_SECONDS: Final = 10.0
_RECONNECT_MS: Final = 1_000
_PAGE_COUNT: Final = 500
_ENDED: Final = frozenset({"finished", "failed", "stopped"})
_MEDIA_TYPE: Final = "text/event-stream"


@dataclass(slots=True)
class OpenStreams:
    """How many streams are open."""

    count: int = 0


class _ProgressMessage(BaseModel):
    """Where the present round stands; ``phases`` are of the clients attached here, by client."""

    round: int
    rounds_total: int
    state: RunState
    stage: RoundStage
    counts: CountsView
    deadline_at: float
    phases: Mapping[str, str]


class _EndMessage(BaseModel):
    state: RunState
    reason: str | None
    end_kind: str | None


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("runs")
    router.get(
        "/api/v1/runs/{ref}/stream",
        response_class=StreamingResponse,
        responses={200: {"content": {_MEDIA_TYPE: {}}}},
    )(stream)
    return router


async def _start(
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> int:
    # The header is a reconnection's and knows more than the address that was connected to first.
    return after if last_event_id is None else _sequence_of(last_event_id)


async def stream(
    ref: str,
    request: Request,
    parts: Parts,
    caller: Caller,
    start: Annotated[int, Depends(_start)],
) -> StreamingResponse:
    """Send the run's events as they come, from the one after ``after`` or ``Last-Event-ID`` on."""
    run = await find_run(parts, ref)
    open_streams: OpenStreams = request.app.state.streams
    if open_streams.count >= parts.stream_count_max:
        raise ConflictError(
            f"streams must be at most {parts.stream_count_max} at once, got one more; "
            "close one, or ask for events instead"
        )
    follower = _Follower(
        parts,
        run.run_id,
        caller,
        after=start,
        closing=request.app.state.closing,
    )
    return StreamingResponse(
        _counted(follower.messages(), open_streams),
        media_type=_MEDIA_TYPE,
        headers={"X-Accel-Buffering": "no"},
    )


async def _counted(messages: AsyncIterator[str], streams: OpenStreams) -> AsyncIterator[str]:
    # Counted when it begins, not when it is asked for: what never began is never closed.
    streams.count += 1
    try:
        async for message in messages:
            yield message
    finally:
        streams.count -= 1


def _sequence_of(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ConfigError(f"Last-Event-ID must be the number of an event, got {text[:80]!r}")
    return int(text)


class _Follower:
    """Reads a run's rows again and again, and tells what is new."""

    def __init__(
        self,
        parts: ApiDependencies,
        run_id: str,
        caller: Principal,
        *,
        after: int,
        closing: asyncio.Event,
    ) -> None:
        self._parts = parts
        self._run_id = run_id
        self._caller = caller
        self._after = after
        self._closing = closing
        self._told: _ProgressMessage | None = None
        self._told_at = parts.clock.monotonic()

    async def messages(self) -> AsyncIterator[str]:
        """Yield messages until the run has ended or nobody listens."""
        yield f"retry: {_RECONNECT_MS}\n\n"
        try:
            while not self._closing.is_set():
                # Read before the events: when it says that the run has ended, its last event is
                # among them.
                run = await self._parts.runs.get(self._run_id)
                async for message in self._news(run):
                    self._told_at = self._parts.clock.monotonic()
                    yield message
                if run.state in _ENDED:
                    end = _EndMessage(state=run.state, reason=run.reason, end_kind=run.end_kind)
                    yield _message("end", end)
                    return
                if self._is_silent():
                    await self._parts.gate.admit_again(self._caller, act="stream")
                    yield ": still here\n\n"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._closing.wait()
        except KumiaiError as error:
            # The status is sent; what is left is to hang up, and to be asked again.
            structlog.get_logger("kumiai.http").warning(
                "stream cut off", run=self._run_id, error=str(error)
            )

    async def _news(self, run: RunRecord) -> AsyncIterator[str]:
        is_full = True
        while is_full:
            events = await self._parts.runs.events(
                self._run_id, after_seq=self._after, limit=_PAGE_COUNT
            )
            for event in events:
                self._after = event.seq
                yield _message("event", EventView.of(event), number=event.seq)
            is_full = len(events) == _PAGE_COUNT
        progress = await self._progress(run)
        if progress != self._told:
            self._told = progress
            yield _message("progress", progress)

    async def _progress(self, run: RunRecord) -> _ProgressMessage:
        counted = await self._parts.runs.progress(self._run_id, run.round)
        return _ProgressMessage(
            round=run.round,
            rounds_total=run.rounds_total,
            state=run.state,
            stage=counted.stage,
            counts=CountsView.of(counted),
            deadline_at=counted.deadline_at,
            phases={
                session.client_id: session.phase
                for session in self._parts.hub.sessions()
                if run.app in session.apps
            },
        )

    def _is_silent(self) -> bool:
        now = self._parts.clock.monotonic()
        if now - self._told_at < _KEEPALIVE_SECONDS:
            return False
        self._told_at = now
        return True


def _message(name: str, content: BaseModel, *, number: int | None = None) -> str:
    identifier = "" if number is None else f"id: {number}\n"
    return f"{identifier}event: {name}\ndata: {content.model_dump_json()}\n\n"
