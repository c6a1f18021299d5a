"""A key-value store within the process: bounded, and exact about time.

It is what stands in when no Redis is configured. It belongs to one event loop.
"""

import asyncio
import heapq
import itertools
import math
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import StorageError
from kumiai.storage.cache.keyvalue import StoreSize, glob_pattern, verify_expiry

__all__ = ["MemoryKeyValue"]

_ENTRY_BYTES = 200
"""What Python needs for an entry beside the key and the value; measured, rounded up."""
_SCAN_BATCH = 1000
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_INTEGER_MAX = 2**63 - 1


@dataclass(slots=True)
class _Entry:
    value: bytes
    expires: float
    """Monotonic seconds; infinity: never."""
    serial: int


class MemoryKeyValue:
    """Bytes by key in this process; the least recently used go when it is full.

    Args:
        max_bytes: how much it holds at most, keys and its own needs included, > 0.
        clock: tells when a key expires.

    Raises:
        ValueError: ``max_bytes`` is not above 0.
    """

    def __init__(self, *, max_bytes: int = 64 * 2**20, clock: Clock | None = None) -> None:
        if max_bytes <= 0:
            raise ValueError(f"max_bytes must be above 0, got {max_bytes}")
        self._max_bytes = max_bytes
        self._clock = clock or SystemClock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._expiries: list[tuple[float, int, str]] = []
        self._serials = itertools.count()
        self._bytes = 0
        self._generation = 0
        self.evictions = 0

    async def generation(self) -> int:
        """Return how often the store has been cleared."""
        return self._generation

    async def get(self, key: str) -> bytes | None:
        """Return the value, or ``None`` when there is none."""
        entry = self._find(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys."""
        return [await self.get(key) for key in keys]

    async def set(
        self,
        key: str,
        value: bytes,
        *,
        expire_seconds: float | None = None,
        only_if_absent: bool = False,
        generation: int | None = None,
    ) -> bool:
        """Store a value; one that is larger than the store is not stored."""
        verify_expiry(expire_seconds)
        if generation is not None and generation != self._generation:
            return False
        if only_if_absent and self._find(key) is not None:
            return False
        return self._put(key, bytes(value), self._expiry(expire_seconds))

    async def set_many(
        self, items: Mapping[str, bytes], *, expire_seconds: float | None = None
    ) -> None:
        """Store several values."""
        verify_expiry(expire_seconds)
        for key, value in items.items():
            self._put(key, bytes(value), self._expiry(expire_seconds))

    async def delete(self, *keys: str) -> int:
        """Delete keys; return how many were there."""
        found = [key for key in dict.fromkeys(keys) if self._find(key) is not None]
        for key in found:
            self._remove(key)
        return len(found)

    async def increment(self, key: str, by: int = 1, *, expire_seconds: float | None = None) -> int:
        """Add to a counter; return the new value.

        Raises:
            StorageError: the value is no integer, or leaves 64 bits.
        """
        verify_expiry(expire_seconds)
        entry = self._find(key)
        number = _integer(key, entry.value if entry else b"0") + by
        if not -_INTEGER_MAX - 1 <= number <= _INTEGER_MAX:
            raise StorageError(f"counter {key!r} must stay within 64 bits, got {number}")
        kept = entry.expires if entry else math.inf
        expires = kept if expire_seconds is None else self._expiry(expire_seconds)
        self._put(key, b"%d" % number, expires)
        return number

    async def compare_and_delete(self, key: str, value: bytes) -> bool:
        """Delete the key if it holds just this value; return whether it did."""
        entry = self._find(key)
        if entry is None or entry.value != value:
            return False
        self._remove(key)
        return True

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, expire_seconds: float | None = None
    ) -> bool:
        """Store ``value`` if the key holds just ``expected``; return whether it did."""
        verify_expiry(expire_seconds)
        entry = self._find(key)
        if entry is None or entry.value != expected:
            return False
        return self._put(key, bytes(value), self._expiry(expire_seconds))

    async def seconds_left(self, key: str) -> float | None:
        """Return how long the key still lives: infinity for ever, ``None`` when it is absent."""
        entry = self._find(key)
        return None if entry is None else entry.expires - self._clock.monotonic()

    async def scan(self, pattern: str) -> AsyncIterator[str]:
        """Give each key that fits the glob; others are served between the batches."""
        fits = glob_pattern(pattern).fullmatch
        for index, key in enumerate(list(self._entries)):
            if index % _SCAN_BATCH == _SCAN_BATCH - 1:
                await asyncio.sleep(0)
            if fits(key) and self._find(key) is not None:
                yield key

    async def size(self) -> StoreSize:
        """Return how much the store holds; what has expired does not count."""
        self._remove_expired()
        return StoreSize(keys=len(self._entries), bytes=self._bytes)

    async def check(self) -> float:
        """Return 0: there is nothing to wait for."""
        return 0.0

    async def clear(self) -> None:
        """Forget everything, and begin a new `generation`."""
        self._entries.clear()
        self._expiries.clear()
        self._bytes = 0
        self._generation += 1

    async def close(self) -> None:
        """Forget everything."""
        await self.clear()

    def _expiry(self, expire_seconds: float | None) -> float:
        return math.inf if expire_seconds is None else self._clock.monotonic() + expire_seconds

    def _find(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires <= self._clock.monotonic():
            self._remove(key)
            return None
        return entry

    def _put(self, key: str, value: bytes, expires: float) -> bool:
        if key in self._entries:
            self._remove(key)
        needed = _footprint(key, value)
        if needed > self._max_bytes:
            return False
        if self._bytes + needed > self._max_bytes:
            self._remove_expired()
        while self._bytes + needed > self._max_bytes:
            self._remove(next(iter(self._entries)))
            self.evictions += 1
        entry = _Entry(value, expires, next(self._serials))
        self._entries[key] = entry
        self._bytes += needed
        if expires < math.inf:
            heapq.heappush(self._expiries, (expires, entry.serial, key))
            self._drop_old_expiries()
        return True

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._bytes -= _footprint(key, entry.value)

    def _remove_expired(self) -> None:
        now = self._clock.monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            _, serial, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry.serial == serial:
                self._remove(key)

    def _drop_old_expiries(self) -> None:
        # A key that is written again leaves its earlier expiry behind; they must not pile up.
        if len(self._expiries) > 2 * len(self._entries) + 64:
            self._expiries = [
                (entry.expires, entry.serial, key)
                for key, entry in self._entries.items()
                if entry.expires < math.inf
            ]
            heapq.heapify(self._expiries)


def _footprint(key: str, value: bytes) -> int:
    return _ENTRY_BYTES + len(key) + len(value)


def _integer(key: str, value: bytes) -> int:
    # Stricter than int(), which takes spaces and underscores: Redis does not.
    if not _INTEGER.fullmatch(value):
        raise StorageError(f"counter {key!r} must hold an integer, got {len(value)} other bytes")
    return int(value)
