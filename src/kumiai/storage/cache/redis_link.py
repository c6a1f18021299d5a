"""The one place that talks to redis-py: connections, their identity check, its errors.

Rules kept here:

- Every new connection first asks who answers, before any command of a caller. A server that has
  been restarted, or a replica that has been promoted, may hold older values than the one before;
  a link that is pinned to one server refuses every other.
- A command is sent once. Whether one that failed was carried out, nobody knows; to send an
  increment again would count it twice.
- Errors of redis-py leave as `UnavailableError` or `StorageError`, without addresses of users or
  passwords.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from kumiai.core.errors import StorageError, UnavailableError
from kumiai.storage.cache.keyvalue import StoreFullError
from kumiai.storage.cache.redis_address import RedisAddress, RedisKind, RedisLoginError
from kumiai.storage.cache.redis_scripts import Script

__all__ = ["Link", "LinkOptions"]

_SCAN_COUNT = 500
_AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.RedisClusterException,
    redis.exceptions.TryAgainError,
    OSError,
    TimeoutError,
    AttributeError,
)


_FREE = nullcontext()


class _OtherServerError(redis.exceptions.ConnectionError):
    """Another server answers than the one that the link is pinned to."""


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """A pool that follows the Sentinels and waits when it is used up."""


# redis-py types neither.
_Sentinel: Any = Sentinel
_SentinelPool: Any = _BlockingSentinelPool


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How to connect.

    Attributes:
        pool_size: connections at most, to each node of a Cluster.
        wait_seconds: how long a call waits for a free connection.
        connect_timeout_seconds: how long a connection may take.
        command_timeout_seconds: how long an answer may take.
        ca_file: certificates to trust; ``None``: the machine's.
        certificate_file: our certificate, where the server asks for one.
        key_file: its key.
        sentinel_password: the password of the Sentinels.
    """

    pool_size: int
    wait_seconds: float
    connect_timeout_seconds: float
    command_timeout_seconds: float
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    sentinel_password: str | None


class Link:
    """Connections to one Redis.

    Args:
        address: where it is.
        options: how to connect.
    """

    def __init__(self, address: RedisAddress, options: LinkOptions) -> None:
        self._address = address
        self._options = options
        self._pinned: frozenset[str] | None = None
        self._is_cluster = address.kind is RedisKind.CLUSTER
        # redis-py refuses the call that finds a node's connections all in use; here it waits.
        self._cluster_slots = asyncio.Semaphore(options.pool_size)
        self._cluster_begins = asyncio.Lock()
        self._sentinel: Any = None
        self._pool: Any = None
        self.client: Any = self._open()

    async def execute(self, *words: Any) -> Any:
        """Send one command, once; return the answer."""
        with _Translated(self._address):
            async with self._slot():
                return await self.client.execute_command(*words)

    async def execute_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together, in order but not as one; return the answers.

        Raises:
            StorageError: one was refused; the others were carried out.
        """
        with _Translated(self._address):
            async with self.client.pipeline(transaction=False) as pipeline:
                for words in commands:
                    pipeline.execute_command(*words)
                async with self._slot():
                    return list(await pipeline.execute())

    async def run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script; the server is sent its text when it does not know it."""
        with _Translated(self._address):
            async with self._slot():
                try:
                    return await self.client.execute_command(
                        "EVALSHA", script.digest, len(keys), *keys, *arguments
                    )
                except redis.exceptions.NoScriptError:
                    return await self.client.execute_command(
                        "EVAL", script.text, len(keys), *keys, *arguments
                    )

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """Give the keys that fit, batch by batch."""
        keys = self.client.scan_iter(match=pattern, count=_SCAN_COUNT)
        while True:
            with _Translated(self._address):
                try:
                    key = await anext(keys)
                except StopAsyncIteration:
                    return
            yield key

    async def size(self) -> tuple[int, int]:
        """Return how many keys and bytes all primaries hold."""
        with _Translated(self._address):
            if not self._is_cluster:
                keys = await self.client.dbsize()
                memory = await self.client.info("memory")
                return int(keys), int(memory["used_memory"])
            keys = await self.client.dbsize(target_nodes=RedisCluster.PRIMARIES)
            memories = await self.client.info("memory", target_nodes=RedisCluster.PRIMARIES)
            return int(keys), sum(int(each["used_memory"]) for each in memories.values())

    def pin(self, identity: frozenset[str] | None) -> None:
        """Let only these servers answer from now on; `disconnect` cuts the others."""
        self._pinned = identity

    async def disconnect(self) -> None:
        """Cut every connection; the next call makes a new one."""
        with _Translated(self._address):
            if self._is_cluster:
                client, self.client = self.client, self._open()
                await _close_cluster(client)
            else:
                await self._pool.disconnect(inuse_connections=True)

    async def identify(self) -> frozenset[str]:
        """Return who answers now, whether pinned or not, by connections of its own.

        The run (a new one at each start) and the history (a new one at each promotion) of every
        primary: one of either kind may hold other values than before.
        """
        single = Link(self._address, self._options)
        try:
            with _Translated(self._address):
                if not self._is_cluster:
                    return frozenset({await _identity(single.client.execute_command)})
                await single.client.initialize()
                nodes: list[ClusterNode] = single.client.get_primaries()
                return frozenset([await _identity(_asking(single.client, node)) for node in nodes])
        finally:
            await single.close()

    async def close(self) -> None:
        """Close every connection."""
        with _Translated(self._address):
            if self._is_cluster:
                await _close_cluster(self.client)
                return
            await self.client.aclose()
            if self._pool is not None:
                await self._pool.disconnect(inuse_connections=True)
            if self._sentinel is not None:
                for sentinel in self._sentinel.sentinels:
                    await sentinel.aclose()

    def _slot(self) -> AbstractAsyncContextManager[None]:
        return self._cluster_slot() if self._is_cluster else _FREE

    @asynccontextmanager
    async def _cluster_slot(self) -> AsyncIterator[None]:
        async with self._cluster_slots:
            # Calls that arrive together at a client that has not yet asked for the nodes cut each
            # other's connections (redis-py 8.1). It begins anew after each error.
            if self.client._initialize:  # noqa: SLF001 - it tells by nothing else
                async with self._cluster_begins:
                    await self.client.initialize()
            yield

    def _open(self) -> Any:
        shared = self._settings()
        address = self._address
        if address.kind is RedisKind.CLUSTER:
            return self._open_cluster(shared)
        shared |= {
            "db": address.db,
            "max_connections": self._options.pool_size,
            "timeout": self._options.wait_seconds,
            "redis_connect_func": self._greet,
        }
        tls = self._tls()
        if address.kind is RedisKind.SENTINEL:
            sentinel_settings = {
                **self._settings(),
                "username": None,
                "password": self._options.sentinel_password,
                **({"ssl": True, **tls} if address.tls else {}),
            }
            self._sentinel = _Sentinel(list(address.hosts), sentinel_kwargs=sentinel_settings)
            self._pool = _SentinelPool(
                address.service, self._sentinel, ssl=address.tls, **shared, **tls
            )
        else:
            host, port = address.hosts[0]
            self._pool = BlockingConnectionPool(
                connection_class=SSLConnection if address.tls else Connection,
                host=host,
                port=port,
                **shared,
                **tls,
            )
        return redis.asyncio.Redis(connection_pool=self._pool)

    def _open_cluster(self, settings: dict[str, Any]) -> Any:
        # The first node is given by host and port, the others as nodes.
        (host, port), *others = self._address.hosts
        cluster: Any = RedisCluster(
            host=host,
            port=port,
            startup_nodes=[ClusterNode(*other) for other in others],
            max_connections=2**16,
            ssl=self._address.tls,
            **(self._tls() if self._address.tls else {}),
            **settings,
        )
        # There is no public way to greet the nodes of a Cluster.
        cluster.connection_kwargs["redis_connect_func"] = self._greet
        for node in cluster.startup_nodes:
            node.connection_kwargs["redis_connect_func"] = self._greet
        return cluster

    def _settings(self) -> dict[str, Any]:
        return {
            "username": self._address.username,
            "password": self._address.password,
            "socket_connect_timeout": self._options.connect_timeout_seconds,
            "socket_timeout": self._options.command_timeout_seconds,
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }

    def _tls(self) -> dict[str, Any]:
        if not self._address.tls:
            return {}
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": self._options.ca_file,
            "ssl_certfile": self._options.certificate_file,
            "ssl_keyfile": self._options.key_file,
        }

    async def _greet(self, connection: Any) -> None:
        await connection.on_connect()

        async def ask(*words: str) -> Any:
            await connection.send_command(*words)
            return await connection.read_response()

        identity = await _identity(ask, may_be_replica=self._is_cluster)
        if self._pinned is not None and identity and identity not in self._pinned:
            raise _OtherServerError("another server answers than before")


async def _close_cluster(client: Any) -> None:
    manager = client.nodes_manager
    # Before: aclose() forgets the nodes. And one that never began closes none by itself.
    nodes = {*client.startup_nodes, *manager.startup_nodes.values(), *manager.nodes_cache.values()}
    await client.aclose()
    for node in nodes:
        await node.disconnect()


async def _identity(ask: Callable[..., Any], *, may_be_replica: bool = False) -> str:
    server = _fields(await ask("INFO", "server"))
    replication = _fields(await ask("INFO", "replication"))
    if replication.get("role") != "master":
        if may_be_replica:
            return ""  # it answers no question about keys
        raise redis.exceptions.ConnectionError("this server is a replica, not the primary")
    run, history = server.get("run_id"), replication.get("master_replid")
    if not run or not history:
        raise redis.exceptions.ConnectionError("this server does not tell its identity")
    return f"{run}:{history}"


def _fields(answer: Any) -> dict[str, str]:
    if isinstance(answer, dict):  # redis-py parses the answer of a command of its own
        return {str(name): str(value) for name, value in answer.items()}
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _asking(client: Any, node: ClusterNode) -> Callable[..., Any]:
    async def ask(*words: str) -> Any:
        answer = await client.execute_command(*words, target_nodes=node)
        is_by_node = isinstance(answer, dict) and node.name in answer
        return answer[node.name] if is_by_node else answer

    return ask


# An AttributeError is what redis-py's Cluster raises when another task has cut its connection.
_TRANSLATED = (redis.exceptions.RedisError, OSError, TimeoutError, AttributeError)


class _Translated:
    """Turns errors of redis-py into ours."""

    __slots__ = ("_address",)

    def __init__(self, address: RedisAddress) -> None:
        self._address = address

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, _TRANSLATED):
            return
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        for secret in (self._address.password, self._address.username):
            words = words.replace(secret, "***") if secret else words
        if isinstance(error, redis.exceptions.AuthenticationError):
            raise RedisLoginError(
                f"redis {self._address} must know the user and the password, got {words!r}"
            ) from error
        if isinstance(error, redis.exceptions.NoPermissionError):
            raise StorageError(
                f"redis {self._address} must allow INFO, scripts and our keys, got {words!r}"
            ) from error
        if isinstance(error, _AWAY):
            raise UnavailableError(
                f"redis {self._address} must answer, got {words!r}; see that it runs"
            ) from error
        if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM command" in words:
            raise StoreFullError(
                f"redis {self._address} must have room, got {words!r}; "
                "see maxmemory and maxmemory-policy"
            ) from error
        raise StorageError(f"redis {self._address} must accept the command, got {words!r}") from (
            error
        )
