"""Locks in Redis: a key with a time to live, a counter for tokens, a queue. One step each.

By itself this store promises: one holder at a time as long as Redis forgets nothing, and tokens
that grow even if it does, as long as its clock does not go back meanwhile (a token is at least
the microseconds since 1970). `FailoverLocks` takes the tokens' growth from SQL instead.
"""

from typing import TYPE_CHECKING

from kumiai.storage.cache.locks import ALIVE_SECONDS, Busy, Grant, poll_seconds
from kumiai.storage.cache.redis_keyvalue import milliseconds
from kumiai.storage.cache.redis_scripts import (
    LOCK_ACQUIRE,
    LOCK_EXTEND,
    LOCK_RELEASE,
)

if TYPE_CHECKING:
    from kumiai.storage.cache.redis import RedisManager

__all__ = ["RedisLocks"]


class RedisLocks:
    """Locks on one Redis, Sentinel group or Cluster.

    Args:
        manager: the connection.
    """

    def __init__(self, manager: "RedisManager") -> None:
        self._manager = manager

    async def acquire(
        self,
        name: str,
        owner: str,
        ttl_seconds: float,
        *,
        waits: bool,
        space: str = "",
        floor: int | None = None,
    ) -> Grant | Busy:
        """Take the lock if it is free and nobody waits for longer.

        Args:
            name: which lock.
            owner: who asks.
            ttl_seconds: how long the grant lasts.
            waits: whether to keep a place in the queue.
            space: locks of another space are others.
            floor: tokens are larger than this; ``None``: than the microseconds since 1970.
        """
        is_granted, number, position = await self._manager.run(
            LOCK_ACQUIRE,
            self._keys(name, space),
            owner,
            milliseconds(ttl_seconds),
            int(waits),
            milliseconds(ALIVE_SECONDS),
            "" if floor is None else str(floor),
        )
        if int(is_granted):
            return Grant(int(number))
        return Busy(poll_seconds(int(position)))

    async def extend(self, name: str, owner: str, ttl_seconds: float, *, space: str = "") -> bool:
        """Let the grant last for ``ttl_seconds`` from now."""
        keys = self._keys(name, space)
        return bool(await self._manager.run(LOCK_EXTEND, keys, owner, milliseconds(ttl_seconds)))

    async def release(self, name: str, owner: str, *, space: str = "") -> bool:
        """Give up the lock and the place in the queue."""
        return bool(await self._manager.run(LOCK_RELEASE, self._keys(name, space), owner))

    def _keys(self, name: str, space: str) -> list[str]:
        # The braces keep the keys of a lock on one node of a Cluster.
        base = f"{self._manager.key_prefix}lock:{{{space}:{name}}}"
        return [f"{base}:held", f"{base}:token", f"{base}:queue", f"{base}:alive"]
