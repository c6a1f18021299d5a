"""A key-value store that goes on when Redis dies, and in which no old value ever comes back.

Strategy. What counts is told by an epoch in SQL (`kumiai.storage.cache.epoch`), which begins
every key. The rules, by which any number of processes may share one Redis:

1. A process trusts the epoch it has read for ``lease_seconds``, counted from before it asked. It
   reads from Redis only while it does.
2. The epoch holds for one server, named by its run and its replication history. A connection to
   any other is refused before a command is sent. Who meets another server (restarted, promoted)
   claims the row for it, which raises the epoch: nothing that the server remembers is read.
3. A change (`set`, `delete`, `increment`) reads the epoch anew, after it was called, then changes
   Redis, and returns when no process can trust an earlier epoch any more. So all that is stored
   in a later epoch was computed after the change was called.
4. A change for which Redis is away, or of which it is not known whether it was done, raises the
   epoch in SQL and returns when no process can trust the earlier one any more.
5. When SQL is away, nothing is read from Redis, and a change fails with `StorageError`.

While Redis is away the store is one that forgets everything at once: `get` finds nothing, `set`
is done and forgotten. A process that is alone may use an in-process twin meanwhile; it claims the
epoch like another server, so that even two who each believe to be alone read no wrong value.

What is not a change, because it takes nothing away that others rely on: `set` with ``generation``
or ``only_if_absent``, `compare_and_delete` and `compare_and_set`. They never wait.

Where it ends: clocks of two machines must run equally fast within 10 % over a lease, and a
machine that sleeps with its clock halted must not go on with its old processes. An administrator
who makes a primary a replica by hand must cut its clients, as Sentinel does.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import ConfigError, KumiaiError, StorageError, UnavailableError
from kumiai.core.ids import new_id
from kumiai.storage.cache.coalescing import Coalesced
from kumiai.storage.cache.epoch import Epoch, EpochKeeper
from kumiai.storage.cache.keyvalue import (
    KeyValueStore,
    StoreFullError,
    StoreSize,
    verify_expiry,
)
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.redis import RedisManager
from kumiai.storage.cache.redis_address import RedisLoginError
from kumiai.storage.database import DatabaseManager

__all__ = ["ResilientKeyValue", "ServedBy"]

_Result = TypeVar("_Result")

_DRIFT = 1.1
"""So much longer than a lease one waits for it to end."""
_LONG_AGO_SECONDS = 60.0
"""An epoch that is so old by the database's clock needs no wait, whatever that clock did."""
_SQL_TIMEOUT_SECONDS = 2.0
_PAUSE_SECONDS = (0.02, 0.5)
_CHANGE_ATTEMPTS = 3
_SWEEP_BATCH = 500
_SWEPT_SECONDS = 3600.0


class ServedBy(Enum):
    """Who answers now."""

    REDIS = "redis"
    TWIN = "twin"
    """The in-process twin, while Redis is away."""
    NOBODY = "nobody"
    """Everything is forgotten at once."""


@dataclass(frozen=True, slots=True, eq=False)
class _Active:
    """The store in use, and the name under which the epoch holds for it."""

    server: str
    store: KeyValueStore
    by: ServedBy
    pinning: int
    """Which pinning of the connection this was; another server may answer after the next."""


@dataclass(frozen=True, slots=True)
class _View:
    """What may be read: by which store, under which epoch, until when."""

    active: _Active
    epoch: int
    prefix: str
    until: float
    settled_at: float
    """From then on nobody trusts an earlier epoch."""


class ResilientKeyValue:
    """Redis while it is there, and no error and no wrong value when it is not.

    Args:
        manager: the connection to Redis; this store pins it to one server.
        database: connected and migrated; holds the epoch.
        twin: stands in while Redis is away; only for a process that is alone with its data.
        name: which epoch; stores of one name share their values.
        lease_seconds: how long the epoch is trusted, > 0: how long an invalidation takes while
            Redis is away.
        clock: tells how long ago the epoch was read.

    Raises:
        ValueError: ``lease_seconds`` is not above 0, or the name has other characters than
            letters, digits, ``-`` and ``_``.
    """

    def __init__(
        self,
        manager: RedisManager,
        database: DatabaseManager,
        *,
        twin: MemoryKeyValue | None = None,
        name: str = "cache",
        lease_seconds: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", name):
            raise ValueError(f"name must be 1 to 63 letters, digits, '-' or '_', got {name[:80]!r}")
        if not lease_seconds > 0:
            raise ValueError(f"lease_seconds must be above 0, got {lease_seconds}")
        self._manager = manager
        self._epochs = EpochKeeper(database, name)
        self._twin = twin
        self._twin_server = new_id("process")
        self._lease_seconds = lease_seconds
        self._clock = clock or SystemClock()
        self._active: _Active | None = None
        self._view: _View | None = None
        self._name = name
        self._claimed_at = -math.inf
        self._sweeper: asyncio.Task[None] | None = None
        self._fresh = Coalesced(self._confirm)
        self._bumps = Coalesced(self._epochs.bump)
        self._keeper: asyncio.Task[None] | None = None
        self._refresher: asyncio.Task[object] | None = None
        self._is_closed = False
        self.outages = 0

    @property
    def served_by(self) -> ServedBy:
        """Who answers now."""
        return ServedBy.NOBODY if self._active is None else self._active.by

    async def start(self) -> None:
        """Take up Redis if it is there; if not, go on looking for it.

        Raises:
            ConfigError: Redis refuses the user or the password.
            StorageError: the database is away.
        """
        await self._epochs.register(self._lease_seconds)
        try:
            await self._adopt()
        except RedisLoginError as error:
            raise ConfigError(str(error)) from error
        except (KumiaiError, TimeoutError):
            await self._adopt_twin()
            self._look_for_redis()

    async def close(self) -> None:
        """Stop looking for Redis; the connection stays its manager's."""
        self._is_closed = True
        self._view = self._active = None
        tasks = {
            task for task in (self._keeper, self._refresher, self._sweeper) if task is not None
        }
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._fresh.close()
        await self._bumps.close()

    async def generation(self) -> int:
        """Return the epoch; -1, which `set` never takes, while nobody answers."""
        view = await self._reading()
        return -1 if view is None else view.epoch

    async def get(self, key: str) -> bytes | None:
        """Return the value, or ``None`` when there is none or it can not be trusted."""
        return await self._read(lambda view: view.active.store.get(view.prefix + key), None)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys."""
        return await self._read(
            lambda view: view.active.store.get_many([view.prefix + key for key in keys]),
            [None] * len(keys),
        )

    async def set(
        self,
        key: str,
        value: bytes,
        *,
        expire_seconds: float | None = None,
        only_if_absent: bool = False,
        generation: int | None = None,
    ) -> bool:
        """Store a value.

        Without ``generation`` and ``only_if_absent`` this is a change: nobody reads an earlier
        value after it has returned, not even when Redis was away.
        """
        verify_expiry(expire_seconds)

        def store(view: _View) -> Awaitable[bool]:
            return view.active.store.set(
                view.prefix + key,
                value,
                expire_seconds=expire_seconds,
                only_if_absent=only_if_absent,
            )

        if generation is not None:
            view = await self._reading()
            if view is None or view.epoch != generation:
                return False
            # In the epoch that was named and in no later one.
            return await self._tried(store, view, forgotten=False)
        if only_if_absent:
            return await self._read(store, forgotten=True)
        return await self._change(store, forgotten=True)

    async def set_many(
        self, items: Mapping[str, bytes], *, expire_seconds: float | None = None
    ) -> None:
        """Store several values; this is a change."""
        verify_expiry(expire_seconds)
        await self._change(
            lambda view: view.active.store.set_many(
                {view.prefix + key: value for key, value in items.items()},
                expire_seconds=expire_seconds,
            ),
            None,
        )

    async def delete(self, *keys: str) -> int:
        """Delete keys; this is a change. While Redis is away all keys go, and 0 is returned."""
        return await self._change(
            lambda view: view.active.store.delete(*(view.prefix + key for key in keys)), 0
        )

    async def increment(self, key: str, by: int = 1, *, expire_seconds: float | None = None) -> int:
        """Add to a counter; this is a change. While Redis is away it begins at 0 each time."""
        verify_expiry(expire_seconds)
        return await self._change(
            lambda view: view.active.store.increment(
                view.prefix + key, by, expire_seconds=expire_seconds
            ),
            by,
        )

    async def compare_and_delete(self, key: str, value: bytes) -> bool:
        """Delete the key if it holds just this value; False while Redis is away."""
        return await self._read(
            lambda view: view.active.store.compare_and_delete(view.prefix + key, value),
            forgotten=False,
        )

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, expire_seconds: float | None = None
    ) -> bool:
        """Store ``value`` if the key holds just ``expected``; False while Redis is away."""
        verify_expiry(expire_seconds)
        return await self._read(
            lambda view: view.active.store.compare_and_set(
                view.prefix + key, expected, value, expire_seconds=expire_seconds
            ),
            forgotten=False,
        )

    async def seconds_left(self, key: str) -> float | None:
        """Return how long the key still lives."""
        return await self._read(
            lambda view: view.active.store.seconds_left(view.prefix + key), None
        )

    async def scan(self, pattern: str) -> AsyncIterator[str]:
        """Give each key that fits the glob.

        Who scans is about to delete what is found. So when Redis is away, or goes meanwhile, the
        epoch is raised: then nothing is left that was not found.
        """
        view = await self._freshly()
        if view is not None:
            try:
                async for key in view.active.store.scan(_escaped(view.prefix) + pattern):
                    yield key.removeprefix(view.prefix)
            except StorageError:
                self._lose(view.active)
            if self._is_current(view):
                return
        await self._raise_epoch()

    async def size(self) -> StoreSize:
        """Return how much the store holds; nothing while nobody answers."""
        return await self._read(lambda view: view.active.store.size(), StoreSize(0, 0))

    async def check(self) -> float:
        """Return how many seconds a trivial call to Redis takes.

        Raises:
            UnavailableError: Redis is away; the store goes on without it.
        """
        return await self._manager.key_value.check()

    async def _read(
        self, work: Callable[[_View], Awaitable[_Result]], forgotten: _Result
    ) -> _Result:
        view = await self._reading()
        return forgotten if view is None else await self._tried(work, view, forgotten)

    async def _tried(
        self, work: Callable[[_View], Awaitable[_Result]], view: _View, forgotten: _Result
    ) -> _Result:
        try:
            result = await work(view)
        except UnavailableError:
            self._lose(view.active)
            return forgotten
        except StoreFullError:
            return forgotten
        # The answer may be that of another server, to which the connection was pinned meanwhile.
        return result if self._is_current(view) else forgotten

    async def _change(
        self, work: Callable[[_View], Awaitable[_Result]], forgotten: _Result
    ) -> _Result:
        for _ in range(_CHANGE_ATTEMPTS):
            view = await self._freshly()
            if view is None:
                break
            try:
                result = await work(view)
            except UnavailableError:
                self._lose(view.active)
                break
            except StoreFullError:
                break
            if self._is_current(view):
                await self._wait_until(view.settled_at)
                return result
        await self._raise_epoch()
        return forgotten

    async def _raise_epoch(self) -> None:
        epoch = await self._bumps.join()
        # From now on, not from when it was raised: so nothing rests on the database's clock.
        await self._wait_until(self._clock.monotonic() + self._wait_seconds(epoch))

    async def _reading(self) -> _View | None:
        view = self._view
        now = self._clock.monotonic()
        if view is not None and now < view.until:
            if now > view.until - self._lease_seconds / 2 and not self._fresh.is_pending():
                self._refresher = asyncio.create_task(self._refresh())
            return view
        return await self._freshly()

    async def _refresh(self) -> None:
        await self._freshly()

    async def _freshly(self) -> _View | None:
        """Return what may be read by an epoch that is read after this call."""
        if self._active is None:
            self._look_for_redis()
            return None
        try:
            return await self._fresh.join()
        except StorageError:
            # Without SQL nothing is known: neither read nor written.
            return None

    async def _confirm(self) -> _View | None:
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(_SQL_TIMEOUT_SECONDS):
                epoch = await self._epochs.read()
        except TimeoutError:
            raise UnavailableError(
                f"database must answer within {_SQL_TIMEOUT_SECONDS} seconds, got nothing"
            ) from None
        return self._take(epoch, asked_at)

    def _take(self, epoch: Epoch, asked_at: float) -> _View | None:
        active = self._active
        if active is None or self._is_closed or not self._is_pinned(active):
            return None
        if epoch.server != active.server:
            self._lose(active)
            return None
        prefix = f"{self._name}.{epoch.number}.{epoch.salt}:"
        known = self._view
        now = self._clock.monotonic()
        if known is not None and known.prefix == prefix and known.active is active:
            settled_at = known.settled_at
        elif epoch.age_seconds > _LONG_AGO_SECONDS:
            settled_at = now
        else:
            settled_at = now + self._wait_seconds(epoch)
        view = _View(active, epoch.number, prefix, asked_at + self._lease_seconds, settled_at)
        self._view = view
        if known is None or known.prefix != prefix:
            self._begin_to_sweep(view)
        return view

    def _is_current(self, view: _View) -> bool:
        now = self._view
        if now is None or now.active is not view.active or now.prefix != view.prefix:
            return False
        return self._is_pinned(now.active)

    def _is_pinned(self, active: _Active) -> bool:
        # Another user of the same connection may have pinned it to another server.
        if active.by is ServedBy.TWIN or active.pinning == self._manager.pinning:
            return True
        self._lose(active)
        return False

    def _lose(self, active: _Active) -> None:
        if self._active is not active:
            return
        if active.by is ServedBy.REDIS:
            self.outages += 1
        self._active = self._view = None
        self._look_for_redis()

    def _begin_to_sweep(self, view: _View) -> None:
        if view.active.by is ServedBy.REDIS and (self._sweeper is None or self._sweeper.done()):
            self._sweeper = asyncio.create_task(self._sweep(view), name="cache-sweeper")

    async def _sweep(self, view: _View) -> None:
        """Delete what earlier epochs left, once for all processes: nobody else ever would."""
        store = view.active.store
        with contextlib.suppress(StorageError):
            if not await store.set(
                f"{self._name}.swept.{view.epoch}",
                b"",
                only_if_absent=True,
                expire_seconds=_SWEPT_SECONDS,
            ):
                return
            left: list[str] = []
            async for key in store.scan(f"{_escaped(self._name)}.*"):
                number = key[len(self._name) + 1 :].partition(".")[0]
                if number.isdecimal() and int(number) < view.epoch:
                    left.append(key)
                if len(left) == _SWEEP_BATCH:
                    await store.delete(*left)
                    left.clear()
            await store.delete(*left)

    def _look_for_redis(self) -> None:
        if self._is_closed or (self._keeper is not None and not self._keeper.done()):
            return
        self._keeper = asyncio.create_task(self._keep(), name="cache-keeper")

    async def _keep(self) -> None:
        pause, pause_max = _PAUSE_SECONDS
        while True:
            try:
                await asyncio.sleep(self._manager.seconds_to_trial)
                await self._adopt()
            except (KumiaiError, TimeoutError):
                await self._adopt_twin()
                await asyncio.sleep(pause)
                pause = min(pause * 2, pause_max)
            else:
                return

    async def _adopt(self) -> None:
        """Take up Redis under the epoch that holds for it, which is claimed if need be."""
        server = await self._manager.identify()
        if server != self._manager.pinned:
            await self._manager.pin(server)
        pinning = self._manager.pinning
        await self._manager.execute("PING")
        await self._activate(_Active(server, self._manager.key_value, ServedBy.REDIS, pinning))

    async def _adopt_twin(self) -> None:
        if self._twin is None or self._active is not None:
            return
        await self._twin.clear()
        try:
            await self._activate(_Active(self._twin_server, self._twin, ServedBy.TWIN, 0))
        except (KumiaiError, TimeoutError):
            return

    async def _activate(self, active: _Active) -> None:
        asked_at = self._clock.monotonic()
        async with asyncio.timeout(_SQL_TIMEOUT_SECONDS + self._lease_seconds):
            epoch = await self._epochs.read()
            if epoch.server != active.server:
                # Two who see different servers must not take the epoch from each other all day.
                await self._wait_until(self._claimed_at + self._lease_seconds)
                self._claimed_at = self._clock.monotonic()
                asked_at = self._clock.monotonic()
                epoch = await self._epochs.claim(active.server, epoch)
        if epoch.server != active.server:
            raise UnavailableError("epoch must hold for our server, got another's claim")
        self._active, self._view = active, None
        self._take(epoch, asked_at)

    def _wait_seconds(self, epoch: Epoch) -> float:
        return max(epoch.lease_seconds, self._lease_seconds) * _DRIFT

    async def _wait_until(self, moment: float) -> None:
        while (left := moment - self._clock.monotonic()) > 0:  # noqa: ASYNC110 - of our clock
            await asyncio.sleep(left)


def _escaped(prefix: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", prefix)
