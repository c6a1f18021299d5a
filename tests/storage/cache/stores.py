"""The stores that everything about a cache is tested on; and a clock that a test turns."""

from collections.abc import AsyncIterator

import pytest

from kumiai.storage.cache.keyvalue import KeyValueStore
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.redis_server import RedisServer

STORES = ["memory", pytest.param("redis", marks=pytest.mark.integration)]


class HandClock:
    """Stands still until it is told to go."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


async def lend_store(request: pytest.FixtureRequest) -> AsyncIterator[KeyValueStore]:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.command("FLUSHALL")
        manager = RedisManager("127.0.0.1", server.port)
        await manager.initialize()
        yield manager.key_value
        await manager.close()
        return
    store = MemoryKeyValue()
    yield store
    await store.close()
