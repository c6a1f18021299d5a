"""Saying that what the cache holds is true no longer.

Call it after the truth has changed, or, better, in the transaction that changes it
(`CacheInvalidation.after_commit`). Once an invalidation has returned, no process finds what was
there before, and no load that began before can put it back.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import CodecError, ConfigError, ConflictError, IntegrityError
from kumiai.storage.cache.entries import FrameKind, frame_of, packed
from kumiai.storage.cache.outbox import CacheOutbox, OutboxRow, OutboxToken
from kumiai.storage.cache.patterns import CachePattern
from kumiai.storage.cache.serialisation import JSONSerializer

__all__ = ["INVALIDATION_TOPIC", "CacheInvalidation", "Target", "TargetKind"]

INVALIDATION_TOPIC = "cache.invalidate"
"""Under which invalidations lie in the outbox."""

TargetKind = Literal["key", "tag", "pattern"]

_BATCH = 500
_CASCADE_MAX = 10_000
_ATTEMPTS_MAX = 16


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be invalidated.

    Attributes:
        kind: an entry by its key, all entries with a tag, or all whose key fits a glob.
        name: the key, the tag or the glob.
    """

    kind: TargetKind
    name: str


class CacheInvalidation:
    """Invalidates entries by key, tag, pattern and time, with what depends on them.

    Args:
        cache: whose entries.
        outbox: where `after_commit` leaves its rows; ``None``: it is not offered.
        clock: tells the time for `expire_at`.
    """

    def __init__(
        self,
        cache: CachePattern,
        *,
        outbox: CacheOutbox | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._cache = cache
        self._outbox = outbox
        self._clock = clock or SystemClock()
        self._dependents: dict[Target, set[Target]] = {}
        self._json = JSONSerializer()

    def declare(self, dependent: Target, *, on: Target) -> None:
        """Say that whatever invalidates ``on`` invalidates ``dependent`` too.

        Chains are followed, circles end. Each process says the same at its start: the
        declarations are part of the program, they are not stored.

        Raises:
            ValueError: ``on`` is a pattern: entries are not asked which patterns they fit.
        """
        if on.kind == "pattern":
            raise ValueError(f"on must be a key or a tag, got the pattern {on.name!r}")
        self._dependents.setdefault(on, set()).add(dependent)

    async def invalidate(self, *targets: Target) -> int:
        """Invalidate the targets and all that depends on them; return how many they were.

        Raises:
            StorageError: the store failed; some may be invalidated. Trying again is harmless.
            ValueError: a name is out of its range.
        """
        everything = self.cascade(targets)
        keyspace, store = self._cache.keyspace, self._cache.store
        names = [keyspace.entry(each.name) for each in everything if each.kind == "key"]
        tags = [each.name for each in everything if each.kind == "tag"]
        patterns = [keyspace.pattern(each.name) for each in everything if each.kind == "pattern"]
        for tag in tags:
            keyspace.verified_tags([tag])
        seconds = keyspace.tag_seconds(self._cache.settings.expire_seconds_max)
        for tag in tags:
            await store.increment(keyspace.tag(tag), keyspace.next_step(), expire_seconds=seconds)
        for start in range(0, len(names), _BATCH):
            await store.delete(*names[start : start + _BATCH])
        for pattern in patterns:
            await self._delete_fitting(pattern)
        self._cache.metrics.counts.invalidations += len(everything)
        return len(everything)

    async def invalidate_keys(self, *keys: str) -> int:
        """Invalidate entries by key; return how many targets that were, dependents included."""
        return await self.invalidate(*(Target("key", key) for key in keys))

    async def invalidate_tags(self, *tags: str) -> int:
        """Invalidate all entries with any of the tags: one step per tag, however many entries."""
        return await self.invalidate(*(Target("tag", tag) for tag in tags))

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate all entries whose key fits a glob: ``*``, ``?``, ``[a-z]``.

        It walks through the whole store, in batches; others are served meanwhile. Prefer tags.
        """
        return await self.invalidate(Target("pattern", pattern))

    async def expire_at(self, key: str, at: float) -> bool:
        """Let an entry end at a time, if it does not end before; return whether there is one.

        Args:
            key: which entry.
            at: seconds since 1970-01-01 UTC; what is past ends it now.

        Raises:
            ConflictError: it changed again and again meanwhile.
            StorageError: the store failed.
            ValueError: the time is not finite, or the key is out of its range.
        """
        if not math.isfinite(at):
            raise ValueError(f"at must be finite, got {at}")
        name, store = self._cache.keyspace.entry(key), self._cache.store
        for _ in range(_ATTEMPTS_MAX):
            raw = await store.get(name)
            if raw is None:
                return False
            try:
                frame = frame_of(raw)
            except IntegrityError:
                return False
            left = at - self._clock.now()
            if frame.kind == FrameKind.MARKER or left <= 0:
                # What is being made just now would be kept for its whole time.
                return await store.delete(name) > 0
            if frame.expires <= at:
                return True
            data = packed(
                frame.kind,
                frame.payload,
                created=frame.created,
                expires=at,
                load_seconds=frame.load_seconds,
                tag_versions=frame.tag_versions,
            )
            if await store.compare_and_set(name, raw, data, expire_seconds=left):
                return True
        raise ConflictError(
            f"entry {key!r} must hold still for a moment, got {_ATTEMPTS_MAX} changes meanwhile"
        )

    async def after_commit(self, connection: AsyncConnection, *targets: Target) -> OutboxToken:
        """Invalidate once the caller's transaction has been committed, and only then.

        The wish is a row of the same transaction, so it is kept even if this process dies right
        after the commit; a drain applies it, within its polling time. Hand the token to
        `applied` to wait for it.

        Raises:
            ConfigError: there is no outbox.
            StorageError: the outbox is full, or the database failed.
            ValueError: there are no targets, or a name is out of its range.
        """
        outbox = self._required_outbox()
        if not targets:
            raise ValueError("targets must be at least 1, got none")
        for target in targets:
            self._verify(target)
        value = self._json.dumps([[each.kind, each.name] for each in targets])
        return await outbox.add(connection, INVALIDATION_TOPIC, [("", value)])

    async def applied(self, token: OutboxToken, *, timeout_seconds: float = 30.0) -> None:
        """Return once the invalidation has been applied; call it after the commit.

        Raises:
            ConfigError: there is no outbox.
            DeadlineError: it took too long; it will still be applied.
            StorageError: it was given up, see the reason in the message.
            ValueError: the transaction is not over yet.
        """
        await self._required_outbox().applied(token, timeout_seconds=timeout_seconds)

    async def apply_rows(self, rows: Sequence[OutboxRow]) -> None:
        """Apply rows of the outbox: the handler of `INVALIDATION_TOPIC`.

        Raises:
            CodecError: a row holds something else.
            StorageError: the store failed.
        """
        await self.invalidate(*(target for row in rows for target in self._targets(row)))

    def cascade(self, targets: Iterable[Target]) -> list[Target]:
        """Return the targets with all that depends on them, each once, in a fixed order.

        Raises:
            ConfigError: they are more than 10 000.
        """
        found = dict.fromkeys(targets)
        waiting = list(found)
        while waiting:
            for dependent in sorted(
                self._dependents.get(waiting.pop(), ()), key=lambda each: (each.kind, each.name)
            ):
                if dependent not in found:
                    found[dependent] = None
                    waiting.append(dependent)
            if len(found) > _CASCADE_MAX:
                raise ConfigError(
                    f"cascade must reach at most {_CASCADE_MAX} targets, got {len(found)}; "
                    "let the dependents share a tag"
                )
        return list(found)

    async def _delete_fitting(self, pattern: str) -> None:
        store = self._cache.store
        names: list[str] = []
        async for name in store.scan(pattern):
            names.append(name)
            if len(names) >= _BATCH:
                await store.delete(*names)
                names.clear()
        if names:
            await store.delete(*names)

    def _targets(self, row: OutboxRow) -> list[Target]:
        try:
            found = [Target(kind, name) for kind, name in self._json.loads(row.value)]
            for target in found:
                self._verify(target)
        except (TypeError, ValueError) as error:
            raise CodecError(
                f"row {row.seq} of the outbox must hold targets, got something else"
            ) from error
        return found

    def _verify(self, target: Target) -> None:
        match target.kind:
            case "key":
                self._cache.keyspace.entry(target.name)
            case "tag":
                self._cache.keyspace.verified_tags([target.name])
            case "pattern":
                self._cache.keyspace.pattern(target.name)
            case _:
                raise ValueError(f"kind must be key, tag or pattern, got {target.kind!r}")

    def _required_outbox(self) -> CacheOutbox:
        if self._outbox is None:
            raise ConfigError("invalidation must have an outbox, got none; pass outbox=")
        return self._outbox
