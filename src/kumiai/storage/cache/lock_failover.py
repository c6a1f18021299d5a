"""Locks in Redis that go on in SQL when Redis dies.

Strategy. An epoch in SQL of its own says where locks are granted now: on one Redis server, named
by its run and history, or in SQL. Who meets another Redis than that, or none, moves the epoch.

What is promised, by whom:

- Tokens of a name grow from grant to grant, whatever dies: a token is the epoch times 2^40 plus a
  counter, and each grant reads the epoch anew after it was asked for. Redis may lose all it knows.
- One holder at a time, by the clock as well: after each move nobody is granted a lock for
  ``ttl_seconds_max`` and a tenth, by which time every lease of before has ended; and a lease is
  extended only under the epoch in which it was granted. So after Redis dies, locks rest for that
  long. This half needs clocks that run equally fast within 10 %; the tokens need none.
- When SQL is away, no lock is granted or extended.
"""

import asyncio
import contextlib

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import ConflictError, KumiaiError, UnavailableError
from kumiai.storage.cache.coalescing import Coalesced
from kumiai.storage.cache.epoch import Epoch, EpochKeeper
from kumiai.storage.cache.locks import Busy, Grant
from kumiai.storage.cache.redis import RedisManager
from kumiai.storage.cache.redis_locks import RedisLocks
from kumiai.storage.cache.sql_locks import SQLLocks
from kumiai.storage.database import DatabaseManager

__all__ = ["FailoverLocks"]

_SQL = "sql"
_DRIFT = 1.1
_RETRY_SECONDS = 0.05
_COUNTER_BITS = 40


class FailoverLocks:
    """Locks on Redis while it is there, in SQL while it is not.

    Args:
        manager: the connection to Redis; it is pinned to one server.
        database: connected and migrated.
        name: which epoch; locks of one name exclude each other.
        ttl_seconds_max: the longest time to live of a grant, > 0; the longest of all processes
            counts.
        return_seconds: how long locks stay in SQL at least before Redis is tried again.
        clock: measures the time between two tries.

    Raises:
        ValueError: ``ttl_seconds_max`` is not above 0.
    """

    def __init__(
        self,
        manager: RedisManager,
        database: DatabaseManager,
        *,
        name: str = "locks",
        ttl_seconds_max: float = 10.0,
        return_seconds: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        if not ttl_seconds_max > 0:
            raise ValueError(f"ttl_seconds_max must be above 0, got {ttl_seconds_max}")
        self._manager = manager
        self._name = name
        self._redis = RedisLocks(manager)
        self._sql = SQLLocks(database)
        self._epochs = EpochKeeper(database, name)
        self._ttl_seconds_max = ttl_seconds_max
        self._return_seconds = return_seconds
        self._clock = clock or SystemClock()
        self._tried_at = self._clock.monotonic()
        self._epoch = Coalesced(self._read_epoch)
        self._granted: dict[str, Epoch] = {}
        """By owner, while it holds a lock or waits for one."""

    async def acquire(
        self, name: str, owner: str, ttl_seconds: float, *, waits: bool
    ) -> Grant | Busy:
        """Take the lock if it is free and nobody waits for longer.

        Raises:
            StorageError: SQL is away.
            ValueError: ``ttl_seconds`` is above ``ttl_seconds_max``.
        """
        if ttl_seconds > self._ttl_seconds_max:
            raise ValueError(
                f"ttl_seconds must be at most {self._ttl_seconds_max}, got {ttl_seconds}"
            )
        epoch = await self._epoch.join()
        if epoch.server == _SQL and await self._is_time_to_return():
            epoch = await self._move(epoch)
        if epoch.server not in {_SQL, self._manager.pinned}:
            epoch = await self._move(epoch)
        if epoch.server not in {_SQL, self._manager.pinned}:
            return Busy(_RETRY_SECONDS)
        # The age is the database's; its clock may step, and then the tokens alone protect.
        rest = max(epoch.lease_seconds, self._ttl_seconds_max) * _DRIFT
        if 0 <= epoch.age_seconds < rest:
            return Busy(min(rest - epoch.age_seconds, 0.25))
        self._granted[owner] = epoch
        try:
            if epoch.server == _SQL:
                return await self._sql.acquire(
                    name, owner, ttl_seconds, waits=waits, epoch=epoch, epoch_name=self._name
                )
            return await self._acquire_in_redis(name, owner, ttl_seconds, epoch, waits=waits)
        except ConflictError:
            return Busy(0.0)

    async def extend(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """Let the grant last for ``ttl_seconds`` from now; never under a later epoch."""
        granted = self._granted.get(owner)
        if granted is None:
            return False
        epoch = await self._epoch.join()
        if epoch.salt != granted.salt:
            return False
        if epoch.server == _SQL:
            try:
                return await self._sql.extend(
                    name, owner, ttl_seconds, epoch=epoch, epoch_name=self._name
                )
            except ConflictError:
                return False
        pinning = self._pinning_of(epoch)
        extended = await self._redis.extend(name, owner, ttl_seconds, space=_space(epoch))
        self._verify_pinning(pinning)
        return extended

    async def release(self, name: str, owner: str) -> bool:
        """Give up the lock and the place in the queue."""
        epoch = self._granted.pop(owner, None)
        if epoch is None:
            return False
        if epoch.server == _SQL:
            return await self._sql.release(name, owner)
        return await self._redis.release(name, owner, space=_space(epoch))

    async def close(self) -> None:
        """Stop what runs; the connections stay their managers'."""
        await self._epoch.close()

    async def _acquire_in_redis(
        self, name: str, owner: str, ttl_seconds: float, epoch: Epoch, *, waits: bool
    ) -> Grant | Busy:
        pinning = self._pinning_of(epoch)
        try:
            outcome = await self._redis.acquire(
                name,
                owner,
                ttl_seconds,
                waits=waits,
                space=_space(epoch),
                floor=epoch.number << _COUNTER_BITS,
            )
            self._verify_pinning(pinning)
        except UnavailableError:
            await self._move(epoch)
            return Busy(_RETRY_SECONDS)
        return outcome

    async def _move(self, epoch: Epoch) -> Epoch:
        """Let the epoch hold for the Redis that answers now, or for SQL if none does."""
        self._tried_at = self._clock.monotonic()
        server = _SQL
        with contextlib.suppress(KumiaiError, TimeoutError):
            found = await self._manager.identify()
            if found != self._manager.pinned:
                await self._manager.pin(found)
            # That it tells its name is not enough: it must take a command.
            await asyncio.sleep(self._manager.seconds_to_trial)
            await self._manager.execute("PING")
            server = found
        if server == epoch.server:
            return epoch
        return await self._epochs.claim(server, epoch)

    async def _is_time_to_return(self) -> bool:
        now = self._clock.monotonic()
        if now < self._tried_at + self._return_seconds:
            return False
        self._tried_at = now
        # To go back costs everybody a rest; so not in the middle of work.
        return not await self._sql.has_live_leases()

    async def _read_epoch(self) -> Epoch:
        return await self._epochs.register(self._ttl_seconds_max)

    def _pinning_of(self, epoch: Epoch) -> int:
        if self._manager.pinned != epoch.server:
            raise UnavailableError("redis must be the server of the epoch, got another")
        return self._manager.pinning

    def _verify_pinning(self, pinning: int) -> None:
        # Between two equal numbers only one server has answered.
        if self._manager.pinning != pinning:
            raise UnavailableError("redis must be one server during a call, got two")


def _space(epoch: Epoch) -> str:
    return f"{epoch.number}.{epoch.salt}"
