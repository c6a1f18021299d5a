"""Redis in a group: Sentinel that promotes a replica, and a Cluster of three."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from kumiai.core.errors import ConfigError, UnavailableError
from kumiai.storage import DatabaseManager
from kumiai.storage.cache.failover import ResilientKeyValue, ServedBy
from kumiai.storage.cache.keyvalue import KeyValueStore
from kumiai.storage.cache.locks import DistributedLock, LockBackend
from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.keyvalue_contract import Elapse, KeyValueContract
from kumiai.testing.lock_contract import LockContract
from kumiai.testing.redis_server import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SLOTS = 16384


class Group:
    """A primary, a replica and three Sentinels that agree by two."""

    def __init__(self) -> None:
        self.primary = RedisServer()
        self.replica = RedisServer({"replicaof": f"127.0.0.1 {self.primary.port}"})
        watched = (
            f"sentinel monitor main 127.0.0.1 {self.primary.port} 2\n"
            "sentinel down-after-milliseconds main 400\n"
            "sentinel failover-timeout main 2000\n"
        )
        self.sentinels = [RedisServer(sentinel=True, configuration=watched) for _ in range(3)]
        self._wait(lambda: b"master_link_status:up" in self.replica.command("INFO", "replication"))
        self._wait(
            lambda: all(
                b"num-other-sentinels\r\n$1\r\n2" in sentinel.command("SENTINEL", "MASTER", "main")
                and b"num-slaves\r\n$1\r\n1" in sentinel.command("SENTINEL", "MASTER", "main")
                for sentinel in self.sentinels
            )
        )

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/main"

    def remove(self) -> None:
        for server in (*self.sentinels, self.replica, self.primary):
            server.remove()

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group()
    yield group
    group.remove()


async def test_a_promoted_replica_is_found_and_nothing_it_remembers_is_read(
    group: Group, database: DatabaseManager
) -> None:
    manager = RedisManager(url=group.url, command_timeout_seconds=0.3)
    store = ResilientKeyValue(manager, database, lease_seconds=0.3)
    await store.start()
    assert store.served_by is ServedBy.REDIS
    await store.set("a", b"old")
    group.primary.command("WAIT", "1", "1000")
    # What follows never gets to the replica.
    group.replica.pause()
    await store.set("a", b"new")
    group.primary.kill()
    group.replica.resume()

    found = set()
    async with asyncio.timeout(30):
        while True:
            found.add(await store.get("a"))
            if store.served_by is ServedBy.REDIS:
                break
            await asyncio.sleep(0.02)
    found.add(await store.get("a"))
    await store.set("a", b"newer")

    assert found <= {None, b"new"}
    assert await store.get("a") == b"newer"
    assert b"role:master" in group.replica.command("INFO", "replication")
    await store.close()
    await manager.close()


async def test_nobody_that_sentinels_know_is_away() -> None:
    manager = RedisManager(url="redis+sentinel://127.0.0.1:1/main")

    with pytest.raises(UnavailableError):
        await manager.initialize()

    await manager.close()


class Cluster:
    """Three primaries that share the slots."""

    def __init__(self) -> None:
        self.nodes = [
            RedisServer({"cluster-enabled": "yes", "cluster-node-timeout": "2000"})
            for _ in range(3)
        ]
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        first = self.nodes[0]
        for index, node in enumerate(self.nodes):
            slots = map(str, range(bounds[index], bounds[index + 1]))
            assert node.command("CLUSTER", "ADDSLOTS", *slots).startswith(b"+OK")
            first.command("CLUSTER", "MEET", "127.0.0.1", str(node.port))
        deadline = time.monotonic() + 30
        while not all(self._is_whole(node) for node in self.nodes):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[1].port}"

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()

    @staticmethod
    def _is_whole(node: RedisServer) -> bool:
        state = node.command("CLUSTER", "INFO")
        return b"cluster_state:ok" in state and b"cluster_known_nodes:3" in state


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
async def manager(cluster: Cluster) -> RedisManager:
    for node in cluster.nodes:
        node.command("FLUSHALL")
    return RedisManager(url=cluster.url)


class TestKeyValueOnACluster(KeyValueContract):
    @pytest.fixture
    async def store(self, manager: RedisManager) -> AsyncIterator[KeyValueStore]:
        yield manager.key_value
        await manager.close()

    @pytest.fixture
    def elapse(self) -> Elapse:
        return asyncio.sleep


class TestLocksOnACluster(LockContract):
    @pytest.fixture
    async def backend(self, manager: RedisManager) -> AsyncIterator[LockBackend]:
        yield manager.locks
        await manager.close()


async def test_two_hundred_calls_share_a_small_pool(cluster: Cluster) -> None:
    manager = RedisManager(url=cluster.url, pool_size=2)

    await asyncio.gather(*(manager.set(f"k{number}", number) for number in range(200)))

    assert await manager.get_many([f"k{number}" for number in range(200)]) == list(range(200))
    assert manager.metrics.failures == 0
    async with manager.pipeline() as batch:
        for number in range(20):
            batch.get(f"k{number}")
    assert batch.results == list(range(20))
    health = await manager.check()
    assert (health.keys or 0) >= 200
    await manager.close()


async def test_a_restarted_node_is_another_cluster(database: DatabaseManager) -> None:
    cluster = Cluster()
    manager = RedisManager(url=cluster.url, command_timeout_seconds=0.5)
    store = ResilientKeyValue(manager, database, lease_seconds=0.3)
    await store.start()
    keys = [str(number) for number in range(30)]
    await store.set_many(dict.fromkeys(keys, b"old"))
    for node in cluster.nodes:
        node.command("SAVE")
    await store.set_many(dict.fromkeys(keys, b"new"))
    assert set(await store.get_many(keys)) == {b"new"}
    for node in cluster.nodes:
        node.restart()

    found: set[bytes | None] = set()
    async with asyncio.timeout(30):
        while True:
            found.update(await store.get_many(keys))
            if store.served_by is ServedBy.REDIS and await store.set("now", b"1"):
                break
            await asyncio.sleep(0.02)
    found.update(await store.get_many(keys))

    assert found == {None}
    await store.close()
    await manager.close()
    cluster.remove()


def test_a_cluster_has_one_database() -> None:
    with pytest.raises(ConfigError, match="but 0"):
        RedisManager(url="redis+cluster://localhost/1")


async def test_a_lock_on_a_cluster_has_a_token(cluster: Cluster) -> None:
    manager = RedisManager(url=cluster.url)

    async with DistributedLock(manager).acquire_context("a") as held:
        assert held.token > 0

    await manager.close()
