"""Which cache a coordinator has: Redis, its own memory, or none."""

from kumiai.node.settings import Settings
from kumiai.storage import (
    CacheNotes,
    CachePattern,
    DatabaseManager,
    KeyValueStore,
    MemoryKeyValue,
    RedisManager,
    ResilientKeyValue,
)

__all__ = ["CoordinatorCache"]


class CoordinatorCache:
    """The cache before a coordinator's database.

    Memory of its own is right only for a coordinator that has the database to itself: that is the
    file in its data directory, which it holds locked. Several that share a database share Redis, or
    have no cache.

    Args:
        settings: with absolute paths.
        database: not necessarily connected yet.

    Raises:
        ConfigError: the URL of Redis is wrong, or the extra ``redis`` is not installed.
    """

    def __init__(self, settings: Settings, database: DatabaseManager) -> None:
        own = MemoryKeyValue() if settings.storage.database is None else None
        self._redis: RedisManager | None = None
        self._resilient: ResilientKeyValue | None = None
        store: KeyValueStore | None = own
        if settings.storage.redis is not None:
            self._redis = RedisManager(url=settings.storage.redis.get_secret_value())
            self._resilient = store = ResilientKeyValue(self._redis, database, twin=own)
        self.pattern = None if store is None else CachePattern(store)
        self.notes = None if self.pattern is None else CacheNotes(database, self.pattern)

    async def open(self) -> None:
        """Take up the cache; the database is connected and migrated. Redis may be away.

        Raises:
            ConfigError: Redis refuses the user or the password.
            StorageError: the database failed.
        """
        if self._resilient is not None:
            await self._resilient.start()
        if self.notes is not None:
            await self.notes.start()

    async def close(self) -> None:
        """End what runs in the background, and the connection to Redis."""
        if self.notes is not None:
            await self.notes.close()
        if self.pattern is not None:
            await self.pattern.close()
        if self._resilient is not None:
            await self._resilient.close()
        if self._redis is not None:
            await self._redis.close()
