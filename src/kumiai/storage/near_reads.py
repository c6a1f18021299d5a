"""What many ask and few change, kept near: runs that have ended, their rounds and models; clients.

What a run does while it lives changes with every round, and its leader decides by it: that is
always asked of the database. Once it has ended only people's words about it change, and it may be
deleted; each such change is noted in its own transaction (`kumiai.storage.change_notes`), and the
call that made it returns when the cache has heard. The list of clients is noted likewise when one
attaches or detaches, and may be some milliseconds late.

Without a cache everything is asked of the database.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import DeadlineError, NotFoundError, StorageError
from kumiai.storage.cache.draining import DrainSettings, OutboxDrain
from kumiai.storage.cache.invalidation import INVALIDATION_TOPIC, CacheInvalidation, Target
from kumiai.storage.cache.metrics import CacheMetrics
from kumiai.storage.cache.outbox import CacheOutbox, OutboxToken
from kumiai.storage.cache.patterns import CachePattern
from kumiai.storage.change_notes import CLIENTS, subject_of_run
from kumiai.storage.clients import ClientRegistryRepository
from kumiai.storage.database import DatabaseManager
from kumiai.storage.records import ClientRecord, ModelRecord, RoundRecord, RunRecord
from kumiai.storage.runs import RunRepository

__all__ = ["CacheNotes", "NearReads"]

_Record = TypeVar("_Record", RunRecord, RoundRecord, ModelRecord, ClientRecord)

_ENDED = frozenset({"finished", "failed", "stopped"})
# A drain of this process is woken; this is how soon one of another takes over what is left.
_POLL_SECONDS = 2.0
_EXPIRE_SECONDS = 3600.0
_CLIENTS_KEY = "clients"


class CacheNotes:
    """Notes for a cache: rows of its outbox, which a drain turns into invalidations.

    Args:
        database: connected and migrated before the first note.
        cache: whose entries are invalidated, by tags that are the subjects.
        heard_seconds: how long a change waits for the cache at most.
    """

    def __init__(
        self, database: DatabaseManager, cache: CachePattern, *, heard_seconds: float = 5.0
    ) -> None:
        outbox = CacheOutbox(database)
        self._invalidation = CacheInvalidation(cache, outbox=outbox)
        self._drain = OutboxDrain(
            outbox,
            INVALIDATION_TOPIC,
            self._invalidation.apply_rows,
            settings=DrainSettings(poll_seconds=_POLL_SECONDS),
            metrics=cache.metrics,
        )
        self._outbox = outbox
        self._heard_seconds = heard_seconds
        self._log = structlog.get_logger("kumiai.storage.cache")

    async def start(self) -> None:
        """Forget what is cached, and begin to apply notes.

        While no coordinator had a cache nobody wrote notes: what Redis remembers of an earlier time
        may be old.

        Raises:
            StorageError: the database failed.
        """
        await self._invalidation.invalidate_pattern("*")
        await self._drain.start()

    async def close(self) -> None:
        """End; notes that are not applied wait for the next process."""
        await self._drain.close()

    async def note(self, connection: AsyncConnection, subject: str) -> OutboxToken:
        """Write a note in the caller's transaction."""
        token = await self._invalidation.after_commit(connection, Target("tag", subject))
        self._outbox.wake.set()
        return token

    async def heard(self, note: OutboxToken) -> None:
        """Return once the cache has heard, or after a while: the change stands in any case."""
        try:
            await self._invalidation.applied(note, timeout_seconds=self._heard_seconds)
        except (DeadlineError, StorageError) as error:
            self._log.warning("cache has not heard yet", error=str(error))


class NearReads:
    """Reads for many.

    Args:
        runs: the truth about runs.
        clients: the truth about clients.
        cache: ``None``: there is none.
    """

    def __init__(
        self,
        *,
        runs: RunRepository,
        clients: ClientRegistryRepository,
        cache: CachePattern | None = None,
    ) -> None:
        self._runs = runs
        self._clients = clients
        self._cache = cache

    @property
    def metrics(self) -> CacheMetrics | None:
        """What the cache has counted; ``None`` without one."""
        return None if self._cache is None else self._cache.metrics

    async def run(self, reference: str) -> RunRecord:
        """Return the run of this identifier, or the only one that begins with it.

        Raises:
            NotFoundError: there is none.
            ConflictError: several begin with it.
            StorageError: the database failed.
        """
        cache = self._cache
        if cache is None or not reference:
            return await self._runs.get(reference)
        key = _key("run", reference)
        if (near := await cache.get_cache(key)) is not None:
            return _record(RunRecord, near)
        run = await self._runs.get(reference)
        if run.run_id == reference and run.state in _ENDED:
            await self._kept(key, subject_of_run(run.run_id), lambda: self._ended_run(run.run_id))
        return run

    async def rounds(self, run: RunRecord) -> list[RoundRecord]:
        """Return all rounds in order; the first is round 0, the initial model.

        Raises:
            StorageError: the database failed.
        """
        return await self._of_run("rounds", run, self._runs.rounds, RoundRecord)

    async def models(self, run: RunRecord) -> list[ModelRecord]:
        """Return the run's models in order of their rounds; the first is the initial one.

        Raises:
            StorageError: the database failed.
        """
        return await self._of_run("models", run, self._runs.models, ModelRecord)

    async def clients(self) -> list[ClientRecord]:
        """Return every client that ever attached, sorted by identifier.

        Raises:
            StorageError: the database failed.
        """

        async def load() -> list[dict[str, Any]]:
            return [_plain(each) for each in await self._clients.list_clients()]

        found = await self._kept(_CLIENTS_KEY, CLIENTS, load)
        return [_record(ClientRecord, each) for each in found]

    async def _of_run(
        self,
        what: str,
        run: RunRecord,
        load: Callable[[str], Awaitable[Sequence[_Record]]],
        record: type[_Record],
    ) -> list[_Record]:
        if run.state not in _ENDED:
            return list(await load(run.run_id))

        async def plain() -> list[dict[str, Any]]:
            return [_plain(each) for each in await load(run.run_id)]

        found = await self._kept(_key(what, run.run_id), subject_of_run(run.run_id), plain)
        return [_record(record, each) for each in found]

    async def _ended_run(self, run_id: str) -> dict[str, Any]:
        run = await self._runs.find(run_id)
        if run is None:
            raise NotFoundError(f"run must exist, got {run_id!r}")
        return _plain(run)

    async def _kept(self, key: str, subject: str, load: Callable[[], Awaitable[Any]]) -> Any:
        if self._cache is None:
            return await load()
        return await self._cache.get_or_load(key, load, tags=(subject,), expire=_EXPIRE_SECONDS)


def _key(what: str, run_id: str) -> str:
    return f"{what}:{run_id}"


def _plain(record: RunRecord | RoundRecord | ModelRecord | ClientRecord) -> dict[str, Any]:
    # Not asdict: it copies every metric, and nobody changes these.
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _record(record: type[_Record], values: Mapping[str, Any]) -> _Record:
    # JSON knows no tuples; the lists of records are tuples, all of them.
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return record(**known)
