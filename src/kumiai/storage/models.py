"""The models of all runs: found, described, entered from elsewhere, deleted.

Rounds publish models (`kumiai.storage.runs`); this repository never does. A model is named by its
``model_id``, which is ``<run_id>.<round>``.
"""

import math
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.storage.audit_trail import AuditTrail, NoTrail
from kumiai.storage.bulk import insert_rows, now_of
from kumiai.storage.change_notes import ChangeNotes, NoNotes, subject_of_run
from kumiai.storage.database import DatabaseManager
from kumiai.storage.described import DescribedQuery
from kumiai.storage.descriptions import Changes, change_row, described_values
from kumiai.storage.filters import metric_value, metrics_text
from kumiai.storage.namespaces import model_namespace
from kumiai.storage.paging import Order, Page, bytewise, fetch_page, name_of_list
from kumiai.storage.reachability import reachable_pages
from kumiai.storage.records import DeletedModel, ModelRecord, NewModel, ReachableBlob
from kumiai.storage.rows import clean, columns_of, parsed, table_of
from kumiai.storage.search import Searchable
from kumiai.storage.tables import FLModel, TrainingSession

__all__ = ["ModelOrder", "ModelQuery", "ModelRepository"]

ModelOrder = Literal["newest", "oldest", "name", "highest", "lowest"]

_MODELS = table_of(FLModel)
_RUNS = table_of(TrainingSession)
_COLUMNS = columns_of(FLModel)
_SEARCHABLE = Searchable(_MODELS, _MODELS.c.model_id)
_LIVE: Final = ("submitted", "running")
_BULK_COLUMNS: Final = (
    "run_id", "round", "model_id", "digest", "size_bytes", "name", "metrics_json", "created_at",
    "description", "tags_json", "search_terms",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuery(DescribedQuery):
    """Which models, and in which order; a filter that is left out lets everything through.

    Attributes:
        run_id: of this run.
        order: ``highest`` and ``lowest`` go by ``order_metric``, and leave out the models that
            have no such metric.
    """

    run_id: str | None = None
    order: ModelOrder = "newest"
    order_metric: str | None = None


class ModelRepository:
    """The models of all runs.

    Args:
        database: connected, its schema at this version.
        notes: hears of what is changed.
        trail: takes the entries of the audit log that some calls are given.

    Every method raises ``StorageError`` when the database fails.
    """

    def __init__(
        self,
        database: DatabaseManager,
        *,
        notes: ChangeNotes | None = None,
        trail: AuditTrail | None = None,
    ) -> None:
        self._database = database
        self._notes = notes or NoNotes()
        self._trail = trail or NoTrail()

    async def get(self, model_id: str) -> ModelRecord:
        """Return the model.

        Raises:
            NotFoundError: there is none.
        """
        async with self._database.reading() as connection:
            statement = select(*_COLUMNS).where(_MODELS.c.model_id == clean(model_id))
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise _missing(model_id)
        return ModelRecord(**parsed(row))

    async def list_models(
        self, query: ModelQuery | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> Page[ModelRecord]:
        """Return one page of the models that the query lets through.

        Args:
            query: ``None`` for all, the newest first.
            limit: how many at most, 1 to 1000.
            cursor: ``next_cursor`` of the page before.

        Raises:
            ConfigError: the query or the cursor makes no sense.
        """
        query = query or ModelQuery()
        async with self._database.reading() as connection:
            order = _order(connection, query)
            statement = _filtered(connection, select(*_COLUMNS), query)
            if query.order in {"highest", "lowest"}:
                statement = statement.where(order.key.is_not(None))
            return await fetch_page(
                connection,
                statement,
                ModelRecord,
                order=order,
                limit=limit,
                cursor=cursor,
                list_name=name_of_list("models", query),
            )

    async def add(self, model: NewModel) -> ModelRecord:
        """Enter a model from elsewhere, under a round of its run that has none.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: the run has a model of this round.
        """
        await self.add_many([model])
        return await self.get(f"{model.run_id}.{model.round}")

    async def add_many(self, models: Iterable[NewModel]) -> int:
        """Enter many models in one transaction: all of them, or none.

        Returns:
            How many there were.

        Raises:
            NotFoundError: one belongs to a run that does not exist.
            ConflictError: one stands already, or twice among them.
            ConfigError: a description is too long, or a tag is none.
        """
        async with self._database.transaction("add_models") as connection:
            now = await now_of(connection)
            run_ids: set[str] = set()

            def rows() -> Iterator[tuple[Any, ...]]:
                for model in models:
                    run_ids.add(model.run_id)
                    yield _values(model, now)

            count = await insert_rows(connection, _MODELS, _BULK_COLUMNS, rows())
            notes = [
                await self._notes.note(connection, subject_of_run(run_id))
                for run_id in sorted(run_ids)
            ]
        for note in notes:
            await self._notes.heard(note)
        return count

    async def update(
        self,
        model_id: str,
        changes: Changes,
        *,
        expected_version: int | None = None,
        entry: Any = None,
    ) -> ModelRecord:
        """Change what people wrote about a model.

        Args:
            model_id: exactly.
            changes: of description and tags.
            expected_version: the ``row_version`` that the caller has read; ``None`` for any.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: it is not of the expected version.
            ConfigError: the description is too long, or a tag is none.
        """
        async with self._database.transaction("update_model") as connection:
            row, changed = await change_row(
                connection,
                _MODELS,
                (_MODELS.c.model_id, clean(model_id)),
                changes,
                returning=_COLUMNS,
                name_columns=("name",),
                expected_version=expected_version,
            )
            note = await self._notes.note(connection, subject_of_run(row.run_id))
            if changed and entry is not None:
                await self._trail.append(connection, entry)
        await self._notes.heard(note)
        return ModelRecord(**parsed(row))

    async def delete(self, model_id: str, *, entry: Any = None) -> DeletedModel:
        """Delete a model's row, and tell whether its bytes are still reached by another.

        Args:
            model_id: exactly.
            entry: of the audit log, written with it; ``None``: none is kept.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: its run goes on, or it is the run's first or last model.
        """
        async with self._database.transaction("delete_model") as connection:
            of_this = select(*_COLUMNS).where(_MODELS.c.model_id == clean(model_id))
            row = (await connection.execute(of_this)).one_or_none()
            if row is None:
                raise _missing(model_id)
            # The run's row is locked first, as everywhere.
            run = (
                await connection.execute(
                    select(_RUNS.c.state, _RUNS.c.model_digest)
                    .where(_RUNS.c.run_id == row.run_id)
                    .with_for_update(key_share=True)
                )
            ).one_or_none()
            if run is None:
                raise _missing(model_id)
            if run.state in _LIVE:
                raise ConflictError(f"run of model {model_id} must have ended, got {run.state}")
            last = await connection.scalar(
                select(func.max(_MODELS.c.round)).where(_MODELS.c.run_id == row.run_id)
            )
            if row.round in {0, last}:
                raise ConflictError(
                    f"model {model_id} must be neither the first nor the last of its run; delete "
                    "the run"
                )
            gone = delete(_MODELS).where(_MODELS.c.model_id == row.model_id)
            if (await connection.execute(gone)).rowcount == 0:
                raise _missing(model_id)
            same = select(_MODELS.c.model_id).where(
                _MODELS.c.run_id == row.run_id, _MODELS.c.digest == row.digest
            )
            others = (await connection.execute(same.limit(1))).one_or_none()
            note = await self._notes.note(connection, subject_of_run(row.run_id))
            if entry is not None:
                await self._trail.append(connection, entry)
        await self._notes.heard(note)
        return DeletedModel(
            model_id=row.model_id,
            namespace=model_namespace(row.run_id),
            digest=row.digest,
            is_unreachable=others is None,
        )

    def reachable_digests(
        self, *, page_rows: int = 1000
    ) -> AsyncIterator[tuple[ReachableBlob, ...]]:
        """Yield every blob that a row speaks of, page by page.

        Which those are says `kumiai.storage.reachability`. Each page is read for itself: a row
        that is committed while the pages are read may be missing, so whoever deletes what is not
        reached spares what is young.

        Args:
            page_rows: how many rows one query returns at most, >= 1.
        """
        return reachable_pages(self._database, page_rows=page_rows)


def _values(model: NewModel, now: float) -> tuple[Any, ...]:
    if model.created_at is not None and not math.isfinite(model.created_at):
        raise ConfigError(f"created_at of a model must be finite, got {model.created_at}")
    described = described_values(model.description, model.tags, model.name)
    return (
        model.run_id,
        model.round,
        f"{model.run_id}.{model.round}",
        model.digest,
        model.size_bytes,
        clean(model.name),
        None if model.metrics is None else metrics_text(model.metrics),
        now if model.created_at is None else model.created_at,
        described["description"],
        described["tags_json"],
        described["search_terms"],
    )


def _order(connection: AsyncConnection, query: ModelQuery) -> Order:
    identifier = _MODELS.c.model_id
    match query.order:
        case "newest" | "oldest":
            return Order(_MODELS.c.created_at, identifier, float, query.order == "newest")
        case "name":
            return Order(bytewise(connection, _MODELS.c.name), identifier, str)
        case "highest" | "lowest":
            if not query.order_metric:
                raise ConfigError(f"order {query.order} must name its metric, got none")
            value = metric_value(connection, _MODELS.c.metrics_json, query.order_metric)
            return Order(value, identifier, float, query.order == "highest")


def _filtered(
    connection: AsyncConnection, statement: Select[Any], query: ModelQuery
) -> Select[Any]:
    conditions = query.conditions(connection, _SEARCHABLE)
    if query.run_id is not None:
        conditions.append(_MODELS.c.run_id == clean(query.run_id))
    if query.metric is not None:
        conditions.append(query.metric.holds(connection, _MODELS.c.metrics_json))
    return statement.where(*conditions)


def _missing(model_id: str) -> NotFoundError:
    return NotFoundError(f"model must exist, got {model_id[:80]!r}")
