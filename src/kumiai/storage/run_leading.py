"""What only the leader of a run may write: the lease, and every step of a round.

Each step is one transaction that begins with the fence: it touches the run's row under the
lease's epoch and leader, which locks the row and fails when someone else leads. A step that was
committed before the leader died can be asked for again where the docstring says so.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

from sqlalchemy import Double, Row, and_, bindparam, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.storage.budget_ledger import (
    SealedCharge,
    release_charge,
    verify_no_charge_is_owed,
)
from kumiai.storage.fencing import LIVE_STATES, fence, fenced, held
from kumiai.storage.records import (
    Lease,
    Metrics,
    RoundRecord,
    RunRecord,
    UpdateRecord,
)
from kumiai.storage.rows import (
    add_event_row,
    clean,
    json_text,
    parsed,
    table_of,
    upsert,
)
from kumiai.storage.run_preparing import RunPreparing, assign_evaluation, join_round
from kumiai.storage.run_reports import insert_model
from kumiai.storage.single_statements import SingleWrite
from kumiai.storage.tables import (
    AcceptedUpdate,
    Assignment,
    FLModel,
    Round,
    TrainingSession,
    clock_sql,
)

__all__ = ["RunLeading"]

_RUNS = table_of(TrainingSession)
_ROUNDS = table_of(Round)
_ASSIGNMENTS = table_of(Assignment)
_UPDATES = table_of(AcceptedUpdate)
_MODELS = table_of(FLModel)
_NOBODY: Final[Mapping[str, int]] = MappingProxyType({})

# Named unlike the columns: SQLAlchemy takes a value by a column's name for one to be written.
_RENEW_LEASE = SingleWrite(
    "renew_lease",
    update(_RUNS)
    .where(
        _RUNS.c.run_id == bindparam("of_run"),
        _RUNS.c.epoch == bindparam("of_epoch"),
        _RUNS.c.leader == bindparam("of_leader"),
        or_(*(_RUNS.c.state == state for state in LIVE_STATES)),
    )
    .values(lease_until=clock_sql() + bindparam("ttl_seconds", type_=Double()))
    .returning(_RUNS.c.run_id),
)


class RunLeading(RunPreparing):
    """The lease and what it entitles to; see `kumiai.storage.runs.RunRepository`."""

    async def claimable(self, leader: str | None = None) -> list[str]:
        """Return the runs that need a leader, the oldest first.

        Args:
            leader: also those whose lease this leader holds: its own, from before a restart.
        """
        free = _RUNS.c.lease_until < clock_sql()
        if leader is not None:
            free = or_(free, _RUNS.c.leader == leader)
        statement = (
            select(_RUNS.c.run_id)
            .where(_RUNS.c.state.in_(LIVE_STATES), free)
            .order_by(_RUNS.c.created_at, _RUNS.c.run_id)
        )
        return [row["run_id"] for row in await self._fetch(statement)]

    async def acquire_lease(self, run_id: str, leader: str, ttl_seconds: float) -> Lease | None:
        """Become the run's leader, if it needs one; every older lease is fenced from then on.

        A leader takes its own lease again at once: its name must be exclusive, as that of the
        holder of a locked data directory is.

        Args:
            run_id: the run, submitted or running.
            leader: the name of the coordinator.
            ttl_seconds: how long the lease lasts by the database's clock unless renewed.

        Returns:
            The lease, or ``None`` when another's is still good or the run has ended.
        """
        async with self._database.transaction("acquire_lease") as connection:
            row = (
                await connection.execute(
                    update(_RUNS)
                    .where(
                        _RUNS.c.run_id == run_id,
                        _RUNS.c.state.in_(LIVE_STATES),
                        or_(_RUNS.c.lease_until < clock_sql(), _RUNS.c.leader == leader),
                    )
                    .values(
                        leader=leader,
                        lease_until=clock_sql() + ttl_seconds,
                        epoch=_RUNS.c.epoch + 1,
                        updated_at=clock_sql(),
                    )
                    .returning(_RUNS.c.epoch, _RUNS.c.round)
                )
            ).one_or_none()
            if row is None:
                return None
            await add_event_row(
                connection,
                run_id,
                kind="leader_changed",
                text=f"led by {leader} (epoch {row.epoch})",
                round=row.round,
                data={"leader": leader, "epoch": row.epoch},
            )
        return Lease(run_id, leader, row.epoch)

    async def renew_lease(self, lease: Lease, ttl_seconds: float) -> None:
        """Let the lease last for ``ttl_seconds`` from now.

        Raises:
            FencedError: another leads, or the run has ended.
        """
        renewed = await self._database.write(
            _RENEW_LEASE,
            of_run=lease.run_id,
            of_epoch=lease.epoch,
            of_leader=lease.leader,
            ttl_seconds=ttl_seconds,
        )
        if not renewed:
            raise fenced(lease)

    async def release_lease(self, lease: Lease) -> None:
        """Give the lease back, so that another may lead at once; an old one releases nothing."""
        async with self._database.transaction() as connection:
            await connection.execute(
                update(_RUNS).where(held(lease)).values(leader=None, lease_until=0.0)
            )

    async def start(self, lease: Lease) -> RunRecord:
        """Set the run running; doing it again changes nothing.

        Raises:
            FencedError: another leads.
            ConflictError: the run has ended.
        """
        async with self._database.transaction("start") as connection:
            run = await fence(connection, lease, states=LIVE_STATES)
            if run.state == "submitted":
                await connection.execute(
                    update(_RUNS)
                    .where(_RUNS.c.run_id == lease.run_id)
                    .values(state="running", started_at=clock_sql())
                )
                await add_event_row(
                    connection, lease.run_id, kind="run_started", text="running", round=run.round
                )
            return await self._row_of(connection, lease.run_id)

    async def open_round(
        self,
        lease: Lease,
        *,
        round: int,  # noqa: A002 - the glossary's word
        base_digest: str,
        target_reports: int,
        min_reports: int,
        deadline_seconds: float,
        clients: Sequence[tuple[str, int]],
        evaluate_clients: Sequence[str] = (),
        evaluate_round: int | None = None,
        joined: Mapping[str, int] = _NOBODY,
    ) -> RoundRecord:
        """Open the next round with its assignments.

        Args:
            lease: held.
            round: the round before is published.
            base_digest: the run's present model.
            target_reports: how many updates are wanted.
            min_reports: the quorum.
            deadline_seconds: how long it may collect, by the database's clock.
            clients: ``(client, seed)`` for training.
            evaluate_clients: who evaluates the model of ``evaluate_round`` beside it.
            evaluate_round: the round whose model that is.
            joined: who of them waits with an update, by the version that it was made from.

        Raises:
            FencedError: another leads.
            ConflictError: the run stands elsewhere, or its model is another; or somebody does not
                wait with such an update.
        """
        async with self._database.transaction("open_round") as connection:
            run = await fence(connection, lease)
            await _verify_next(connection, run, lease.run_id, round, base_digest)
            row = await _insert_round(
                connection,
                run_id=lease.run_id,
                round=round,
                base_digest=base_digest,
                target_reports=target_reports,
                min_reports=min_reports,
                deadline_at=clock_sql() + deadline_seconds,
            )
            await _assign_training(connection, lease.run_id, round, clients, attempt=1)
            await join_round(connection, lease.run_id, round, joined)
            if evaluate_round is not None:
                await assign_evaluation(connection, lease.run_id, evaluate_round, evaluate_clients)
            await add_event_row(
                connection,
                lease.run_id,
                kind="round_opened",
                text=f"round {round} opened for {len(clients)} clients",
                round=round,
                data={"clients": len(clients), "target": target_reports, "quorum": min_reports},
            )
        return RoundRecord(**parsed(row))

    async def extend_round(
        self,
        lease: Lease,
        *,
        round: int,  # noqa: A002 - the glossary's word
        deadline_seconds: float,
        clients: Sequence[tuple[str, int]],
        joined: Mapping[str, int] = _NOBODY,
    ) -> RoundRecord:
        """Give a round that collects another attempt and a new deadline.

        Args:
            lease: held.
            round: the open round.
            deadline_seconds: from now, by the database's clock.
            clients: ``(client, seed)`` to assign, anew or again; who has reported stays so.
            joined: who of them comes now and waits with an update, by the version of that.

        Raises:
            FencedError: another leads.
            ConflictError: the round does not collect.
        """
        async with self._database.transaction("extend_round") as connection:
            await fence(connection, lease)
            row = (
                await connection.execute(
                    update(_ROUNDS)
                    .where(_this(lease, round), _ROUNDS.c.stage == "collecting")
                    .values(
                        attempt=_ROUNDS.c.attempt + 1, deadline_at=clock_sql() + deadline_seconds
                    )
                    .returning(*_ROUNDS.c)
                )
            ).one_or_none()
            if row is None:
                raise await _wrong_stage(connection, lease, round, "collecting")
            await _assign_training(
                connection, lease.run_id, round, clients, attempt=int(row.attempt)
            )
            await join_round(connection, lease.run_id, round, joined)
            await add_event_row(
                connection,
                lease.run_id,
                kind="round_extended",
                text=f"round {round} goes on: attempt {row.attempt} for {len(clients)} clients",
                level="warning",
                round=round,
                data={"clients": len(clients), "attempt": row.attempt},
            )
        return RoundRecord(**parsed(row))

    async def restart_round(
        self,
        lease: Lease,
        *,
        round: int,  # noqa: A002 - the glossary's word
        deadline_seconds: float,
        clients: Sequence[tuple[str, int]],
        reason: str,
        counted: Collection[str] = (),
        joined: Mapping[str, int] = _NOBODY,
    ) -> RoundRecord:
        """Let a round collect anew, from nothing: what was counted could not be summed.

        Args:
            lease: held.
            round: collecting, or closed and not published.
            deadline_seconds: from now, by the database's clock.
            clients: ``(client, seed)`` who are asked again; the others are out of the round.
            reason: why, in words.
            counted: clients whose reports stay: they are in the sum of a part.
            joined: who of them comes now and waits with an update, by the version of that.

        Raises:
            FencedError: another leads.
            ConflictError: the round is published or abandoned.
        """
        async with self._database.transaction("restart_round") as connection:
            await fence(connection, lease)
            row = (
                await connection.execute(
                    update(_ROUNDS)
                    .where(_this(lease, round), _ROUNDS.c.stage.in_(("collecting", "closed")))
                    .values(
                        stage="collecting",
                        attempt=_ROUNDS.c.attempt + 1,
                        deadline_at=clock_sql() + deadline_seconds,
                        quorum_at=None,
                        closed_at=None,
                        close_reason=None,
                    )
                    .returning(*_ROUNDS.c)
                )
            ).one_or_none()
            if row is None:
                raise await _wrong_stage(connection, lease, round, "collecting or closed")
            await _forget_reports(connection, lease, round, clean(reason), counted)
            await _assign_training(
                connection, lease.run_id, round, clients, attempt=int(row.attempt)
            )
            await join_round(connection, lease.run_id, round, joined)
            await add_event_row(
                connection,
                lease.run_id,
                kind="round_restarted",
                text=f"round {round} begins anew for {len(clients)} clients: {reason}",
                level="warning",
                round=round,
                data={"clients": len(clients), "attempt": row.attempt},
            )
        return RoundRecord(**parsed(row))

    async def mark_quorum(self, lease: Lease, round: int) -> float:  # noqa: A002
        """Note that the quorum is reached; return when that was first noted.

        Raises:
            FencedError: another leads.
            ConflictError: the round does not collect.
        """
        async with self._database.transaction("mark_quorum") as connection:
            await fence(connection, lease)
            await connection.execute(
                update(_ROUNDS)
                .where(
                    _this(lease, round),
                    _ROUNDS.c.stage == "collecting",
                    _ROUNDS.c.quorum_at.is_(None),
                )
                .values(quorum_at=clock_sql())
            )
            row = await _round_row(connection, lease, round)
            if row.stage != "collecting":
                raise await _wrong_stage(connection, lease, round, "collecting")
            return float(row.quorum_at)

    async def close_round(
        self,
        lease: Lease,
        round: int,  # noqa: A002 - the glossary's word
        reason: str,
    ) -> list[UpdateRecord]:
        """End the collecting, and return what is in the sum: every update ever acknowledged.

        Clients still training are late. Closing a closed round returns the same updates.

        Raises:
            FencedError: another leads.
            ConflictError: the round is published or abandoned.
        """
        async with self._database.transaction("close_round") as connection:
            await fence(connection, lease)
            closed = await connection.execute(
                update(_ROUNDS)
                .where(_this(lease, round), _ROUNDS.c.stage == "collecting")
                .values(stage="closed", closed_at=clock_sql(), close_reason=clean(reason))
            )
            if closed.rowcount == 0:
                await _verify_stage(connection, lease, round, "closed")
            else:
                await connection.execute(
                    update(_ASSIGNMENTS)
                    .where(_open(lease, round, "train"))
                    .values(state="late", reason=clean(reason), ended_at=clock_sql())
                )
            # A statement of its own: it sees what was committed while the update waited.
            rows = await connection.execute(
                select(_UPDATES).where(_UPDATES.c.run_id == lease.run_id, _UPDATES.c.round == round)
            )
            updates = sorted(
                (UpdateRecord(**parsed(row)) for row in rows), key=lambda record: record.client_id
            )
            if closed.rowcount:
                await add_event_row(
                    connection,
                    lease.run_id,
                    kind="round_closed",
                    text=f"round {round} closed with {len(updates)} updates: {reason}",
                    round=round,
                    data={"reports": len(updates)},
                )
        return updates

    async def publish_round(
        self,
        lease: Lease,
        *,
        round: int,  # noqa: A002 - the glossary's word
        model_digest: str,
        model_size_bytes: int,
        state_digest: str | None,
        reports: int,
        examples: int,
        metrics: Metrics,
        charge: SealedCharge | None = None,
        entry: Any = None,
    ) -> None:
        """Publish the closed round's model; the same model again changes nothing.

        Args:
            lease: held.
            round: closed.
            model_digest: of the new model, whose blob is durable.
            model_size_bytes: of that blob.
            state_digest: of the strategy's state after this round, if it has one.
            reports: updates in the sum.
            examples: examples in the sum.
            metrics: weighted means of the updates' training metrics.
            charge: what the privacy of a private run's model was paid with, and the noised bytes
                that it is made of; it is released in the same transaction.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            FencedError: another leads.
            ConflictError: the round is not closed, or another model is published; or the charge
                is not sealed with these bytes, or is released; or a private run has no charge.
        """
        async with self._database.transaction("publish_round") as connection:
            run = await fence(connection, lease)
            is_first = await _mark_published(
                connection,
                lease,
                round,
                model_digest=model_digest,
                reports=reports,
                examples=examples,
                metrics_json=json_text(metrics),
            )
            if not is_first:
                await _verify_published(connection, lease, round, model_digest)
                return
            await connection.execute(
                update(_RUNS)
                .where(_RUNS.c.run_id == lease.run_id)
                .values(model_digest=model_digest, state_digest=state_digest)
            )
            await insert_model(
                connection,
                run_id=lease.run_id,
                round=round,
                digest=model_digest,
                size_bytes=model_size_bytes,
                name=run.name,
            )
            told = {"reports": reports, "examples": examples, "metrics": dict(metrics)}
            await _tell_published(connection, lease.run_id, round, told)
            await _release(connection, lease, round, model_digest, charge)
            if entry is not None:
                await self._trail.append(connection, entry)

    async def record_evaluation(
        self,
        lease: Lease,
        round: int,  # noqa: A002 - the glossary's word
        metrics: Metrics,
        reports: int,
    ) -> None:
        """Note the weighted means of what clients found for a round's model; 0 is the initial.

        Doing it again with the same numbers changes nothing.

        Raises:
            FencedError: another leads.
            ConflictError: the round is not published.
        """
        async with self._database.transaction("record_evaluation") as connection:
            await fence(connection, lease)
            row = await _round_row(connection, lease, round)
            if row.stage != "published":
                raise await _wrong_stage(connection, lease, round, "published")
            told = json_text(metrics)
            if (row.evaluation_json, row.evaluation_reports) == (told, reports):
                return
            await connection.execute(
                update(_ROUNDS)
                .where(_this(lease, round))
                .values(evaluation_json=told, evaluation_reports=reports)
            )
            await connection.execute(
                update(_MODELS)
                .where(_MODELS.c.run_id == lease.run_id, _MODELS.c.round == round)
                .values(metrics_json=told)
            )
            await add_event_row(
                connection,
                lease.run_id,
                kind="model_evaluated",
                text=f"model of round {round} evaluated by {reports} clients",
                round=round,
                data={"reports": reports, "metrics": dict(metrics)},
            )

    async def open_evaluation(
        self,
        lease: Lease,
        round: int,  # noqa: A002 - the glossary's word
        clients: Sequence[str],
    ) -> None:
        """Ask clients to evaluate a published round's model; who was asked stays as it is.

        Raises:
            FencedError: another leads.
            ConflictError: the round is not published.
        """
        async with self._database.transaction("open_evaluation") as connection:
            await fence(connection, lease)
            await _verify_stage(connection, lease, round, "published")
            await assign_evaluation(connection, lease.run_id, round, clients)
            await add_event_row(
                connection,
                lease.run_id,
                kind="evaluation_opened",
                text=f"model of round {round} goes to {len(clients)} clients for evaluation",
                round=round,
                data={"clients": len(clients)},
            )

    async def close_evaluation(self, lease: Lease, round: int) -> None:  # noqa: A002
        """End the evaluating of a round's model: who has not reported is late.

        Raises:
            FencedError: another leads.
        """
        async with self._database.transaction("close_evaluation") as connection:
            await fence(connection, lease)
            await connection.execute(
                update(_ASSIGNMENTS)
                .where(_open(lease, round, "evaluate"))
                .values(state="late", reason="the evaluation has ended", ended_at=clock_sql())
            )

    async def finish(
        self,
        lease: Lease,
        state: Literal["finished", "failed", "stopped"],
        reason: str,
        *,
        end_kind: str | None = None,
        entry: Any = None,
    ) -> None:
        """End the run, with all that is still open, and release the lease.

        Args:
            lease: held.
            state: how it ends.
            reason: why, in words.
            end_kind: of the error that it failed with.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            FencedError: another leads, or this was done before.
        """
        async with self._database.transaction("finish") as connection:
            run = await fence(connection, lease, states=LIVE_STATES)
            await connection.execute(
                update(_RUNS)
                .where(_RUNS.c.run_id == lease.run_id)
                .values(
                    state=state,
                    reason=clean(reason),
                    end_kind=end_kind,
                    finished_at=clock_sql(),
                    leader=None,
                    lease_until=0.0,
                )
            )
            await _abandon(connection, lease.run_id, clean(reason))
            await add_event_row(
                connection,
                lease.run_id,
                kind=f"run_{state}",
                text=reason,
                level="error" if state == "failed" else "info",
                round=run.round,
            )
            if entry is not None:
                await self._trail.append(connection, entry)


def _this(lease: Lease, number: int) -> Any:
    return and_(_ROUNDS.c.run_id == lease.run_id, _ROUNDS.c.round == number)


def _open(lease: Lease, number: int, kind: str) -> Any:
    return and_(
        _ASSIGNMENTS.c.run_id == lease.run_id,
        _ASSIGNMENTS.c.round == number,
        _ASSIGNMENTS.c.kind == kind,
        _ASSIGNMENTS.c.state == "assigned",
    )


async def _round_row(connection: AsyncConnection, lease: Lease, number: int) -> Row[Any]:
    row = (await connection.execute(select(_ROUNDS).where(_this(lease, number)))).one_or_none()
    if row is None:
        raise NotFoundError(f"round of run {lease.run_id} must exist, got {number}")
    return row


async def _wrong_stage(
    connection: AsyncConnection, lease: Lease, number: int, wanted: str
) -> ConflictError:
    row = await _round_row(connection, lease, number)
    return ConflictError(f"round {number} of run {lease.run_id} must be {wanted}, got {row.stage}")


async def _verify_stage(
    connection: AsyncConnection, lease: Lease, number: int, wanted: str
) -> None:
    if (await _round_row(connection, lease, number)).stage != wanted:
        raise await _wrong_stage(connection, lease, number, wanted)


async def _mark_published(
    connection: AsyncConnection, lease: Lease, number: int, **values: Any
) -> bool:
    """Publish the round if it is closed; return whether it was."""
    done = await connection.execute(
        update(_ROUNDS)
        .where(_this(lease, number), _ROUNDS.c.stage == "closed")
        .values(stage="published", published_at=clock_sql(), **values)
    )
    return bool(done.rowcount)


async def _tell_published(
    connection: AsyncConnection, run_id: str, number: int, told: Mapping[str, Any]
) -> None:
    await add_event_row(
        connection,
        run_id,
        kind="round_published",
        text=f"round {number} published: {told['reports']} updates, {told['examples']} examples",
        round=number,
        data=told,
    )


async def _verify_published(
    connection: AsyncConnection, lease: Lease, number: int, model_digest: str
) -> None:
    row = await _round_row(connection, lease, number)
    if row.stage != "published":
        raise await _wrong_stage(connection, lease, number, "closed")
    if row.model_digest != model_digest:
        raise ConflictError(
            f"round {number} of run {lease.run_id} must have one model, got {model_digest} "
            f"after {row.model_digest} was published"
        )


async def _release(
    connection: AsyncConnection,
    lease: Lease,
    number: int,
    model_digest: str,
    charge: SealedCharge | None,
) -> None:
    if charge is None:
        await verify_no_charge_is_owed(connection, lease.run_id)
        return
    await release_charge(
        connection, charge, run_id=lease.run_id, round=number, model_digest=model_digest
    )


async def _verify_next(
    connection: AsyncConnection, run: Row[Any], run_id: str, number: int, base_digest: str
) -> None:
    if number != run.round + 1:
        raise ConflictError(
            f"round of run {run_id} must be {run.round + 1}, the one after the last, got {number}"
        )
    stage = (
        await connection.execute(
            select(_ROUNDS.c.stage).where(_ROUNDS.c.run_id == run_id, _ROUNDS.c.round == run.round)
        )
    ).scalar_one()
    if stage != "published":
        raise ConflictError(
            f"round {run.round} of run {run_id} must be published before the next, got {stage}"
        )
    if base_digest != run.model_digest:
        raise ConflictError(
            f"base of round {number} of run {run_id} must be the run's model "
            f"{run.model_digest}, got {base_digest}"
        )


async def _abandon(connection: AsyncConnection, run_id: str, reason: str) -> None:
    """End the round that is open, if one is, and what clients still owe."""
    await connection.execute(
        update(_ROUNDS)
        .where(_ROUNDS.c.run_id == run_id, _ROUNDS.c.stage.in_(("collecting", "closed")))
        .values(stage="abandoned", closed_at=clock_sql(), close_reason=reason)
    )
    await connection.execute(
        update(_ASSIGNMENTS)
        .where(_ASSIGNMENTS.c.run_id == run_id, _ASSIGNMENTS.c.state == "assigned")
        .values(state="cancelled", reason=reason, ended_at=clock_sql())
    )


async def _insert_round(connection: AsyncConnection, **values: Any) -> Row[Any]:
    """Insert a round that collects from now on, and let the run stand at it."""
    opened = _ROUNDS.insert().values(stage="collecting", attempt=1, opened_at=clock_sql(), **values)
    row = (await connection.execute(opened.returning(*_ROUNDS.c))).one()
    await connection.execute(
        update(_RUNS).where(_RUNS.c.run_id == row.run_id).values(round=row.round)
    )
    return row


async def _forget_reports(
    connection: AsyncConnection, lease: Lease, number: int, reason: str, kept: Collection[str]
) -> None:
    """Drop what was counted in a round, and end what its clients still owe or have given."""
    await connection.execute(
        delete(_UPDATES).where(
            _UPDATES.c.run_id == lease.run_id,
            _UPDATES.c.round == number,
            _UPDATES.c.client_id.not_in(kept),
        )
    )
    await connection.execute(
        update(_ASSIGNMENTS)
        .where(
            _ASSIGNMENTS.c.run_id == lease.run_id,
            _ASSIGNMENTS.c.round == number,
            _ASSIGNMENTS.c.kind == "train",
            _ASSIGNMENTS.c.state.in_(("assigned", "reported")),
            _ASSIGNMENTS.c.client_id.not_in(kept),
        )
        .values(state="cancelled", reason=reason, ended_at=clock_sql())
    )


async def _assign_training(
    connection: AsyncConnection,
    run_id: str,
    number: int,
    clients: Sequence[tuple[str, int]],
    *,
    attempt: int,
) -> None:
    if not clients:
        return
    statement = upsert(connection, _ASSIGNMENTS).values(
        run_id=run_id,
        round=number,
        kind="train",
        state="assigned",
        attempt=attempt,
        assigned_at=clock_sql(),
    )
    statement = statement.on_conflict_do_update(
        index_elements=["run_id", "round", "client_id", "kind"],
        set_={
            "state": "assigned",
            "reason": None,
            "attempt": statement.excluded.attempt,
            "seed": statement.excluded.seed,
            "assigned_at": statement.excluded.assigned_at,
            "ended_at": None,
        },
        where=_ASSIGNMENTS.c.state != "reported",
    )
    # In order, as every lock on several assignments is taken.
    rows = [{"client_id": client_id, "seed": seed} for client_id, seed in sorted(clients)]
    await connection.execute(statement, rows)
