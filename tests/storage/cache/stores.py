"""The stores that everything about a cache is tested on; and a clock that a test turns."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kumiai.storage import DatabaseManager
from kumiai.storage.cache.failover import ResilientKeyValue
from kumiai.storage.cache.keyvalue import KeyValueStore
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.databases import SQLiteTemplate
from kumiai.testing.ports import free_port
from kumiai.testing.redis_server import RedisServer

STORES = [
    "memory",
    pytest.param("redis", marks=pytest.mark.integration),
    pytest.param("failover", marks=pytest.mark.integration),
]


@dataclass(frozen=True, slots=True)
class Nobody:
    """A port at which no Redis answers."""

    port: int = field(default_factory=free_port)


class HandClock:
    """Stands still until it is told to go."""

    def __init__(self, seconds: float = 1_000_000.0) -> None:
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def patient_manager(server: RedisServer, *, pool_size: int = 50) -> RedisManager:
    """Return a client to which a machine that is busy does not look like a Redis that is away."""
    return RedisManager(
        "127.0.0.1",
        server.port,
        pool_size=pool_size,
        connect_timeout_seconds=30,
        command_timeout_seconds=30,
        wait_seconds=60,
    )


async def lend_store(request: pytest.FixtureRequest) -> AsyncIterator[KeyValueStore]:
    if request.param == "memory":
        store = MemoryKeyValue()
        yield store
        await store.close()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.command("FLUSHALL")
    manager = patient_manager(server)
    if request.param == "redis":
        await manager.initialize()
        yield manager.key_value
    else:
        template: SQLiteTemplate = request.getfixturevalue("sqlite_template")
        folder: Path = request.getfixturevalue("tmp_path")
        database = DatabaseManager(template.copy_to(folder / "epochs.db"))
        await database.connect()
        resilient = ResilientKeyValue(manager, database)
        await resilient.start()
        yield resilient
        await resilient.close()
        await database.close()
    await manager.close()
