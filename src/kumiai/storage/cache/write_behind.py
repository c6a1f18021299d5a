"""Writes that are acknowledged before they have arrived where they belong.

A write is acknowledged once it is a committed row of the outbox, and seen by readers from then on:
in the cache, and if the cache has forgotten it, in the outbox. A drain hands it to the sink. Many
writers at once share a commit, which costs milliseconds whatever it holds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from kumiai.core.errors import DeadlineError
from kumiai.storage.batching import BatchWriter
from kumiai.storage.cache.draining import Handler
from kumiai.storage.cache.outbox import CacheOutbox, OutboxRow
from kumiai.storage.cache.patterns import CachePattern, Loader
from kumiai.storage.cache.serialisation import JSONSerializer, Serializer
from kumiai.storage.cache.single_flight import finished

__all__ = ["WriteBehind"]

_ROOM_POLL_SECONDS = 0.05

Sink = Callable[[str, Any, int], Awaitable[object]]
"""Writes a value under a key; the number grows with each write of a key."""


class WriteBehind(BatchWriter[tuple[str, bytes], int]):
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

    _name: ClassVar = "write-behind"
    # The rows of a batch are alike: what fails with one fails with all.
    _splits_failures: ClassVar = False

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
        super().__init__(batch_limit=batch_limit)
        self._cache = cache
        self._outbox = outbox
        self._topic = topic
        self._serializer = serializer or JSONSerializer()
        self._room_seconds = room_seconds

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
            seqs.append(await finished(self._written((key, data))))

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

    async def _commit(self, writes: Sequence[tuple[str, bytes]]) -> Sequence[int]:
        await self._wait_for_room(len(writes))
        async with self._outbox.database.transaction("outbox.append") as connection:
            token = await self._outbox.add(connection, self._topic, writes)
        self._outbox.wake.set()
        return token.seqs

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
