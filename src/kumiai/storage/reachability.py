"""Which blobs rows reach: the one place that says so, for those who sweep, check and back up.

- Every model, as long as its row is there. Its bytes may be let go on purpose: by the job's
  ``keep_versions``, once its round is published and has enough successors.
- The strategy's state that a live run goes on from: that of its last published round.
- The accepted updates of a round that collects or is closed; of one that is published or abandoned
  nobody needs them.
"""

from collections.abc import AsyncIterator, Collection
from typing import Any, Final

from sqlalchemy import Column, Row, Select, and_, func, literal, null, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.storage.database import DatabaseManager
from kumiai.storage.namespaces import model_namespace, state_namespace, update_namespace
from kumiai.storage.records import ReachableBlob
from kumiai.storage.rows import table_of
from kumiai.storage.tables import AcceptedUpdate, FLModel, Round, TrainingSession

__all__ = ["last_published", "reachable_pages", "reached_by"]

_RUNS = table_of(TrainingSession)
_ROUNDS = table_of(Round)
_UPDATES = table_of(AcceptedUpdate)
_MODELS = table_of(FLModel)
_LIVE: Final = ("submitted", "running")

last_published: Final = (
    select(func.max(_ROUNDS.c.round))
    .where(_ROUNDS.c.run_id == _RUNS.c.run_id, _ROUNDS.c.stage == "published")
    .scalar_subquery()
)
"""The last round of a row of ``runs`` that has published a model, and a state if there is one."""

_PUBLISHED = and_(
    _ROUNDS.c.run_id == _MODELS.c.run_id,
    _ROUNDS.c.round == _MODELS.c.round,
    _ROUNDS.c.round > 0,
    _ROUNDS.c.stage == "published",
)
_OF_ROUND = and_(_ROUNDS.c.run_id == _UPDATES.c.run_id, _ROUNDS.c.round == _UPDATES.c.round)
_REACHED: Final[tuple[tuple[Select[Any], tuple[Column[Any], ...]], ...]] = (
    (
        select(
            literal("model").label("kind"),
            _MODELS.c.run_id,
            _MODELS.c.round,
            null().label("client_id"),
            _MODELS.c.digest,
            _MODELS.c.size_bytes,
            # The initial model, and one that was entered from elsewhere, no round lets go.
            _ROUNDS.c.round.is_not(None).label("may_be_let_go"),
        ).select_from(_MODELS.outerjoin(_ROUNDS, _PUBLISHED)),
        (_MODELS.c.run_id, _MODELS.c.round),
    ),
    (
        select(
            literal("state").label("kind"),
            _RUNS.c.run_id,
            last_published.label("round"),
            null().label("client_id"),
            _RUNS.c.state_digest.label("digest"),
            null().label("size_bytes"),
            literal(value=False).label("may_be_let_go"),
        ).where(_RUNS.c.state.in_(_LIVE), _RUNS.c.state_digest.is_not(None)),
        (_RUNS.c.run_id,),
    ),
    (
        select(
            literal("update").label("kind"),
            _UPDATES.c.run_id,
            _UPDATES.c.round,
            _UPDATES.c.client_id,
            _UPDATES.c.digest,
            _UPDATES.c.size_bytes,
            literal(value=False).label("may_be_let_go"),
        )
        .select_from(_UPDATES.join(_ROUNDS, _OF_ROUND))
        .where(_ROUNDS.c.stage.in_(("collecting", "closed"))),
        (_UPDATES.c.run_id, _UPDATES.c.round, _UPDATES.c.client_id),
    ),
)
"""A statement for each kind of blob, with the columns that order its rows, the run's first."""


async def reached_by(connection: AsyncConnection, run_ids: Collection[str]) -> list[ReachableBlob]:
    """Return every blob that the rows of these runs reach."""
    return [
        _blob(row)
        for statement, (run_id, *_) in _REACHED
        for row in await connection.execute(statement.where(run_id.in_(run_ids)))
    ]


async def reachable_pages(
    database: DatabaseManager, *, page_rows: int
) -> AsyncIterator[tuple[ReachableBlob, ...]]:
    """Yield every blob that a row reaches; see `ModelRepository.reachable_digests`."""
    for statement, keys in _REACHED:
        place: tuple[Any, ...] | None = None
        while True:
            page = statement.order_by(*keys).limit(page_rows)
            if place is not None:
                page = page.where(tuple_(*keys) > place)
            async with database.reading() as connection:
                rows = (await connection.execute(page)).all()
            if rows:
                yield tuple(_blob(row) for row in rows)
            if len(rows) < page_rows:
                break
            place = tuple(getattr(rows[-1], key.name) for key in keys)


def _blob(row: Row[Any]) -> ReachableBlob:
    match row.kind:
        case "model":
            namespace = model_namespace(row.run_id)
        case "state":
            namespace = state_namespace(row.run_id, row.round)
        case _:
            namespace = update_namespace(row.run_id, row.round, row.client_id)
    return ReachableBlob(
        namespace=namespace,
        digest=row.digest,
        kind=row.kind,
        run_id=row.run_id,
        round=row.round,
        client_id=row.client_id,
        size_bytes=row.size_bytes,
        may_be_let_go=bool(row.may_be_let_go),
    )
