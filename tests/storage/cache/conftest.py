"""A Redis server that the tests of a worker share, emptied for each."""

from collections.abc import AsyncIterator, Iterator

import pytest

from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.redis_server import RedisServer
from tests.storage.cache.stores import patient_manager


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Lend a Redis server that nobody stops."""
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
async def redis_manager(redis_server: RedisServer) -> AsyncIterator[RedisManager]:
    """Lend a connection to an empty Redis."""
    redis_server.command("FLUSHALL")
    manager = patient_manager(redis_server)
    await manager.initialize()
    yield manager
    await manager.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """Lend a Redis server of one's own, to be killed at will."""
    server = RedisServer()
    yield server
    server.remove()
