"""The key-value store on Redis.

One server's or Cluster's keys behind the prefix of its `RedisManager`. It does not outlive
Redis: when that is away, calls fail with `UnavailableError`; `ResilientKeyValue` goes on.
"""

import itertools
import math
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kumiai.storage.cache.keyvalue import StoreSize, verify_expiry
from kumiai.storage.cache.redis_scripts import COMPARE_AND_DELETE, COMPARE_AND_SET, INCREMENT

if TYPE_CHECKING:
    from kumiai.storage.cache.redis import RedisManager

__all__ = ["RedisKeyValue", "milliseconds"]

_Item = TypeVar("_Item")

_BATCH = 500


class RedisKeyValue:
    """Bytes by key on Redis.

    Args:
        manager: the connection.
    """

    def __init__(self, manager: "RedisManager") -> None:
        self._manager = manager
        self._prefix = manager.key_prefix

    async def generation(self) -> int:
        """Return 0: this store itself does not notice that Redis forgot."""
        return 0

    async def get(self, key: str) -> bytes | None:
        """Return the value, or ``None`` when there is none."""
        value: bytes | None = await self._manager.execute("GET", self._prefix + key)
        if value is not None:
            self._manager.received(len(value))
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys."""
        values: list[bytes | None] = []
        for batch in _batches(keys):
            # Not MGET: in a Cluster the keys lie on several nodes.
            commands = [("GET", self._prefix + key) for key in batch]
            values += await self._manager.execute_many(commands)
        self._manager.received(sum(len(value) for value in values if value is not None))
        return values

    async def set(
        self,
        key: str,
        value: bytes,
        *,
        expire_seconds: float | None = None,
        only_if_absent: bool = False,
        generation: int | None = None,
    ) -> bool:
        """Store a value; return whether it was stored."""
        verify_expiry(expire_seconds)
        if generation not in {None, 0}:
            return False
        words = _set_words(self._prefix + key, value, expire_seconds)
        if only_if_absent:
            words += ("NX",)
        answer = await self._manager.execute(*words, sent_bytes=len(value))
        return bool(answer)

    async def set_many(
        self, items: Mapping[str, bytes], *, expire_seconds: float | None = None
    ) -> None:
        """Store several values; not atomic as a whole."""
        verify_expiry(expire_seconds)
        for batch in _batches(items.items()):
            commands = [
                _set_words(self._prefix + key, value, expire_seconds) for key, value in batch
            ]
            await self._manager.execute_many(
                commands, sent_bytes=sum(len(value) for _, value in batch)
            )

    async def delete(self, *keys: str) -> int:
        """Delete keys; return how many were there."""
        count = 0
        for batch in _batches(keys):
            commands = [("DEL", self._prefix + key) for key in batch]
            count += sum(await self._manager.execute_many(commands))
        return count

    async def increment(self, key: str, by: int = 1, *, expire_seconds: float | None = None) -> int:
        """Add to a counter; return the new value."""
        verify_expiry(expire_seconds)
        if expire_seconds is None:
            return int(await self._manager.execute("INCRBY", self._prefix + key, by))
        return int(
            await self._manager.run(
                INCREMENT, [self._prefix + key], by, milliseconds(expire_seconds)
            )
        )

    async def compare_and_delete(self, key: str, value: bytes) -> bool:
        """Delete the key if it holds just this value; return whether it did."""
        return bool(await self._manager.run(COMPARE_AND_DELETE, [self._prefix + key], value))

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, expire_seconds: float | None = None
    ) -> bool:
        """Store ``value`` if the key holds just ``expected``; return whether it did."""
        verify_expiry(expire_seconds)
        expiry = "" if expire_seconds is None else milliseconds(expire_seconds)
        return bool(
            await self._manager.run(COMPARE_AND_SET, [self._prefix + key], expected, value, expiry)
        )

    async def seconds_left(self, key: str) -> float | None:
        """Return how long the key still lives: infinity for ever, ``None`` when it is absent."""
        left = int(await self._manager.execute("PTTL", self._prefix + key))
        if left == -2:
            return None
        return math.inf if left == -1 else left / 1000

    async def scan(self, pattern: str) -> AsyncIterator[str]:
        """Give each key that fits the glob, by SCAN; a key may come twice."""
        whole = _escaped(self._prefix) + pattern
        async for key in self._manager.scan(whole):
            yield key.decode(errors="surrogateescape")[len(self._prefix) :]

    async def size(self) -> StoreSize:
        """Return how much the server holds, others' keys included."""
        keys, size_bytes = await self._manager.call(lambda link: link.size())
        return StoreSize(keys=keys, bytes=size_bytes)

    async def check(self) -> float:
        """Return how many seconds a PING takes."""
        start = time.perf_counter()
        await self._manager.execute("PING")
        return time.perf_counter() - start

    async def close(self) -> None:
        """Do nothing: the connections are the manager's."""


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, at least 1: Redis takes no 0."""
    return max(1, round(seconds * 1000))


def _set_words(key: str, value: bytes, expire_seconds: float | None) -> tuple[Any, ...]:
    if expire_seconds is None:
        return ("SET", key, value)
    return ("SET", key, value, "PX", milliseconds(expire_seconds))


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[\]^\\-])", r"\\\1", text)


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield batch
