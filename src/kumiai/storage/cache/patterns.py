"""The ways to use a cache: set and get, load on a miss, write through.

The rules that this module keeps, however many processes share the store:

- A value that was loaded before an invalidation is not stored after it. Who loads puts a marker
  under the key first and replaces just this marker; an invalidation takes the marker away. Tags
  work alike: an entry carries the versions that its tags had before the load.
- One loader runs per key, in all processes together; a marker whose maker has died goes by its
  lease. No wait is for ever: after a while one loads for oneself, and then stores nothing.
- A store that fails costs a load, not an error, wherever a value is read.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import structlog

from kumiai.core.clock import Clock, SystemClock
from kumiai.core.errors import IntegrityError, NotFoundError, StorageError
from kumiai.storage.cache.entries import (
    MISSING,
    CacheEntry,
    Frame,
    FrameKind,
    frame_of,
    marker_bytes,
    packed,
)
from kumiai.storage.cache.keyspace import Keyspace
from kumiai.storage.cache.keyvalue import KeyValueSource, KeyValueStore, key_value_of
from kumiai.storage.cache.metrics import CacheMetrics
from kumiai.storage.cache.serialisation import JSONSerializer, Serializer
from kumiai.storage.cache.single_flight import SingleFlight, finished

__all__ = ["CachePattern", "CacheSettings", "Loader"]

Loader = Callable[[], Awaitable[Any]]
"""Returns the value, or `MISSING`; `NotFoundError` says the same."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How a cache behaves.

    Attributes:
        expire_seconds: how long a value lives when nothing else is said.
        expire_seconds_max: how long it lives at most; the versions of tags live longer.
        jitter: the share by which a loaded value may live shorter, so that not all end at once.
        lease_seconds: after how long the marker of a maker that has died goes by itself.
        wait_seconds: how long one waits for another's load before loading for oneself.
        poll_seconds_max: how long one sleeps at most between two looks meanwhile.
        refreshes_max: how many values are loaded early at the same time.
        value_bytes_max: how large a stored value may be.

    Raises:
        ValueError: a value is out of its range.
    """

    expire_seconds: float = 3600.0
    expire_seconds_max: float = 7 * 86400.0
    jitter: float = 0.1
    lease_seconds: float = 5.0
    wait_seconds: float = 15.0
    poll_seconds_max: float = 0.05
    refreshes_max: int = 64
    value_bytes_max: int = 16 * 2**20

    def __post_init__(self) -> None:
        """Check every value."""
        for name in (
            "expire_seconds",
            "expire_seconds_max",
            "lease_seconds",
            "wait_seconds",
            "poll_seconds_max",
            "refreshes_max",
            "value_bytes_max",
        ):
            if not (value := getattr(self, name)) > 0 or not math.isfinite(value):
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, got {self.jitter}")
        if self.expire_seconds > self.expire_seconds_max:
            raise ValueError(
                f"expire_seconds must be at most {self.expire_seconds_max}, "
                f"got {self.expire_seconds}"
            )


DEFAULTS: Final = CacheSettings()
_REFUSALS_MAX = 3


class _Seen(NamedTuple):
    """What one look into the store found.

    Attributes:
        raw: the bytes under the key.
        frame: what they say, unless they are damaged.
        versions: of the tags that the caller names, by tag; ``None``: it has none yet.
        is_hit: the frame holds a value that may be used.
    """

    raw: bytes | None
    frame: Frame | None
    versions: dict[str, str | None]
    is_hit: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a caller wants loaded."""

    key: str
    loader: Loader
    tags: tuple[str, ...]
    expire_seconds: float
    early_refresh: float
    negative_expire_seconds: float | None


class _Known(NamedTuple):
    """What a loader has told: a value, or that there is none, with the error that says so."""

    value: Any
    seconds: float
    words: str | None = None


class CachePattern:
    """A cache before something slower.

    Values are what the serializer can say: with JSON text, numbers, booleans, ``None``, and lists
    and dicts of them.

    Args:
        source: a `RedisManager`, or any key-value store.
        namespace: what the cache's keys begin with; caches with another are strangers.
        settings: times and limits.
        serializer: how values become bytes.
        metrics: counts what happens.
        clock: tells when an entry was made and when it ends.
        random: draws from [0, 1); for jitter and early refreshes.

    Raises:
        ValueError: the namespace is empty.
    """

    def __init__(
        self,
        source: KeyValueStore | KeyValueSource,
        *,
        namespace: str = "kumiai",
        settings: CacheSettings = DEFAULTS,
        serializer: Serializer | None = None,
        metrics: CacheMetrics | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        self.keyspace = Keyspace(namespace)
        self.store = key_value_of(source)
        self.settings = settings
        self.metrics = metrics or CacheMetrics()
        self._serializer = serializer or JSONSerializer()
        self._clock = clock or SystemClock()
        self._random = random or np.random.default_rng().random
        self._flights = SingleFlight(patience_seconds=settings.wait_seconds)
        self._refreshes: dict[str, asyncio.Task[None]] = {}
        self._log = structlog.get_logger("kumiai.storage.cache")

    async def set_cache(
        self, key: str, value: Any, expire: float | None = None, *, tags: Sequence[str] = ()
    ) -> None:
        """Store a value.

        It says nothing about where the value comes from: one that was read from elsewhere before
        an invalidation and is set after it stays. For that there is `get_or_load`.

        Args:
            key: its name, 1 to 512 characters.
            value: what the serializer can say; `MISSING`: it is known that there is none.
            expire: seconds that it lives; ``None``: as the settings say.
            tags: what it depends on.

        Raises:
            StorageError: the store failed.
            ValueError: key, value, tags or time are out of their range.
        """
        seconds = self._expiry(expire)
        kind, payload = self._pack(value)
        name = self.keyspace.entry(key)
        versions = await self._versions(self._tags(tags), {})
        now = self._clock.now()
        data = packed(kind, payload, created=now, expires=now + seconds, tag_versions=versions)
        await self.store.set(name, data, expire_seconds=seconds)
        self.metrics.counts.stored += 1

    async def get_cache(self, key: str, default: Any = None) -> Any:
        """Return the value, or ``default`` when there is none that may be used.

        Raises:
            ValueError: the key is out of its range.
        """
        start = self._clock.monotonic()
        try:
            seen = await self._look(key, ())
            value = self._value_of(seen)
        except StorageError:
            self.metrics.add_error()
            return default
        seconds = self._clock.monotonic() - start
        if value is _NONE:
            self.metrics.add_miss(seconds)
            return default
        self.metrics.add_hit(seconds, is_negative=value is MISSING)
        return default if value is MISSING else value

    async def find_entry(self, key: str) -> CacheEntry | None:
        """Return the value with all that is known about it, or ``None``.

        Raises:
            StorageError: the store failed.
            ValueError: the key is out of its range.
        """
        seen = await self._look(key, ())
        value = self._value_of(seen)
        if value is _NONE or seen.frame is None:
            return None
        frame = seen.frame
        return CacheEntry(
            value=value,
            created=frame.created,
            expires=frame.expires,
            tags=tuple(tag for tag, _ in frame.tag_versions),
            version=frame.version,
            load_seconds=frame.load_seconds,
        )

    async def delete_cache(self, key: str) -> bool:
        """Delete an entry, and stop a load of it from storing; return whether there was one.

        Raises:
            StorageError: the store failed.
            ValueError: the key is out of its range.
        """
        deleted = await self.store.delete(self.keyspace.entry(key))
        self.metrics.counts.invalidations += 1
        return deleted > 0

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        expire: float | None = None,
        tags: Sequence[str] = (),
        early_refresh: float = 0.0,
        negative_expire: float | None = None,
    ) -> Any:
        """Return the value; if there is none, load it once for all who ask, and store it.

        Args:
            key: its name; the same loader must stand behind it everywhere.
            loader: returns the value. `MISSING`, or `NotFoundError`, says that there is none.
            expire: seconds that it lives, less the jitter; ``None``: as the settings say.
            tags: what it depends on.
            early_refresh: how eagerly a value is loaded anew, in the background, before its time
                is up: 0 never, 1 as a rule one load's time before, more is earlier. The draw
                makes one of many do it (Vattani, Chierichetti, Lowenstein 2015, "XFetch").
            negative_expire: seconds for which it is remembered that there is no value; ``None``:
                not at all.

        Returns:
            The value, or `MISSING`. Who waits for a load gets the very object that the loader
            returned, together with all others who wait: leave it unchanged.

        Raises:
            NotFoundError: the loader said so, now or while that is remembered.
            Exception: whatever else the loader raised.
            ValueError: an argument is out of its range.
        """
        plan = self._plan(
            key,
            loader,
            expire=expire,
            tags=tags,
            early_refresh=early_refresh,
            negative_expire=negative_expire,
        )
        seen: _Seen | None = None
        if key not in self._flights:
            start = self._clock.monotonic()
            try:
                seen = await self._look(key, plan.tags)
                value = self._value_of(seen)
            except StorageError:
                self.metrics.add_error()
                seen, value = None, _NONE
            seconds = self._clock.monotonic() - start
            if value is not _NONE and seen is not None:
                self.metrics.add_hit(seconds, is_negative=value is MISSING)
                self._refresh_early(plan, seen)
                return self._told(value, seen)
            self.metrics.add_miss(seconds)
            if key in self._flights:
                seen = None  # somebody was faster; what comes next has to look again
        known, is_ours = await self._flights.run(key, lambda: self._make(plan, seen))
        if not is_ours:
            self.metrics.counts.stampedes_avoided += 1
        return _result(known)

    async def write_through(
        self,
        key: str,
        value: Any,
        writer: Callable[[Any], Awaitable[object]],
        *,
        expire: float | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """Write a value where it belongs, and then into the cache.

        While it is written, and from then on, nobody finds the earlier value in the cache: a
        marker stands there. Of two who write at once neither leaves a value behind, because the
        cache cannot know whose came last.

        Args:
            key: its name.
            value: what the serializer can say.
            writer: writes it, durably.
            expire: seconds that it lives in the cache.
            tags: what it depends on.

        Raises:
            Exception: what ``writer`` raised; whether it has written is unknown then.
            StorageError: the cache failed. Before ``writer`` was called nothing is written; after
                it the value is written, and the cache may hold an older one until it expires.
            ValueError: an argument is out of its range.
        """
        seconds = self._expiry(expire)
        kind, payload = self._pack(value)
        name = self.keyspace.entry(key)
        marker = marker_bytes(self._clock.now())
        await self.store.set(name, marker, expire_seconds=self.settings.lease_seconds)
        try:
            versions = await self._versions(self._tags(tags), {})
            async with self._held(name, marker):
                await writer(value)
        except BaseException:
            with contextlib.suppress(StorageError):
                await finished(self.store.delete(name))
            raise
        now = self._clock.now()
        data = packed(kind, payload, created=now, expires=now + seconds, tag_versions=versions)
        if await finished(self._replace(name, marker, data, seconds)):
            self.metrics.counts.stored += 1
        else:
            await finished(self.store.delete(name))

    async def measure_size(self) -> None:
        """Ask the store how much it holds, and note it in the metrics.

        Raises:
            StorageError: the store failed.
        """
        self.metrics.set_size(await self.store.size())

    async def close(self) -> None:
        """End what runs in the background; the store stays open."""
        refreshes = list(self._refreshes.values())
        for task in refreshes:
            task.cancel()
        if refreshes:
            await asyncio.wait(refreshes)
        await self._flights.close()

    # ------------------------------------------------------------------------------ looking

    async def _look(self, key: str, tags: tuple[str, ...]) -> _Seen:
        name = self.keyspace.entry(key)
        if tags:
            raw, *found = await self.store.get_many([name, *map(self.keyspace.tag, tags)])
        else:
            raw, found = await self.store.get(name), []
        versions = {tag: _text(each) for tag, each in zip(tags, found, strict=True)}
        if raw is None:
            return _Seen(None, None, versions, is_hit=False)
        try:
            frame = frame_of(raw)
        except IntegrityError:
            self.metrics.counts.damaged += 1
            return _Seen(raw, None, versions, is_hit=False)
        if frame.is_marker or frame.expires <= self._clock.now():
            return _Seen(raw, frame, versions, is_hit=False)
        if frame.tag_versions:
            await self._add_versions(versions, [tag for tag, _ in frame.tag_versions])
        # An entry made without a tag that the caller names would outlive that tag's invalidation.
        is_hit = all(versions[tag] == version for tag, version in frame.tag_versions) and (
            not tags or {tag for tag, _ in frame.tag_versions}.issuperset(tags)
        )
        return _Seen(raw, frame, versions, is_hit)

    async def _add_versions(self, versions: dict[str, str | None], tags: Collection[str]) -> None:
        unknown = [tag for tag in tags if tag not in versions]
        if unknown:
            found = await self.store.get_many([self.keyspace.tag(tag) for tag in unknown])
            versions.update(zip(unknown, map(_text, found), strict=True))

    def _value_of(self, seen: _Seen) -> Any:
        if not seen.is_hit or seen.frame is None:
            return _NONE
        if seen.frame.kind == FrameKind.NOTHING:
            return MISSING
        try:
            return self._serializer.loads(seen.frame.payload)
        except IntegrityError:
            self.metrics.counts.damaged += 1
            return _NONE

    def _told(self, value: Any, seen: _Seen) -> Any:
        if value is MISSING and seen.frame is not None and (words := _words(seen.frame)):
            raise NotFoundError(words)
        return value

    # ------------------------------------------------------------------------------ loading

    async def _make(self, plan: _Plan, seen: _Seen | None) -> _Known:
        """Be the one that loads, or wait for the one that does."""
        name = self.keyspace.entry(plan.key)
        marker = marker_bytes(self._clock.now())
        try:
            seen, known = await self._claim(plan, name, marker, seen)
        except StorageError:
            self.metrics.add_error()
            return await self._load(plan)
        if known is not None:
            return known
        if seen is None:
            self.metrics.counts.waits_given_up += 1
            return await self._load(plan)
        try:
            versions = await self._versions(plan.tags, seen.versions)
        except StorageError:
            self.metrics.add_error()
            return await self._load(plan)
        try:
            async with self._held(name, marker):
                known = await self._load(plan)
            await finished(self._keep(plan, known, name, marker, versions))
        except BaseException:
            with contextlib.suppress(StorageError):
                await finished(self.store.compare_and_delete(name, marker))
            raise
        return known

    async def _claim(
        self, plan: _Plan, name: str, marker: bytes, seen: _Seen | None
    ) -> tuple[_Seen | None, _Known | None]:
        """Put the marker down; or return what another has loaded; or neither: time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.wait_seconds
        pause, refused = 0.001, 0
        while True:
            if seen is None:
                seen = await self._look(plan.key, plan.tags)
                value = self._value_of(seen)
                if value is not _NONE and seen.frame is not None:
                    self.metrics.counts.stampedes_avoided += 1
                    return seen, _Known(
                        value, 0.0, _words(seen.frame) if value is MISSING else None
                    )
            if seen.frame is None or not seen.frame.is_marker:
                if await self._put_marker(name, marker, seen.raw):
                    return seen, None
                refused += 1
            # A store that is too small, or away and says so by forgetting, takes no marker at all.
            if loop.time() >= deadline or refused >= _REFUSALS_MAX:
                return None, None
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, self.settings.poll_seconds_max)
            seen = None

    async def _put_marker(self, name: str, marker: bytes, raw: bytes | None) -> bool:
        lease = self.settings.lease_seconds
        if raw is None:
            return await self.store.set(name, marker, expire_seconds=lease, only_if_absent=True)
        return await self.store.compare_and_set(name, raw, marker, expire_seconds=lease)

    async def _load(self, plan: _Plan) -> _Known:
        start = self._clock.monotonic()
        words = None
        try:
            value = await plan.loader()
        except NotFoundError as error:
            value, words = MISSING, str(error) or "value must exist, got none"
        except BaseException:
            self.metrics.add_load(self._clock.monotonic() - start, has_failed=True)
            raise
        seconds = self._clock.monotonic() - start
        self.metrics.add_load(seconds)
        return _Known(value, seconds, words)

    async def _keep(
        self,
        plan: _Plan,
        known: _Known,
        name: str,
        marker: bytes,
        versions: tuple[tuple[str, str], ...],
    ) -> None:
        """Put what was loaded in the marker's place; a store that fails costs no more than that."""
        try:
            data, seconds = self._packed(plan, known, versions)
            if data is None:
                await self.store.compare_and_delete(name, marker)
                is_kept = False
            else:
                is_kept = await self._replace(name, marker, data, seconds)
        except StorageError:
            self.metrics.add_error()
            is_kept = False
        if is_kept:
            self.metrics.counts.stored += 1
        else:
            self.metrics.counts.discarded += 1

    def _packed(
        self, plan: _Plan, known: _Known, versions: tuple[tuple[str, str], ...]
    ) -> tuple[bytes | None, float]:
        if known.value is MISSING:
            if plan.negative_expire_seconds is None:
                return None, 0.0
            kind, payload = FrameKind.NOTHING, (known.words or "").encode()
            longest = plan.negative_expire_seconds
        else:
            kind, payload = FrameKind.VALUE, self._serializer.dumps(known.value)
            longest = plan.expire_seconds
        if len(payload) > self.settings.value_bytes_max:
            return None, 0.0
        seconds = longest * (1 - self.settings.jitter * self._random())
        now = self._clock.now()
        data = packed(
            kind,
            payload,
            created=now,
            expires=now + seconds,
            load_seconds=known.seconds,
            tag_versions=versions,
        )
        return data, seconds

    async def _replace(self, name: str, expected: bytes, data: bytes, seconds: float) -> bool:
        return await self.store.compare_and_set(name, expected, data, expire_seconds=seconds)

    @asynccontextmanager
    async def _held(self, name: str, marker: bytes) -> AsyncIterator[None]:
        """Keep the marker alive as long as the body lasts."""
        task = asyncio.create_task(self._renew(name, marker))
        try:
            yield
        finally:
            task.cancel()
            # It must be over before the marker is replaced: it may be under way.
            await asyncio.wait({task})

    async def _renew(self, name: str, marker: bytes) -> None:
        lease = self.settings.lease_seconds
        is_held = True
        while is_held:
            await asyncio.sleep(lease / 3)
            with contextlib.suppress(StorageError):
                is_held = await self._replace(name, marker, marker, lease)

    # --------------------------------------------------------------------- early refreshes

    def _refresh_early(self, plan: _Plan, seen: _Seen) -> None:
        frame, raw = seen.frame, seen.raw
        if not plan.early_refresh or frame is None or raw is None:
            return
        # An exponential draw: the longer a load takes, the earlier somebody begins.
        ahead = -frame.load_seconds * plan.early_refresh * math.log(1.0 - self._random())
        if self._clock.now() + ahead < frame.expires:
            return
        if plan.key in self._refreshes or len(self._refreshes) >= self.settings.refreshes_max:
            return
        task = asyncio.create_task(self._refresh(plan, raw))
        self._refreshes[plan.key] = task
        task.add_done_callback(lambda _: self._refreshes.pop(plan.key, None))

    async def _refresh(self, plan: _Plan, raw: bytes) -> None:
        lease_name, marker = self.keyspace.refresh(plan.key), marker_bytes(self._clock.now())
        name = self.keyspace.entry(plan.key)
        try:
            is_ours = await self.store.set(
                lease_name, marker, expire_seconds=self.settings.lease_seconds, only_if_absent=True
            )
            if not is_ours:
                return
            try:
                versions = await self._versions(plan.tags, {})
                async with self._held(lease_name, marker):
                    known = await self._load(plan)
                # The entry's own bytes stand in for the marker: deleted means invalidated.
                await self._keep(plan, known, name, raw, versions)
            finally:
                await finished(self.store.compare_and_delete(lease_name, marker))
            self.metrics.counts.stale_refreshes += 1
        except Exception as error:  # noqa: BLE001 - the outermost loop of a background task
            # The error's kind only: its words are the loader's, and may hold anything.
            self._log.warning("cache refresh failed", key=plan.key, error=type(error).__name__)

    # ----------------------------------------------------------------------------- checking

    def _plan(
        self,
        key: str,
        loader: Loader,
        *,
        expire: float | None,
        tags: Sequence[str],
        early_refresh: float,
        negative_expire: float | None,
    ) -> _Plan:
        if not (early_refresh >= 0 and math.isfinite(early_refresh)):
            raise ValueError(f"early_refresh must be finite and at least 0, got {early_refresh}")
        return _Plan(
            key=key,
            loader=loader,
            tags=self._tags(tags),
            expire_seconds=self._expiry(expire),
            early_refresh=early_refresh,
            negative_expire_seconds=(
                None if negative_expire is None else self._expiry(negative_expire)
            ),
        )

    def _expiry(self, expire: float | None) -> float:
        if expire is None:
            return self.settings.expire_seconds
        longest = self.settings.expire_seconds_max
        if not 0 < expire <= longest:
            raise ValueError(f"expire must be above 0 and at most {longest:g} s, got {expire}")
        return float(expire)

    def _tags(self, tags: Sequence[str]) -> tuple[str, ...]:
        return self.keyspace.verified_tags(tags)

    def _pack(self, value: Any) -> tuple[int, bytes]:
        if value is MISSING:
            return FrameKind.NOTHING, b""
        payload = self._serializer.dumps(value)
        if len(payload) > self.settings.value_bytes_max:
            raise ValueError(
                f"value must take at most {self.settings.value_bytes_max} bytes, got {len(payload)}"
            )
        return FrameKind.VALUE, payload

    async def _versions(
        self, tags: tuple[str, ...], known: Mapping[str, str | None]
    ) -> tuple[tuple[str, str], ...]:
        """Return each tag's version; a tag that has none is given one."""
        if not tags:
            return ()
        versions: dict[str, str | None] = {
            tag: known[tag] for tag in tags if known.get(tag) is not None
        }
        await self._add_versions(versions, tags)
        for tag in [tag for tag in tags if versions[tag] is None]:
            name, version = self.keyspace.tag(tag), self.keyspace.new_version()
            await self.store.set(
                name,
                str(version).encode(),
                expire_seconds=self.keyspace.tag_seconds(self.settings.expire_seconds_max),
                only_if_absent=True,
            )
            versions[tag] = _text(await self.store.get(name))
        # A version that the store has forgotten already is "": no entry ever fits it.
        return tuple((tag, versions[tag] or "") for tag in tags)


class _Nothing:
    """The type of `_NONE`: no value, whereas ``None`` is one."""


_NONE: Final = _Nothing()


def _result(known: _Known) -> Any:
    if known.words is not None:
        raise NotFoundError(known.words)
    return known.value


def _words(frame: Frame) -> str | None:
    """Return the words of the error that said that there is nothing, if it was an error."""
    return frame.payload.decode(errors="replace") or None


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="replace")
