"""A Redis server that the tests of a worker share, emptied for each."""

from collections.abc import AsyncIterator, Iterator

import pytest

from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.redis_server import RedisServer


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
    # Patient: a machine that is busy must not look like a Redis that is away.
    manager = RedisManager(
        "127.0.0.1",
        redis_server.port,
        connect_timeout_seconds=30,
        command_timeout_seconds=30,
        wait_seconds=60,
    )
    await manager.initialize()
    yield manager
    await manager.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """Lend a Redis server of one's own, to be killed at will."""
    server = RedisServer()
    yield server
    server.remove()
