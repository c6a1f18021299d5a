"""Locks over tasks, processes and machines, with a token that a store can check.

A lock is a lease: who is halted for longer than it lasts has lost it, and may not know. So a lock
alone protects nothing that matters. Each grant of a name carries a token larger than all before;
whoever writes under the lock hands the token to the store, which refuses a smaller one
(`kumiai.storage.cache.sql_locks.verify_fence`). With it, no update is lost; without it, it is only
unlikely.

Waiting is fair: who asks first gets the lock first. Who waits and dies is passed over after two
seconds.
"""

import asyncio
import contextlib
import itertools
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import ConflictError, FencedError, StorageError, UnavailableError
from kumiai.core.ids import new_id

__all__ = [
    "ALIVE_SECONDS",
    "Busy",
    "DistributedLock",
    "Grant",
    "HeldLock",
    "LockBackend",
    "LockSource",
    "MemoryLocks",
    "poll_seconds",
]

ALIVE_SECONDS = 2.0
"""Who waits is passed over when it has not asked for so long."""
_MARGIN = 0.9
"""A holder trusts its lease for this share of it: clocks differ."""
_EXTENDS_PER_TTL = 3
_RETRY_SECONDS = 0.05
_NAME = re.compile(r"[^{}\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True, slots=True)
class Grant:
    """The lock is the asker's.

    Attributes:
        token: larger than that of every earlier grant of the name; >= 1, below 2**63.
    """

    token: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Another holds the lock, or is to have it first.

    Attributes:
        retry_seconds: when to ask again.
    """

    retry_seconds: float


@runtime_checkable
class LockBackend(Protocol):
    """Where locks are kept. Every failure is a `StorageError`."""

    async def acquire(
        self, name: str, owner: str, ttl_seconds: float, *, waits: bool
    ) -> Grant | Busy:
        """Take the lock if it is free and nobody waits for longer; to ask again is harmless.

        Args:
            name: which lock.
            owner: who asks; another text for each attempt to get a lock.
            ttl_seconds: how long the grant lasts unless it is extended.
            waits: whether to keep a place in the queue.
        """
        ...

    async def extend(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """Let the grant last for ``ttl_seconds`` from now; return whether it was still the owner's.

        A grant that has ended is not revived, even if nobody has taken the lock since.
        """
        ...

    async def release(self, name: str, owner: str) -> bool:
        """Give up the lock and the place in the queue; return whether the owner held it."""
        ...


@runtime_checkable
class LockSource(Protocol):
    """What has locks, such as a `RedisManager`."""

    @property
    def locks(self) -> LockBackend:
        """Where they are kept."""
        ...


class HeldLock:
    """A lock as its holder sees it; falsy if it was not got in time.

    Attributes:
        name: which lock.
        lost: set when the lock was lost while the body ran.
    """

    def __init__(
        self,
        backend: LockBackend,
        name: str,
        owner: str,
        grant: Grant | None,
        *,
        asked_at: float,
        ttl_seconds: float,
        clock: Clock,
    ) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self._backend = backend
        self._owner = owner
        self._grant = grant
        self._until = asked_at + ttl_seconds * _MARGIN
        self._ttl_seconds = ttl_seconds
        self._clock = clock

    def __bool__(self) -> bool:
        """Return whether the lock was got; it may be lost since."""
        return self._grant is not None

    @property
    def token(self) -> int:
        """The fencing token.

        Raises:
            ConflictError: the lock was not got.
        """
        if self._grant is None:
            raise ConflictError(f"lock {self.name!r} must be held, got no grant in time")
        return self._grant.token

    @property
    def is_held(self) -> bool:
        """Whether the lock is certainly still held at this moment, by the holder's clock."""
        return (
            self._grant is not None
            and not self.lost.is_set()
            and self._clock.monotonic() < self._until
        )

    async def verify(self) -> None:
        """Ask whether the lock is still held; it is extended by the way.

        Raises:
            FencedError: it is lost, or was never got: stop, change nothing.
            StorageError: nobody can tell.
        """
        if not self.is_held or not await self._extend():
            self.lost.set()
            raise FencedError(f"lock {self.name!r} must be held, got lost")

    async def _extend(self) -> bool:
        asked_at = self._clock.monotonic()
        if not await self._backend.extend(self.name, self._owner, self._ttl_seconds):
            return False
        self._until = max(self._until, asked_at + self._ttl_seconds * _MARGIN)
        return True

    async def _keep(self) -> None:
        """Extend the lease until it is lost; cancelled when the body ends."""
        pause = self._ttl_seconds / _EXTENDS_PER_TTL
        while True:
            await asyncio.sleep(pause)
            try:
                if not await self._extend():
                    break
                pause = self._ttl_seconds / _EXTENDS_PER_TTL
            except StorageError:
                # Nobody knows; the lease runs on until it ends.
                pause = min(_RETRY_SECONDS, pause)
            if not self.is_held:
                break
        self.lost.set()


class DistributedLock:
    """Takes locks by name.

    Args:
        source: where they are kept: a `RedisManager`, or a back-end (in SQL, in the process,
            Redis with SQL behind it).
        ttl_seconds: how long a grant lasts when its holder dies, > 0; a living holder extends it.
        timeout_seconds: how long to wait for a lock; ``None``: for ever.
        clock: measures waits and leases.

    Raises:
        ValueError: ``ttl_seconds`` is not above 0.
    """

    def __init__(
        self,
        source: "LockBackend | LockSource",
        *,
        ttl_seconds: float = 10.0,
        timeout_seconds: float | None = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if not ttl_seconds > 0:
            raise ValueError(f"ttl_seconds must be above 0, got {ttl_seconds}")
        self._backend: LockBackend = source.locks if isinstance(source, LockSource) else source
        self._ttl_seconds = ttl_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock or SystemClock()

    @asynccontextmanager
    async def acquire_context(
        self, name: str, *, timeout_seconds: float | None = -1.0
    ) -> AsyncIterator[HeldLock]:
        """Hold the lock while the body runs, if it can be got in time.

        Example::

            async with lock.acquire_context("resource_lock") as acquired:
                if acquired:
                    await write(fence=acquired.token)

        Args:
            name: which lock: 1 to 200 characters without braces and control characters.
            timeout_seconds: instead of the lock's own; 0: try once; ``None``: wait for ever.

        Yields:
            The lock; falsy if it was not got in time.

        Raises:
            UnavailableError: nobody could be asked for a lock until the time was out.
            ValueError: the name is wrong.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(
                "name of a lock must be 1 to 200 characters without braces and control "
                f"characters, got {name[:80]!r}"
            )
        timeout = self._timeout_seconds
        if timeout_seconds is None or timeout_seconds >= 0:
            timeout = timeout_seconds
        owner = new_id("lock")
        keeper: asyncio.Task[None] | None = None
        try:
            held = await self._acquire(name, owner, timeout)
            if held:
                keeper = asyncio.create_task(held._keep(), name=f"lock-{name}")  # noqa: SLF001
            yield held
        finally:
            if keeper is not None:
                keeper.cancel()
                await asyncio.wait({keeper})
            await self._release(name, owner)

    async def _acquire(self, name: str, owner: str, timeout: float | None) -> HeldLock:  # noqa: ASYNC109
        start = self._clock.monotonic()
        while True:
            asked_at = self._clock.monotonic()
            failure: UnavailableError | None = None
            try:
                outcome = await self._backend.acquire(
                    name, owner, self._ttl_seconds, waits=timeout != 0
                )
            except UnavailableError as error:
                outcome, failure = Busy(_RETRY_SECONDS), error
            grant = outcome if isinstance(outcome, Grant) else None
            held = HeldLock(
                self._backend,
                name,
                owner,
                grant,
                asked_at=asked_at,
                ttl_seconds=self._ttl_seconds,
                clock=self._clock,
            )
            if isinstance(outcome, Grant):
                return held
            pause = outcome.retry_seconds
            if timeout is not None:
                left = start + timeout - self._clock.monotonic()
                if left <= 0:
                    if failure is not None:
                        raise failure
                    return held
                pause = min(pause, left)
            await asyncio.sleep(pause)

    async def _release(self, name: str, owner: str) -> None:
        # Also after an attempt without success: its place in the queue, or a grant of which the
        # answer was lost. What cannot be given back ends by itself.
        releasing = asyncio.ensure_future(self._backend.release(name, owner))
        releasing.add_done_callback(lambda task: task.cancelled() or task.exception())
        with contextlib.suppress(StorageError):
            await asyncio.shield(releasing)


@dataclass(slots=True)
class _MemoryLock:
    owner: str
    until: float
    waiting: OrderedDict[str, float]
    """Who waits, in order, and until when each is taken to be alive."""


class MemoryLocks:
    """Locks within this process.

    Args:
        clock: tells when a lease ends.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._locks: dict[str, _MemoryLock] = {}
        self._tokens = itertools.count(1)
        self._granted: dict[str, int] = {}

    async def acquire(
        self, name: str, owner: str, ttl_seconds: float, *, waits: bool
    ) -> Grant | Busy:
        """Take the lock if it is free and nobody waits for longer."""
        now = self._clock.monotonic()
        lock = self._locks.setdefault(name, _MemoryLock("", now, OrderedDict()))
        if lock.owner == owner and now < lock.until:
            return Grant(self._granted[name])
        while lock.waiting and next(iter(lock.waiting.values())) <= now:
            lock.waiting.popitem(last=False)
        if now >= lock.until and next(iter(lock.waiting), owner) == owner:
            lock.waiting.pop(owner, None)
            lock.owner, lock.until = owner, now + ttl_seconds
            self._granted[name] = next(self._tokens)
            return Grant(self._granted[name])
        if not waits:
            return Busy(_RETRY_SECONDS)
        lock.waiting[owner] = now + ALIVE_SECONDS
        return Busy(poll_seconds(list(lock.waiting).index(owner)))

    async def extend(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """Let the grant last for ``ttl_seconds`` from now."""
        now = self._clock.monotonic()
        lock = self._locks.get(name)
        if lock is None or lock.owner != owner or now >= lock.until:
            return False
        lock.until = now + ttl_seconds
        return True

    async def release(self, name: str, owner: str) -> bool:
        """Give up the lock and the place in the queue."""
        now = self._clock.monotonic()
        lock = self._locks.get(name)
        if lock is None:
            return False
        lock.waiting.pop(owner, None)
        was_held = lock.owner == owner and now < lock.until
        if lock.owner == owner:
            lock.owner, lock.until = "", now
        if now >= lock.until and not lock.waiting:
            del self._locks[name]
            self._granted.pop(name, None)
        return was_held


def poll_seconds(position: int, *, first_seconds: float = 0.01) -> float:
    """Return when to ask again from a place in the queue, 0 being the head."""
    return min(first_seconds * (1 + position), 0.25)
