"""A connection to Redis for everything that wants one: cache, locks, rate limits.

Redis is an accelerator here, never the truth: a call fails with `UnavailableError` when Redis is
away, quickly, because a circuit breaker stops asking it; whoever calls goes on without it.

Values go through a `Serializer`, JSON unless told otherwise. Who wants bytes takes `key_value`.
"""

import asyncio
import bisect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from kumiai.core.clock import Clock
from kumiai.core.errors import ConfigError, KumiaiError, StorageError, UnavailableError
from kumiai.storage.cache.circuit import CircuitBreaker, CircuitState
from kumiai.storage.cache.keyvalue import verify_expiry
from kumiai.storage.cache.packing import PackedSerializer
from kumiai.storage.cache.redis_address import (
    RedisAddress,
    RedisKind,
    RedisLoginError,
    parse_redis_url,
)
from kumiai.storage.cache.redis_keyvalue import RedisKeyValue, milliseconds
from kumiai.storage.cache.redis_locks import RedisLocks
from kumiai.storage.cache.redis_scripts import Script
from kumiai.storage.cache.serialisation import Serializer

if TYPE_CHECKING:
    from kumiai.storage.cache.redis_link import Link

__all__ = ["RedisBatch", "RedisHealth", "RedisManager", "RedisMetrics"]

_Result = TypeVar("_Result")

_BOUNDS_SECONDS = tuple(50e-6 * 1.5**step for step in range(32))
"""50 microseconds to 14 seconds."""


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """How Redis is.

    Attributes:
        is_up: whether it answered.
        latency_seconds: how long a trivial call took; ``None`` when it did not answer.
        circuit: what the circuit breaker does with calls.
        keys: how many keys the server holds, others' included.
        memory_bytes: how much memory it uses.
        reason: why it is not up.
    """

    is_up: bool
    latency_seconds: float | None
    circuit: CircuitState
    keys: int | None = None
    memory_bytes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RedisMetrics:
    """What has been asked of Redis since the start.

    Attributes:
        calls: calls that were sent; a batch is one.
        failures: of these, those that failed.
        refused: calls that the circuit breaker did not let through.
        circuit_openings: how often it opened.
        bytes_sent: bytes of values that were sent.
        bytes_received: bytes of values that came.
        latency_seconds_p50: half of the calls took at most this long; 0 when there were none.
        latency_seconds_p95: 95 of 100.
        latency_seconds_p99: 99 of 100.
        latency_seconds_max: the longest.
    """

    calls: int
    failures: int
    refused: int
    circuit_openings: int
    bytes_sent: int
    bytes_received: int
    latency_seconds_p50: float
    latency_seconds_p95: float
    latency_seconds_p99: float
    latency_seconds_max: float


class RedisManager:
    """Redis: one server, a Sentinel group or a Cluster.

    Args:
        host: the server, unless ``url`` is given.
        port: its port.
        url: ``redis://``, ``rediss://`` (TLS), ``redis+sentinel://host,host/service`` or
            ``redis+cluster://host,host``, each with user and password if need be.
        username: the user; overrides that of the URL.
        password: the password; overrides that of the URL.
        db: the number of the database, unless ``url`` is given.
        sentinel_password: the password of the Sentinels themselves.
        ca_file: certificates to trust under TLS; ``None``: the machine's.
        certificate_file: our certificate, where the server asks for one.
        key_file: its key.
        key_prefix: begins every key, so that several may share a server.
        pool_size: connections at most (to each node of a Cluster), >= 1; more calls than that
            wait for each other.
        wait_seconds: how long a call waits for a free connection.
        connect_timeout_seconds: how long connecting may take.
        command_timeout_seconds: how long an answer may take.
        serializer: how values are written; JSON, compressed above 4 KiB, unless told otherwise.
        breaker: the circuit breaker.
        clock: the clock of the default breaker.

    Raises:
        ConfigError: the URL is wrong, or the extra ``redis`` is not installed.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        *,
        url: str | None = None,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        sentinel_password: str | None = None,
        ca_file: str | None = None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        key_prefix: str = "kumiai:",
        pool_size: int = 50,
        wait_seconds: float = 5.0,
        connect_timeout_seconds: float = 1.0,
        command_timeout_seconds: float = 1.0,
        serializer: Serializer | None = None,
        breaker: CircuitBreaker | None = None,
        clock: Clock | None = None,
    ) -> None:
        if pool_size < 1:
            raise ValueError(f"pool_size must be at least 1, got {pool_size}")
        if url is None:
            address = RedisAddress(RedisKind.SINGLE, ((host, port),), db)
        else:
            address = parse_redis_url(url)
        self._address = RedisAddress(
            address.kind,
            address.hosts,
            address.db,
            address.service,
            address.tls,
            username or address.username,
            password or address.password,
        )
        link_module = _link_module()
        self._options = link_module.LinkOptions(
            pool_size=pool_size,
            wait_seconds=wait_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            command_timeout_seconds=command_timeout_seconds,
            ca_file=ca_file,
            certificate_file=certificate_file,
            key_file=key_file,
            sentinel_password=sentinel_password,
        )
        self._new_link: Callable[..., Link] = link_module.Link
        self._link: Link | None = None
        self._serializer = serializer or PackedSerializer()
        self._breaker = breaker or CircuitBreaker(clock=clock)
        self._meter = _Meter()
        self._pinned: str | None = None
        self._pinning = 0
        self.key_prefix = key_prefix
        self._key_value = RedisKeyValue(self)

    def __repr__(self) -> str:
        """Return the address without user and password."""
        return f"RedisManager({str(self._address)!r})"

    @property
    def key_value(self) -> RedisKeyValue:
        """The store of bytes that the cache rests on."""
        return self._key_value

    @property
    def locks(self) -> RedisLocks:
        """Where a `DistributedLock` on this connection keeps its locks."""
        return RedisLocks(self)

    @property
    def pinned(self) -> str | None:
        """The server to which the connection is pinned; ``None``: to none."""
        return self._pinned

    @property
    def pinning(self) -> int:
        """How often it has been pinned: between two equal answers only one server answered."""
        return self._pinning

    @property
    def circuit(self) -> CircuitState:
        """What the circuit breaker does with calls now."""
        return self._breaker.state

    @property
    def seconds_to_trial(self) -> float:
        """How long the circuit breaker still refuses every call."""
        return self._breaker.seconds_to_trial

    @property
    def metrics(self) -> RedisMetrics:
        """What has been asked of Redis since the start."""
        return self._meter.snapshot(self._breaker.openings)

    async def initialize(self) -> None:
        """Connect, and see that Redis answers; a second call only does the latter.

        Raises:
            ConfigError: user or password are wrong.
            UnavailableError: nobody answers.
        """
        try:
            await self.execute("PING")
        except RedisLoginError as error:
            raise ConfigError(str(error)) from error

    async def close(self) -> None:
        """Close every connection; closing twice does nothing."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def check(self) -> RedisHealth:
        """Return how Redis is; this never raises for its sake."""
        start = time.perf_counter()
        try:
            await self.execute("PING")
            latency = time.perf_counter() - start
            keys, memory = await self.call(lambda link: link.size())
        except KumiaiError as error:
            return RedisHealth(
                is_up=False, latency_seconds=None, circuit=self.circuit, reason=str(error)
            )
        return RedisHealth(
            is_up=True,
            latency_seconds=latency,
            circuit=self.circuit,
            keys=keys,
            memory_bytes=memory,
        )

    async def get(self, key: str) -> Any:
        """Return a value, or ``None`` when there is none.

        Raises:
            CodecError: what is stored there was not written by the serializer.
        """
        data = await self._key_value.get(key)
        return None if data is None else self._serializer.loads(data)

    async def set(self, key: str, value: Any, *, expire_seconds: float | None = None) -> bool:
        """Store a value; return whether it was stored.

        Raises:
            ValueError: it has no place in the serializer's format.
        """
        data = self._serializer.dumps(value)
        return await self._key_value.set(key, data, expire_seconds=expire_seconds)

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        """Return the values in the order of the keys, ``None`` where there is none."""
        found = await self._key_value.get_many(keys)
        return [None if data is None else self._serializer.loads(data) for data in found]

    async def set_many(
        self, items: Mapping[str, Any], *, expire_seconds: float | None = None
    ) -> None:
        """Store several values; not atomic as a whole."""
        packed = {key: self._serializer.dumps(value) for key, value in items.items()}
        await self._key_value.set_many(packed, expire_seconds=expire_seconds)

    async def delete(self, *keys: str) -> int:
        """Delete keys; return how many were there."""
        return await self._key_value.delete(*keys)

    @asynccontextmanager
    async def pipeline(self) -> "AsyncIterator[RedisBatch]":
        """Gather calls and send them together when the body ends.

        Example::

            async with manager.pipeline() as batch:
                batch.set("a", {"loss": 0.5})
                batch.get("b")
            stored, b = batch.results
        """
        batch = RedisBatch(self, self._serializer)
        yield batch
        await batch.execute()

    async def execute(self, *words: Any, sent_bytes: int = 0) -> Any:
        """Send one command as it is, once; keys get no prefix. Return the answer.

        Args:
            words: the command.
            sent_bytes: for the metrics, how large its value is.

        Raises:
            UnavailableError: Redis is away; whether the command was carried out is not known.
            StorageError: Redis refused it.
        """
        return await self.call(lambda link: link.execute(*words), sent_bytes=sent_bytes)

    async def execute_many(
        self, commands: Sequence[tuple[Any, ...]], *, sent_bytes: int = 0
    ) -> list[Any]:
        """Send commands together, in order but not as one; return the answers.

        Raises:
            UnavailableError: Redis is away; which of them were carried out is not known.
            StorageError: Redis refused one; the others were carried out.
        """
        return await self.call(lambda link: link.execute_many(commands), sent_bytes=sent_bytes)

    async def run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a Lua script; keys get no prefix."""
        return await self.call(lambda link: link.run(script, keys, *arguments))

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """Give the keys that fit a glob, the prefix included; a key may come twice."""
        async for key in self._open().scan(pattern):
            yield key

    async def identify(self) -> str:
        """Return who answers now: another text after a restart or a promotion.

        Raises:
            UnavailableError: nobody answers.
        """
        identity = await self._open().identify()
        return " ".join(sorted(identity))

    async def pin(self, identity: str) -> None:
        """Talk to this server (as `identify` told) only, and cut the connections to others.

        Every other server is refused before it is asked anything, as if Redis were away.
        """
        link = self._open()
        self._pinned = identity
        self._pinning += 1
        link.pin(frozenset(identity.split()))
        await link.disconnect()

    async def call(
        self, work: "Callable[[Link], Awaitable[_Result]]", *, sent_bytes: int = 0
    ) -> _Result:
        """Do something with the connections, under breaker and meter; for our own back-ends."""
        if not self._breaker.allow():
            self._meter.refused += 1
            raise UnavailableError(
                f"redis {self._address} must answer, got {self._breaker.state.value} circuit "
                "breaker; it failed several times in a row"
            )
        start = time.perf_counter()
        try:
            result = await _heeding(work(self._open()))
        except UnavailableError:
            self._breaker.fail()
            self._meter.add(time.perf_counter() - start, sent_bytes, failed=True)
            raise
        except StorageError:
            # It answered, if only to refuse.
            self._breaker.succeed()
            self._meter.add(time.perf_counter() - start, sent_bytes, failed=True)
            raise
        self._breaker.succeed()
        self._meter.add(time.perf_counter() - start, sent_bytes)
        return result

    def received(self, size_bytes: int) -> None:
        """Count bytes of values that came."""
        self._meter.bytes_received += size_bytes

    def _open(self) -> "Link":
        # Here and not at the start: redis-py's connections belong to the running event loop.
        if self._link is None:
            self._link = self._new_link(self._address, self._options)
            if self._pinned is not None:
                self._link.pin(frozenset(self._pinned.split()))
        return self._link


async def _heeding(work: Awaitable[_Result]) -> _Result:
    """Return what the work returns, unless the task was cancelled meanwhile.

    redis-py waits with `asyncio.wait_for`, which before Python 3.12 loses a cancellation that meets
    its result: who calls again and again would go on for ever.
    """
    task = asyncio.current_task()
    asked = task.cancelling() if task is not None else 0
    try:
        return await work
    finally:
        if task is not None and task.cancelling() > asked:
            raise asyncio.CancelledError


class RedisBatch:
    """Calls that are sent together, in order but not as one transaction.

    Attributes:
        results: after the batch was sent, what each call gave, in order.
    """

    def __init__(self, manager: RedisManager, serializer: Serializer) -> None:
        self._manager = manager
        self._serializer = serializer
        self._commands: list[tuple[Any, ...]] = []
        self._readers: list[Callable[[Any], Any]] = []
        self._sent_bytes = 0
        self.results: list[Any] = []

    def get(self, key: str) -> None:
        """Ask for a value; ``None`` when there is none."""
        self._add(("GET", self._manager.key_prefix + key), self._loaded)

    def set(self, key: str, value: Any, *, expire_seconds: float | None = None) -> None:
        """Store a value; gives True."""
        verify_expiry(expire_seconds)
        data = self._serializer.dumps(value)
        self._sent_bytes += len(data)
        words: tuple[Any, ...] = ("SET", self._manager.key_prefix + key, data)
        if expire_seconds is not None:
            words += ("PX", milliseconds(expire_seconds))
        self._add(words, bool)

    def delete(self, key: str) -> None:
        """Delete a key; gives whether it was there."""
        self._add(("DEL", self._manager.key_prefix + key), bool)

    def increment(self, key: str, by: int = 1) -> None:
        """Add to a counter; gives the new value."""
        self._add(("INCRBY", self._manager.key_prefix + key, by), int)

    async def execute(self) -> list[Any]:
        """Send what was gathered, and return the results.

        Raises:
            StorageError: a call was refused; the others were carried out.
        """
        commands, self._commands = self._commands, []
        readers, self._readers = self._readers, []
        answers: list[Any] = []
        if commands:
            sent, self._sent_bytes = self._sent_bytes, 0
            answers = await self._manager.execute_many(commands, sent_bytes=sent)
        self.results = [read(answer) for read, answer in zip(readers, answers, strict=True)]
        return self.results

    def _add(self, words: tuple[Any, ...], reader: Callable[[Any], Any]) -> None:
        self._commands.append(words)
        self._readers.append(reader)

    def _loaded(self, answer: bytes | None) -> Any:
        if answer is None:
            return None
        self._manager.received(len(answer))
        return self._serializer.loads(answer)


class _Meter:
    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_SECONDS) + 1)
        self._longest = 0.0
        self._failures = 0
        self._bytes_sent = 0
        self.refused = 0
        self.bytes_received = 0

    def add(self, seconds: float, sent_bytes: int, *, failed: bool = False) -> None:
        self._counts[bisect.bisect_left(_BOUNDS_SECONDS, seconds)] += 1
        self._longest = max(self._longest, seconds)
        self._failures += failed
        self._bytes_sent += sent_bytes

    def snapshot(self, openings: int) -> RedisMetrics:
        return RedisMetrics(
            calls=sum(self._counts),
            failures=self._failures,
            refused=self.refused,
            circuit_openings=openings,
            bytes_sent=self._bytes_sent,
            bytes_received=self.bytes_received,
            latency_seconds_p50=self._quantile(0.50),
            latency_seconds_p95=self._quantile(0.95),
            latency_seconds_p99=self._quantile(0.99),
            latency_seconds_max=self._longest,
        )

    def _quantile(self, share: float) -> float:
        wanted = share * sum(self._counts)
        seen = 0
        for bound, count in zip(_BOUNDS_SECONDS, self._counts, strict=False):
            seen += count
            if seen >= wanted:
                return min(bound, self._longest)
        return self._longest


def _link_module() -> Any:
    try:
        from kumiai.storage.cache import redis_link  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "redis must be installed, got none; pip install 'kumiai[redis]'"
        ) from error
    return redis_link
