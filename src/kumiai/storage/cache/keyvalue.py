"""What a cache rests on: bytes by key, with an expiry, that the store may forget at any time.

Not a place for the truth. A store may drop any key whenever it likes (for want of memory, because
it was restarted), so nothing may go wrong when a key is gone: in particular a forgotten counter
starts again, and must not bring back what its earlier values had invalidated.

Whatever goes wrong in a store leaves as `StorageError`; `UnavailableError` when the store cannot
be reached, so that trying again later may help.
"""

import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kumiai.core.errors import StorageError

__all__ = [
    "KeyValueSource",
    "KeyValueStore",
    "StoreFullError",
    "StoreSize",
    "glob_pattern",
    "key_value_of",
]


class StoreFullError(StorageError):
    """The store has no room; what it holds can still be read and deleted."""


@dataclass(frozen=True, slots=True)
class StoreSize:
    """How much a store holds.

    Attributes:
        keys: how many keys.
        bytes: how many bytes of memory, as the store itself counts them.
    """

    keys: int
    bytes: int


@runtime_checkable
class KeyValueStore(Protocol):
    """Bytes by key. Each call is atomic; every failure is a `StorageError`.

    A time to live is in seconds, > 0; ``None`` means for ever.
    """

    async def generation(self) -> int:
        """Return the number of the store's present life.

        It grows when everything written before has been, or must be taken as, forgotten. Whoever
        computes a value from other sources asks for it first and hands it to `set`: a value from
        an earlier life is not stored then.
        """
        ...

    async def get(self, key: str) -> bytes | None:
        """Return the value, or ``None`` when there is none."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values in the order of the keys."""
        ...

    async def set(
        self,
        key: str,
        value: bytes,
        *,
        expire_seconds: float | None = None,
        only_if_absent: bool = False,
        generation: int | None = None,
    ) -> bool:
        """Store a value; the earlier one goes, and with it its expiry.

        Args:
            key: any text.
            value: the bytes.
            expire_seconds: how long it lives.
            only_if_absent: leave a value that is there.
            generation: store only if this is still the store's `generation`.

        Returns:
            Whether it was stored.
        """
        ...

    async def set_many(
        self, items: Mapping[str, bytes], *, expire_seconds: float | None = None
    ) -> None:
        """Store several values; not atomic as a whole."""
        ...

    async def delete(self, *keys: str) -> int:
        """Delete keys; return how many were there."""
        ...

    async def increment(self, key: str, by: int = 1, *, expire_seconds: float | None = None) -> int:
        """Add to a counter, which begins at 0 when it is absent; return the new value.

        With ``expire_seconds`` its time begins anew at each call, without it stays as it is.

        Raises:
            StorageError: the value is no integer, or leaves 64 bits.
        """
        ...

    async def compare_and_delete(self, key: str, value: bytes) -> bool:
        """Delete the key if it holds just this value; return whether it did."""
        ...

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, *, expire_seconds: float | None = None
    ) -> bool:
        """Store ``value`` if the key holds just ``expected``; return whether it did."""
        ...

    async def seconds_left(self, key: str) -> float | None:
        """Return how long the key still lives: infinity for ever, ``None`` when it is absent."""
        ...

    def scan(self, pattern: str) -> AsyncIterator[str]:
        r"""Give each key that fits a glob (``*``, ``?``, ``[a-z]``, ``[^a]``, ``\`` escapes).

        In batches, so that others are served meanwhile. A key that is there all the time is
        given, one that comes or goes may be; none is given twice by the in-process store, Redis
        may repeat one.
        """
        ...

    async def size(self) -> StoreSize:
        """Return how much the store holds."""
        ...

    async def check(self) -> float:
        """Return how many seconds a trivial call takes."""
        ...

    async def close(self) -> None:
        """Let go of connections; closing twice does nothing."""
        ...


@runtime_checkable
class KeyValueSource(Protocol):
    """What has a key-value store, such as a `RedisManager`."""

    @property
    def key_value(self) -> KeyValueStore:
        """The store."""
        ...


def key_value_of(source: KeyValueStore | KeyValueSource) -> KeyValueStore:
    """Return the store itself, or the one that its owner has."""
    return source.key_value if isinstance(source, KeyValueSource) else source


def verify_expiry(expire_seconds: float | None) -> None:
    """Check a time to live.

    Raises:
        ValueError: it is not above 0, or not finite.
    """
    if expire_seconds is not None and not (expire_seconds > 0 and math.isfinite(expire_seconds)):
        raise ValueError(f"expire_seconds must be finite and above 0, got {expire_seconds}")


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression for a glob as Redis reads it.

    What stands between two stars is sought once, from the left, and never again (an atomic
    group): so no pattern takes longer than the key's length times its own.
    """
    stretches: list[list[str]] = [[]]
    index = 0
    while index < len(pattern):
        character = pattern[index]
        index += 1
        if character == "*":
            stretches.append([])
        elif character == "?":
            stretches[-1].append(".")
        elif character == "[":
            part, index = _character_set(pattern, index)
            stretches[-1].append(part)
        else:
            if character == "\\" and index < len(pattern):
                character = pattern[index]
                index += 1
            stretches[-1].append(re.escape(character))
    first, *rest = ["".join(stretch) for stretch in stretches]
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    sought = "".join(f"(?>.*?{part})" for part in middle if part)
    return re.compile(f"{first}{sought}.*{last}", re.DOTALL)


def _character_set(pattern: str, index: int) -> tuple[str, int]:
    negated = pattern[index : index + 1] == "^"
    index += negated
    members: list[str] = []
    while index < len(pattern) and pattern[index] != "]":
        if pattern[index] == "\\" and index + 1 < len(pattern):
            index += 1
        first = last = pattern[index]
        if pattern[index + 1 : index + 2] == "-" and index + 2 < len(pattern):
            last = pattern[index + 2]
            index += 2
        index += 1
        low, high = sorted((first, last))
        members.append(f"{re.escape(low)}-{re.escape(high)}")
    if not members:
        # An empty set holds nothing, its opposite everything.
        return ("." if negated else "(?!)"), index + 1
    return f"[{'^' if negated else ''}{''.join(members)}]", index + 1
