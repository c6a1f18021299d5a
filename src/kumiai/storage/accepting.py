"""Counting what clients report: the statements by which a report enters a round, or does not.

Any replica may run them, for one report or for many in one transaction. Strategy: locks are
taken in one order everywhere (run, round, assignments by client), so no two can wait for each
other. The shared lock on the round's row makes an acceptance and the closing of the round
follow one another: what is accepted before is in the sum, what comes after is told so. The lock
on the assignment makes two deliveries of one client follow one another. It holds the attempt, too:
an update that was on its way while the round began anew is not counted in what it was not made for.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.storage.records import (
    AcceptOutcome,
    AcceptRequest,
    AssignmentKind,
    EvaluationRequest,
)
from kumiai.storage.rows import is_one_of, json_text, table_of
from kumiai.storage.tables import (
    AcceptedUpdate,
    Assignment,
    EvaluationReport,
    Round,
    clock_sql,
)

__all__ = ["accept_evaluations", "accept_updates"]

_ROUNDS = table_of(Round)
_ASSIGNMENTS = table_of(Assignment)
_UPDATES = table_of(AcceptedUpdate)
_EVALUATIONS = table_of(EvaluationReport)
_LEFT_OUT = {"cancelled", "late"}


async def accept_updates(
    connection: AsyncConnection, requests: Sequence[AcceptRequest]
) -> list[AcceptOutcome]:
    """Count the updates that may be counted; return what became of each.

    Args:
        connection: in a read-write transaction; nothing counts before its commit.
        requests: their blobs are durable; several of one client are taken in their order.
    """
    outcomes = [AcceptOutcome.NOT_ASSIGNED] * len(requests)
    for (run_id, number), group in _by_round(requests):
        stage = await _shared_stage(connection, run_id, number)
        clients = sorted({requests[index].client_id for index in group})
        assigned = await _locked(connection, run_id, number, clients, kind="train")
        standing = await _digests(connection, run_id, number, clients)
        new: list[AcceptRequest] = []
        for index in group:
            request = requests[index]
            # What stands is looked at first: a repeated delivery hears "duplicate" and not "late"
            # when the round has closed meanwhile, for it is in the sum.
            if request.client_id in standing:
                same = standing[request.client_id] == request.digest
                outcomes[index] = AcceptOutcome.DUPLICATE if same else AcceptOutcome.CONFLICT
            elif task := assigned.get(request.client_id):
                outcomes[index] = _outcome(request, stage, task)
                if outcomes[index] is AcceptOutcome.ACCEPTED:
                    standing[request.client_id] = request.digest
                    new.append(request)
        if new:
            await _insert_updates(connection, new)
            await _mark_reported(connection, run_id, number, new, kind="train")
    return outcomes


async def accept_evaluations(
    connection: AsyncConnection, requests: Sequence[EvaluationRequest]
) -> list[bool]:
    """Count the evaluation reports that may be counted.

    Returns:
        For each whether a report of this client stands, be it this one or an earlier one.
        ``False``: the client was not asked, or it is too late.
    """
    stands = [False] * len(requests)
    for (run_id, number), group in _by_round(requests):
        clients = sorted({requests[index].client_id for index in group})
        tasks = await _locked(connection, run_id, number, clients, kind="evaluate")
        states = {client_id: task.state for client_id, task in tasks.items()}
        new: list[EvaluationRequest] = []
        for index in group:
            client_id = requests[index].client_id
            if states.get(client_id) == "assigned":
                states[client_id] = "reported"
                new.append(requests[index])
            stands[index] = states.get(client_id) == "reported"
        if new:
            await _insert_evaluations(connection, new)
            await _mark_reported(connection, run_id, number, new, kind="evaluate")
    return stands


def _outcome(request: AcceptRequest, stage: str | None, task: Any) -> AcceptOutcome:
    """Return what becomes of an update beside which no other of its client stands."""
    if stage != "collecting":
        return AcceptOutcome.LATE
    if task.attempt != request.attempt:
        return AcceptOutcome.OVERTAKEN
    # Who has failed may have come back; who was left out when the round began anew may not.
    return AcceptOutcome.NOT_ASSIGNED if task.state in _LEFT_OUT else AcceptOutcome.ACCEPTED


def _by_round(
    requests: Sequence[AcceptRequest] | Sequence[EvaluationRequest],
) -> list[tuple[tuple[str, int], list[int]]]:
    """Return the requests' indices by run and round, both in order."""

    def key(index: int) -> tuple[str, int]:
        return requests[index].run_id, requests[index].round

    groups = itertools.groupby(sorted(range(len(requests)), key=key), key=key)
    return [(run_and_round, list(group)) for run_and_round, group in groups]


async def _shared_stage(connection: AsyncConnection, run_id: str, number: int) -> str | None:
    statement = (
        select(_ROUNDS.c.stage)
        .where(_ROUNDS.c.run_id == run_id, _ROUNDS.c.round == number)
        .with_for_update(read=True)
    )
    stage: str | None = (await connection.execute(statement)).scalar_one_or_none()
    return stage


async def _locked(
    connection: AsyncConnection,
    run_id: str,
    number: int,
    clients: Sequence[str],
    *,
    kind: AssignmentKind,
) -> dict[str, Any]:
    """Return how the assignments of these clients stand, by client, and lock them."""
    statement = (
        select(_ASSIGNMENTS.c.client_id, _ASSIGNMENTS.c.state, _ASSIGNMENTS.c.attempt)
        .where(
            _ASSIGNMENTS.c.run_id == run_id,
            _ASSIGNMENTS.c.round == number,
            _ASSIGNMENTS.c.kind == kind,
            is_one_of(connection, _ASSIGNMENTS.c.client_id, clients),
        )
        .order_by(_ASSIGNMENTS.c.client_id)
        .with_for_update(key_share=True)
    )
    return {row.client_id: row for row in await connection.execute(statement)}


async def _digests(
    connection: AsyncConnection, run_id: str, number: int, clients: Sequence[str]
) -> dict[str, str]:
    statement = select(_UPDATES.c.client_id, _UPDATES.c.digest).where(
        _UPDATES.c.run_id == run_id,
        _UPDATES.c.round == number,
        is_one_of(connection, _UPDATES.c.client_id, clients),
    )
    return {row.client_id: row.digest for row in await connection.execute(statement)}


async def _insert_updates(connection: AsyncConnection, new: Sequence[AcceptRequest]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "run_id": request.run_id,
            "round": request.round,
            "client_id": request.client_id,
            "digest": request.digest,
            "size_bytes": request.size_bytes,
            "examples": request.examples,
            "metrics_json": json_text(request.metrics),
        }
        for request in new
    ]
    await connection.execute(_UPDATES.insert().values(accepted_at=clock_sql()), rows)


async def _insert_evaluations(
    connection: AsyncConnection, new: Sequence[EvaluationRequest]
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "run_id": request.run_id,
            "round": request.round,
            "client_id": request.client_id,
            "examples": request.examples,
            "metrics_json": json_text(request.metrics),
        }
        for request in new
    ]
    await connection.execute(_EVALUATIONS.insert().values(reported_at=clock_sql()), rows)


async def _mark_reported(
    connection: AsyncConnection,
    run_id: str,
    number: int,
    requests: Sequence[AcceptRequest | EvaluationRequest],
    *,
    kind: AssignmentKind,
) -> None:
    clients = [request.client_id for request in requests]
    await connection.execute(
        update(_ASSIGNMENTS)
        .where(
            _ASSIGNMENTS.c.run_id == run_id,
            _ASSIGNMENTS.c.round == number,
            _ASSIGNMENTS.c.kind == kind,
            is_one_of(connection, _ASSIGNMENTS.c.client_id, clients),
        )
        .values(state="reported", reason=None, ended_at=clock_sql())
    )
