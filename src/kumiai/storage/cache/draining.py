"""Applying what waits in the outbox.

One drain works per topic, in whichever process holds the topic's lease; if it dies, another takes
over. It applies first and deletes the rows after, so that a crash between the two applies them
again: a handler must bear that. Of several rows with one key it applies the latest alone.

A drain that was paused for longer than its lease may apply a batch that another has applied
already, and more since. Whoever cannot bear the older value for a moment compares the rows'
numbers, or applies them with `transactional=True`, in the transaction that deletes them: there the
lease is checked first, and each row is applied once.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import FencedError, StorageError, TransportError, UnavailableError
from kumiai.core.failpoints import reach
from kumiai.storage.cache.metrics import CacheMetrics
from kumiai.storage.cache.outbox import CacheOutbox, OutboxRow, row_of
from kumiai.storage.cache.tables import CacheDrain, OutboxEntry
from kumiai.storage.rows import clean, table_of, upsert
from kumiai.storage.tables import clock_sql

__all__ = ["DrainCounts", "DrainSettings", "OutboxDrain"]

_ROWS = table_of(OutboxEntry)
_DRAINS = table_of(CacheDrain)
_RETRY_SECONDS_MAX = 60.0
_STATE_SECONDS = 2.0
_AWAY = (TransportError, UnavailableError, ConnectionError, TimeoutError)
"""What tells that the other side is away: it says nothing against the row."""

Handler = Callable[[Sequence[OutboxRow]], Awaitable[None]]
TransactionalHandler = Callable[[AsyncConnection, Sequence[OutboxRow]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """How a drain works.

    Attributes:
        batch_limit: how many rows it takes at most at a time.
        attempts_max: after how many failures a row is parked.
        retry_seconds: how long it waits after a row's first failure; then twice as long each time.
        poll_seconds: how often it looks when nothing wakes it.
        lease_seconds: after how long another drain takes over from one that has died.

    Raises:
        ValueError: a value is not above 0.
    """

    batch_limit: int = 500
    attempts_max: int = 8
    retry_seconds: float = 0.2
    poll_seconds: float = 0.2
    lease_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Check every value."""
        for name in self.__slots__:
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(slots=True)
class DrainCounts:
    """What a drain has done.

    Attributes:
        applied: rows that a handler has applied.
        superseded: rows that a later one of the same key made needless.
        failed: failures of a handler.
        parked: rows given up.
        fenced: batches that another drain had taken over meanwhile.
    """

    applied: int = 0
    superseded: int = 0
    failed: int = 0
    parked: int = 0
    fenced: int = 0


class OutboxDrain:
    """Applies the rows of one topic.

    Args:
        outbox: the rows.
        topic: which of them.
        handler: applies some; of several with one key it gets the latest. With ``transactional``
            it gets the connection, too, and raises to undo everything.
        transactional: the handler writes to the same database, see the module's text.
        settings: sizes and times.
        metrics: told depth and age.
        owner: names this drain; by default at random.
    """

    def __init__(
        self,
        outbox: CacheOutbox,
        topic: str,
        handler: Handler | TransactionalHandler,
        *,
        transactional: bool = False,
        settings: DrainSettings | None = None,
        metrics: CacheMetrics | None = None,
        owner: str | None = None,
    ) -> None:
        self.counts = DrainCounts()
        self._outbox = outbox
        self._database = outbox.database
        self._topic = topic
        self._handler: Callable[..., Awaitable[None]] = handler
        self._transactional = transactional
        self._settings = settings or DrainSettings()
        self._metrics = metrics
        self._owner = owner or secrets.token_hex(8)
        self._task: asyncio.Task[None] | None = None
        self._epoch: int | None = None
        self._lease_known_until = 0.0
        self._state_at = 0.0
        self._log = structlog.get_logger("kumiai.storage.outbox")

    async def start(self) -> None:
        """Apply what comes, until `close`; starting twice does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"outbox-drain {self._topic}")

    async def close(self) -> None:
        """End; what is not applied stays where it is. Closing twice does nothing."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task})
        with contextlib.suppress(StorageError):
            await self._give_lease_back()

    async def drain_once(self) -> int:
        """Apply one batch, if this drain may; return how many rows are settled: applied or parked.

        Raises:
            StorageError: the database failed.
            TransportError: what the handler writes to cannot be reached; the rows wait.
            ConnectionError: likewise.
            TimeoutError: likewise.
        """
        rows = await self._waiting()
        if not rows:
            return 0
        epoch = await self._lease()
        if epoch is None:
            return 0
        # Again: before the lease was ours another may have applied what was there.
        rows = await self._waiting()
        last = {row.key: row for row in rows if row.key}
        chosen = [row for row in rows if not row.key or last[row.key] is row]
        try:
            return await self._apply(chosen, epoch)
        except FencedError:
            self._epoch = None
            self.counts.fenced += 1
            return 0

    async def _apply(self, rows: list[OutboxRow], epoch: int) -> int:
        if not rows:
            return 0
        try:
            await self._apply_together(rows, epoch)
        except _HandlerError as failure:
            if len(rows) > 1:
                # One bad row must not hold up the others.
                return sum([await self._apply([row], epoch) for row in rows])
            return await self._note_failure(rows[0], failure.error, epoch)
        self.counts.applied += len(rows)
        return len(rows)

    async def _apply_together(self, rows: list[OutboxRow], epoch: int) -> None:
        if self._transactional:
            async with self._database.transaction("outbox.apply") as connection:
                await self._verify_lease(connection, epoch)
                await self._handle(connection, rows)
                superseded = await _delete(connection, self._topic, rows)
        else:
            reach("storage.outbox.apply.before")
            async with self._leading(epoch):
                await self._handle(rows)
            reach("storage.outbox.apply.after")
            async with self._database.transaction("outbox.settle") as connection:
                await self._verify_lease(connection, epoch)
                superseded = await _delete(connection, self._topic, rows)
        self.counts.superseded += superseded

    async def _handle(self, *arguments: Any) -> None:
        try:
            await self._handler(*arguments)
        except _AWAY:
            raise
        except Exception as error:
            raise _HandlerError(error) from error

    @asynccontextmanager
    async def _leading(self, epoch: int) -> AsyncIterator[None]:
        """Keep the lease as long as the body lasts."""
        task = asyncio.create_task(self._renew(epoch))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _renew(self, epoch: int) -> None:
        with contextlib.suppress(FencedError):
            while True:
                await asyncio.sleep(self._settings.lease_seconds / 3)
                with contextlib.suppress(StorageError):
                    async with self._database.transaction("outbox.lease") as connection:
                        await self._verify_lease(connection, epoch)

    async def _note_failure(self, row: OutboxRow, error: Exception, epoch: int) -> int:
        attempts = row.attempts + 1
        is_parked = attempts >= self._settings.attempts_max
        wait = min(self._settings.retry_seconds * 2 ** (attempts - 1), _RETRY_SECONDS_MAX)
        async with self._database.transaction("outbox.failure") as connection:
            await self._verify_lease(connection, epoch)
            await connection.execute(
                update(_ROWS)
                .where(_ROWS.c.seq == row.seq)
                .values(
                    attempts=attempts,
                    retry_at=clock_sql() + wait,
                    reason=clean(f"{type(error).__name__}: {error}"),
                    parked_at=clock_sql() if is_parked else None,
                )
            )
        self.counts.failed += 1
        if is_parked:
            self.counts.parked += 1
            self._log.error(
                "outbox row parked",
                topic=self._topic,
                seq=row.seq,
                attempts=attempts,
                error=type(error).__name__,
            )
        return int(is_parked)

    async def _waiting(self) -> list[OutboxRow]:
        statement = (
            select(_ROWS)
            .where(
                _ROWS.c.topic == self._topic,
                _ROWS.c.parked_at.is_(None),
                _ROWS.c.retry_at <= clock_sql(),
            )
            .order_by(_ROWS.c.seq)
            .limit(self._settings.batch_limit)
        )
        async with self._database.reading() as connection:
            return [row_of(row) for row in await connection.execute(statement)]

    async def _lease(self) -> int | None:
        """Take or keep the topic's lease; return its epoch, or ``None``: another holds it."""
        now = time.monotonic()
        if self._epoch is not None and now < self._lease_known_until:
            return self._epoch
        self._epoch = await self._take_lease()
        self._lease_known_until = now + self._settings.lease_seconds / 2
        return self._epoch

    async def _take_lease(self) -> int | None:
        until = clock_sql() + self._settings.lease_seconds
        is_ours = _DRAINS.c.owner == self._owner
        async with self._database.transaction("outbox.lease") as connection:
            kept: int | None = (
                await connection.execute(
                    update(_DRAINS)
                    .where(_DRAINS.c.topic == self._topic, is_ours)
                    .values(lease_until=until)
                    .returning(_DRAINS.c.epoch)
                )
            ).scalar_one_or_none()
            if kept is not None:
                return kept
            taken: int | None = (
                await connection.execute(
                    upsert(connection, _DRAINS)
                    .values(topic=self._topic, owner=self._owner, epoch=1, lease_until=until)
                    .on_conflict_do_update(
                        index_elements=["topic"],
                        set_={
                            "owner": self._owner,
                            "epoch": _DRAINS.c.epoch + 1,
                            "lease_until": until,
                        },
                        where=_DRAINS.c.lease_until < clock_sql(),
                    )
                    .returning(_DRAINS.c.epoch)
                )
            ).scalar_one_or_none()
            return taken

    async def _verify_lease(self, connection: AsyncConnection, epoch: int) -> None:
        kept = await connection.execute(
            update(_DRAINS)
            .where(
                _DRAINS.c.topic == self._topic,
                _DRAINS.c.owner == self._owner,
                _DRAINS.c.epoch == epoch,
            )
            .values(lease_until=clock_sql() + self._settings.lease_seconds)
        )
        if not kept.rowcount:
            raise FencedError(
                f"drain {self._owner} must lead topic {self._topic!r}, got another that does"
            )

    async def _give_lease_back(self) -> None:
        self._epoch = None
        async with self._database.transaction("outbox.lease") as connection:
            await connection.execute(
                update(_DRAINS)
                .where(_DRAINS.c.topic == self._topic, _DRAINS.c.owner == self._owner)
                .values(lease_until=0.0)
            )

    async def _tell_state(self) -> None:
        now = time.monotonic()
        if self._metrics is None or now - self._state_at < _STATE_SECONDS:
            return
        self._state_at = now
        state = await self._outbox.state(self._topic)
        self._metrics.set_outbox(
            depth=state.depth, age_seconds=state.age_seconds, parked=state.parked
        )

    async def _run(self) -> None:
        pause = self._settings.poll_seconds
        while True:
            try:
                settled = await self.drain_once()
                await self._tell_state()
                pause = self._settings.poll_seconds
            except Exception as error:  # noqa: BLE001 - the outermost loop: it must go on
                self._log.warning("outbox waits", topic=self._topic, error=type(error).__name__)
                settled, pause = 0, min(2 * pause, 5.0)
            if not settled:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._outbox.wake.wait()
                self._outbox.wake.clear()


class _HandlerError(Exception):
    """What a handler raised, told apart from what the database raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def _delete(connection: AsyncConnection, topic: str, rows: Sequence[OutboxRow]) -> int:
    """Delete rows that were applied, and what they supersede; return how many these were."""
    deleted = 0
    for row in rows:
        which: Any = _ROWS.c.seq == row.seq
        if row.key:
            which = (_ROWS.c.topic == topic) & (_ROWS.c.key == row.key) & (_ROWS.c.seq <= row.seq)
        deleted += (await connection.execute(delete(_ROWS).where(which))).rowcount
    return max(0, deleted - len(rows))
