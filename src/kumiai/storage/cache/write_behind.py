"""Writes that are acknowledged before they have arrived where they belong.

A write is acknowledged once it is a committed row of the outbox, and seen by readers from then on:
in the cache, and if the cache has forgotten it, in the outbox. A drain hands it to the sink. Many
writers at once share a commit, which costs milliseconds whatever it holds.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kumiai.core.errors import DeadlineError, StorageError
from kumiai.storage.cache.draining import Handler
from kumiai.storage.cache.outbox import CacheOutbox, OutboxRow
from kumiai.storage.cache.patterns import CachePattern, Loader
from kumiai.storage.cache.serialisation import JSONSerializer, Serializer
from kumiai.storage.cache.single_flight import finished

__all__ = ["WriteBehind"]

_ROOM_POLL_SECONDS = 0.05

Sink = Callable[[str, Any, int], Awaitable[object]]
"""Writes a value under a key; the number grows with each write of a key."""


@dataclass(slots=True, eq=False)
class _Waiting:
    key: str
    value: bytes
    seq: asyncio.Future[int]


class WriteBehind:
    """Takes writes into the outbox and reads them back, wherever they are just now.

    Args:
        cache: holds the values near.
        outbox: holds the writes until they have arrived.
        topic: names these writes in the outbox; one per sink.
        serializer: how values become bytes in the outbox.
        batch_limit: how many writes one transaction takes at most, >= 1.
        room_seconds: how long a write waits for room when the outbox is full.

    Raises:
        ValueError: ``batch_limit`` is below 1.
    """

    def __init__(
        self,
        cache: CachePattern,
        outbox: CacheOutbox,
        *,
        topic: str,
        serializer: Serializer | None = None,
        batch_limit: int = 500,
        room_seconds: float = 10.0,
    ) -> None:
        if batch_limit < 1:
            raise ValueError(f"batch_limit must be at least 1, got {batch_limit}")
        self._cache = cache
        self._outbox = outbox
        self._topic = topic
        self._serializer = serializer or JSONSerializer()
        self._batch_limit = batch_limit
        self._room_seconds = room_seconds
        # As long as there are callers waiting.
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start taking writes; starting twice does nothing."""
        if self._writer is None:
            self._closing = False
            self._writer = asyncio.create_task(self._write_batches(), name="write-behind")

    async def close(self) -> None:
        """Take no more, commit what waits, and end; closing twice does nothing."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._closing = True
        self._wake.set()
        try:
            await asyncio.wait({writer})
        except asyncio.CancelledError:
            writer.cancel()
            raise

    async def put(
        self, key: str, value: Any, *, expire: float | None = None, tags: Sequence[str] = ()
    ) -> int:
        """Write a value; return its number once it can no longer be lost.

        Args:
            key: where, 1 to 512 characters.
            value: what the serializer can say.
            expire: seconds that it lives in the cache.
            tags: what it depends on in the cache.

        Raises:
            DeadlineError: the outbox stayed full; nothing is written.
            StorageError: it could not be written, or nobody knows.
            ValueError: an argument is out of its range.
        """
        if "\x00" in key:
            raise ValueError("key must hold no NUL, got one")
        seqs: list[int] = []
        data = self._serializer.dumps(value)

        async def append(_value: Any) -> None:
            # Also when the caller gives up: the cache may be told only once it is known whether
            # the row is there, or a reader would fetch, and keep, what the row replaces.
            seqs.append(await finished(self._append(key, data)))

        await self._cache.write_through(key, value, append, expire=expire, tags=tags)
        return seqs[0]

    async def get(
        self,
        key: str,
        loader: Loader,
        *,
        expire: float | None = None,
        tags: Sequence[str] = (),
        negative_expire: float | None = None,
    ) -> Any:
        """Return the latest value: from the cache, the outbox, or by the loader from the sink.

        Raises:
            NotFoundError: the loader said so.
            Exception: whatever else it raised.
            StorageError: the database failed.
            ValueError: an argument is out of its range.
        """

        async def pending_or_loaded() -> Any:
            # In this order: a row goes only after it has arrived where the loader looks.
            row = await self._outbox.find_pending(self._topic, key)
            return await loader() if row is None else self._serializer.loads(row.value)

        return await self._cache.get_or_load(
            key, pending_or_loaded, expire=expire, tags=tags, negative_expire=negative_expire
        )

    def handler(self, sink: Sink) -> Handler:
        """Return what a drain needs to hand the writes to a sink, one after the other."""

        async def apply(rows: Sequence[OutboxRow]) -> None:
            for row in rows:
                await sink(row.key, self._serializer.loads(row.value), row.seq)

        return apply

    async def _append(self, key: str, value: bytes) -> int:
        if self._writer is None or self._writer.done():
            raise StorageError(
                "write-behind must be open, got a write before start(), after close() or its end"
            )
        waiting = _Waiting(key, value, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.seq

    async def _write_batches(self) -> None:
        try:
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                size = min(len(self._waiting), self._batch_limit)
                batch = [self._waiting.popleft() for _ in range(size)]
                try:
                    await self._settle([each for each in batch if not each.seq.done()])
                except BaseException:
                    for each in batch:
                        each.seq.cancel()
                    raise
        finally:
            # Reached with someone waiting only when the task itself is cancelled.
            for waiting in self._waiting:
                waiting.seq.cancel()
            self._waiting.clear()

    async def _settle(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        try:
            await self._wait_for_room(len(batch))
            async with self._outbox.database.transaction("outbox.append") as connection:
                token = await self._outbox.add(
                    connection, self._topic, [(each.key, each.value) for each in batch]
                )
        except Exception as error:  # noqa: BLE001 - the outermost loop: each caller must hear
            for waiting in batch:
                if not waiting.seq.done():
                    waiting.seq.set_exception(error)
            return
        for waiting, seq in zip(batch, token.seqs, strict=True):
            if not waiting.seq.done():
                waiting.seq.set_result(seq)
        self._outbox.wake.set()

    async def _wait_for_room(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._room_seconds
        while not await self._outbox.has_room(count):
            if loop.time() > deadline:
                raise DeadlineError(
                    f"outbox must have room within {self._room_seconds:g} s, "
                    f"got {self._outbox.capacity} rows or more; see whether its drain runs"
                )
            await asyncio.sleep(_ROOM_POLL_SECONDS)
