"""The audit log over HTTP: read it, prove an entry, take all of it, make a person unreadable.

Who reads it is told who the persons are as long as their keys exist; whoever gets an export or a
proof is not. Taking all of it and redacting are acts that stand in the log themselves.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from kumiai.core.errors import ConfigError, IntegrityError, NotFoundError
from kumiai.identity.audit import (
    Act,
    AuditEntry,
    CertifiedKey,
    NewEntry,
    Outcome,
    PersonKey,
    Sealed,
    decode_entry,
    open_actor,
)
from kumiai.node.auditing.actors import actor_of
from kumiai.node.auditing.evidence import AuditEvidence
from kumiai.node.auditing.export import exported_lines
from kumiai.node.auditing.kept import KeptCheckpoint
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import ApiDependencies, Parts
from kumiai.storage import AuditQuery, AuditRecord

__all__ = ["new_router"]

_LINES: Final = "application/x-ndjson"
_JSON: Final = "application/json"
_BATCH_BYTES: Final = 64 * 1024
_Sequence = Annotated[int, Path(ge=0, lt=2**63)]


class ActorView(BaseModel):
    """Who did it; name, serial and address are ``null`` once they are redacted."""

    role: str
    name: str | None
    serial: str | None
    address: str | None
    person: str | None
    is_redacted: bool


class AuditEntryView(BaseModel):
    """An entry, with the person in the clear where the key still exists."""

    sequence: int
    at: float
    act: str
    outcome: str
    subject: str
    actor: ActorView
    detail: dict[str, str | int | bool | None]


class AuditPageView(BaseModel):
    """Some entries, and where the next page begins."""

    entries: list[AuditEntryView]
    next: str | None


class RedactBody(BaseModel):
    """Whom nobody shall read any more."""

    kind: str = Field(max_length=48)
    """Their role, or ``address``."""
    name: str = Field(min_length=1, max_length=128)
    reason: str = Field(default="", max_length=200)


class RedactedView(BaseModel):
    """The pseudonym that remains."""

    person: str


def new_router() -> APIRouter:
    """Return the routes."""
    router = GuardedRouter("audit")
    router.get("/api/v1/audit")(entries)
    router.get(
        "/api/v1/audit/checkpoint",
        response_class=Response,
        responses={200: {"content": {_JSON: {}}}},
    )(checkpoint)
    router.get(
        "/api/v1/audit/export",
        response_class=StreamingResponse,
        responses={200: {"content": {_LINES: {}}}},
    )(export)
    router.get(
        "/api/v1/audit/{sequence}/proof",
        response_class=Response,
        responses={200: {"content": {_JSON: {}}}},
    )(proof)
    router.post("/api/v1/audit/redact")(redact)
    return router


async def entries(
    parts: Parts,
    *,
    act: Annotated[list[str] | None, Query()] = None,
    outcome: Outcome | None = None,
    subject: str | None = None,
    actor: str | None = None,
    at_from: float | None = None,
    at_before: float | None = None,
    order: Annotated[str, Query(pattern="^(newest|oldest)$")] = "newest",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> AuditPageView:
    """Return the entries that pass all filters; ``cursor`` takes the ``next`` of the page before.

    ``actor`` is a name or an address, or ``<role>/<name>``; who was redacted is not found by it.
    """
    query = AuditQuery(
        acts=act,
        outcome=None if outcome is None else outcome.value,
        subject=subject,
        persons=None if actor is None else await _persons_named(parts, actor),
        at_from=at_from,
        at_before=at_before,
        is_newest_first=order == "newest",
    )
    page = await parts.audit.list_entries(query, limit=limit, cursor=cursor)
    return AuditPageView(entries=await _views(parts, page.items), next=page.next_cursor)


async def checkpoint(parts: Parts) -> Response:
    """Send the newest signed checkpoint with its key: what to keep, to compare with later."""
    newest = await parts.audit.find_newest_checkpoint()
    if newest is None:
        raise NotFoundError(
            "checkpoint of the audit log must exist, got none yet; the coordinator signs every "
            "minute: try again"
        )
    keys = [CertifiedKey.from_json(document) for document in await parts.audit.signers()]
    key = next((each for each in keys if each.key_id == newest.key_id), None)
    if key is None:
        raise IntegrityError(
            "checkpoint's key must be known, got none of that name in audit_signers; see "
            "`kumiai audit verify`"
        )
    return Response(KeptCheckpoint.of(newest.note, key).to_json(), media_type=_JSON)


async def export(parts: Parts, caller: Caller) -> StreamingResponse:
    """Send the whole log as lines of JSON, persons as pseudonyms."""
    await parts.audit.record([NewEntry(Act.AUDIT_EXPORTED, actor_of(caller))])
    return StreamingResponse(_batches(exported_lines(parts.audit)), media_type=_LINES)


async def proof(sequence: _Sequence, parts: Parts) -> Response:
    """Send the proof that an entry stands in the signed log."""
    found = await AuditEvidence(parts.audit).prove(sequence)
    return Response(found.to_json(), media_type=_JSON)


async def redact(body: RedactBody, parts: Parts, caller: Caller) -> RedactedView:
    """Delete the key to a person: name and addresses in all entries so far become noise."""
    actor = actor_of(caller)

    def entry(person: str) -> NewEntry:
        detail = {"kind": body.kind, "reason": body.reason}
        try:
            return NewEntry(Act.AUDIT_REDACTED, actor, f"person/{person}", detail=detail)
        except ValueError as error:
            raise ConfigError(f"reason must be shorter: {error}") from error

    return RedactedView(person=await parts.audit.redact(body.kind, body.name, entry))


async def _persons_named(parts: ApiDependencies, actor: str) -> list[str]:
    kind, separator, name = actor.partition("/")
    if separator:
        return await parts.audit.persons_named(name, kind)
    return await parts.audit.persons_named(actor)


async def _views(parts: ApiDependencies, records: Sequence[AuditRecord]) -> list[AuditEntryView]:
    persons = {record.person for record in records if record.person is not None}
    keys = await parts.audit.secrets_of(persons)
    found = []
    for record in records:
        entry = decode_entry(record.body.encode())
        secret = keys[entry.person][2] if entry.person in keys else None
        found.append(
            AuditEntryView(
                sequence=entry.sequence,
                at=entry.at,
                act=entry.act,
                outcome=entry.outcome,
                subject=entry.subject,
                actor=_actor_view(entry, secret),
                detail=dict(entry.detail),
            )
        )
    return found


def _actor_view(entry: AuditEntry, secret: bytes | None) -> ActorView:
    fields: dict[str, Any] = {"name": None, "serial": None, "address": None}
    match entry.actor:
        case Sealed() if secret is not None:
            actor = open_actor(entry.role, entry.actor, PersonKey(secret), entry.sequence)
            serial = f"{actor.serial:x}" if actor.serial else None
            fields = {"name": actor.name or None, "serial": serial, "address": actor.address}
        case str(name):
            fields["name"] = name
    is_redacted = isinstance(entry.actor, Sealed) and secret is None
    return ActorView(role=entry.role, person=entry.person, is_redacted=is_redacted, **fields)


async def _batches(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    # A line is a few hundred bytes, and each piece of an answer costs a turn of the server.
    waiting = bytearray()
    async for line in lines:
        waiting += line
        if len(waiting) >= _BATCH_BYTES:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)
