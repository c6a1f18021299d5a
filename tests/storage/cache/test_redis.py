import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kumiai.core.errors import CodecError, ConfigError, StorageError, UnavailableError
from kumiai.storage.cache.circuit import CircuitBreaker, CircuitState
from kumiai.storage.cache.keyvalue import StoreFullError
from kumiai.storage.cache.packing import PackedSerializer
from kumiai.storage.cache.redis import RedisManager
from kumiai.testing.redis_server import RedisServer
from tests.storage.cache.stores import patient_manager

pytestmark = pytest.mark.integration


@pytest.fixture
async def manager(own_redis: RedisServer) -> AsyncIterator[RedisManager]:
    manager = RedisManager("127.0.0.1", own_redis.port)
    await manager.initialize()
    yield manager
    await manager.close()


@pytest.fixture(scope="module")
def guarded_redis() -> Iterator[RedisServer]:
    server = RedisServer({"requirepass": "s3cret:word"})
    yield server
    server.remove()


async def test_values_come_back_as_they_went(redis_manager: RedisManager) -> None:
    value = {"loss": 0.25, "tags": ["a", "ü"], "none": None, "large": "x" * 10_000}

    assert await redis_manager.set("run", value, expire_seconds=60) is True
    await redis_manager.set_many({"a": 1, "b": [2]}, expire_seconds=60)

    assert await redis_manager.get("run") == value
    assert await redis_manager.get_many(["b", "none", "a"]) == [[2], None, 1]
    assert await redis_manager.get("none") is None
    assert await redis_manager.delete("a", "none") == 1


async def test_large_values_are_compressed(redis_manager: RedisManager) -> None:
    await redis_manager.set("large", "x" * 100_000)

    assert len(await redis_manager.key_value.get("large") or b"") < 1000
    assert await redis_manager.get("large") == "x" * 100_000


async def test_another_serializer_reads_what_is_stored_already(
    redis_server: RedisServer, redis_manager: RedisManager
) -> None:
    await redis_manager.set("a", {"x": 1})
    other = RedisManager("127.0.0.1", redis_server.port, serializer=PackedSerializer("msgpack"))

    assert await other.get("a") == {"x": 1}
    await other.set("b", {"x": b"bytes"})
    assert await redis_manager.get("b") == {"x": b"bytes"}
    await other.close()


async def test_foreign_bytes_are_told_and_not_guessed(redis_manager: RedisManager) -> None:
    await redis_manager.key_value.set("a", b"\x80\x04K\x01.")

    with pytest.raises(CodecError):
        await redis_manager.get("a")


async def test_a_batch_is_sent_as_one(redis_manager: RedisManager) -> None:
    await redis_manager.set("there", [1])
    calls = redis_manager.metrics.calls

    async with redis_manager.pipeline() as batch:
        batch.set("a", {"x": 1})
        batch.set("b", 2, expire_seconds=60)
        batch.get("a")
        batch.get("none")
        batch.increment("n", 5)
        batch.delete("there")
        batch.delete("there")

    assert batch.results == [True, True, {"x": 1}, None, 5, True, False]
    assert redis_manager.metrics.calls == calls + 1
    assert await batch.execute() == []


async def test_a_refused_call_of_a_batch_is_told(redis_manager: RedisManager) -> None:
    await redis_manager.set("text", "x")

    with pytest.raises(StorageError, match="must accept the command"):  # noqa: PT012
        async with redis_manager.pipeline() as batch:
            batch.increment("text")
            batch.set("after", 1)

    assert await redis_manager.get("after") == 1


async def test_a_body_that_fails_sends_nothing(redis_manager: RedisManager) -> None:
    with pytest.raises(KeyError):  # noqa: PT012
        async with redis_manager.pipeline() as batch:
            batch.set("a", 1)
            raise KeyError

    assert await redis_manager.get("a") is None


async def test_two_hundred_calls_share_a_small_pool(redis_server: RedisServer) -> None:
    manager = patient_manager(redis_server, pool_size=3)
    await manager.set("n", 0)

    await asyncio.gather(*(manager.key_value.increment("count") for _ in range(200)))

    assert await manager.key_value.increment("count") % 201 == 0
    assert manager.metrics.failures == 0
    await manager.key_value.delete("count")
    await manager.close()


async def test_cancelled_calls_leave_no_answer_to_others(redis_manager: RedisManager) -> None:
    for number in range(50):
        await redis_manager.set(str(number), number)

    async def read(number: int) -> bool:
        return bool(await redis_manager.get(str(number)) == number)

    for turn in range(20):
        tasks = [asyncio.create_task(read(number)) for number in range(50)]
        for _ in range(turn):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)

        assert all(outcomes[1::2])
        assert False not in outcomes


async def test_keys_of_others_are_left_alone(
    redis_server: RedisServer, redis_manager: RedisManager
) -> None:
    other = RedisManager("127.0.0.1", redis_server.port, key_prefix="other:")
    await other.set("a", 1)

    assert await redis_manager.get("a") is None
    assert [key async for key in redis_manager.key_value.scan("*")] == []
    assert [key async for key in other.key_value.scan("*")] == ["a"]
    await other.close()


async def test_databases_are_apart(redis_server: RedisServer, redis_manager: RedisManager) -> None:
    other = RedisManager(url=f"{redis_server.url}/3")
    await other.set("a", 1)

    assert await redis_manager.get("a") is None
    assert repr(other) == f"RedisManager('redis://127.0.0.1:{redis_server.port}/3')"
    await other.close()


async def test_health_and_metrics_tell_what_happened(redis_manager: RedisManager) -> None:
    await redis_manager.set("a", "x" * 1000)
    await redis_manager.get("a")

    health = await redis_manager.check()
    metrics = redis_manager.metrics

    assert health.is_up
    assert health.keys == 1
    assert (health.memory_bytes or 0) > 0
    assert (health.latency_seconds or 0) > 0
    assert health.circuit is CircuitState.CLOSED
    assert metrics.bytes_sent > 1000
    assert metrics.bytes_received == metrics.bytes_sent
    assert metrics.failures == metrics.refused == 0
    assert (
        0
        < metrics.latency_seconds_p50
        <= metrics.latency_seconds_p95
        <= metrics.latency_seconds_p99
        <= metrics.latency_seconds_max
    )


async def test_nobody_there_is_told_at_once(own_redis: RedisServer) -> None:
    own_redis.kill()
    manager = RedisManager("127.0.0.1", own_redis.port)

    with pytest.raises(UnavailableError, match="see that it runs"):
        await manager.initialize()
    health = await manager.check()

    assert not health.is_up
    assert "must answer" in (health.reason or "")
    await manager.close()
    await manager.close()


async def test_the_breaker_stops_asking_and_begins_again(own_redis: RedisServer) -> None:
    breaker = CircuitBreaker(failures_max=3, open_seconds=0.05)
    manager = RedisManager("127.0.0.1", own_redis.port, breaker=breaker)
    await manager.set("a", 1)
    own_redis.kill()

    for _ in range(3):
        with pytest.raises(UnavailableError):
            await manager.get("a")
    with pytest.raises(UnavailableError, match="circuit breaker"):
        await manager.get("a")
    assert manager.circuit is CircuitState.OPEN
    assert manager.metrics.refused == 1
    assert manager.metrics.circuit_openings == 1
    assert 0 < manager.seconds_to_trial <= 0.05
    own_redis.start()
    await asyncio.sleep(0.06)

    assert await manager.get("a") is None
    assert manager.circuit is CircuitState.CLOSED
    await manager.close()


async def test_a_halted_server_costs_no_more_than_the_time_allowed(
    own_redis: RedisServer,
) -> None:
    manager = RedisManager("127.0.0.1", own_redis.port, command_timeout_seconds=0.1)
    await manager.set("a", 1)
    own_redis.pause()

    with pytest.raises(UnavailableError):
        await manager.get("a")
    own_redis.resume()

    # The late answer of the first call is not taken for one to this.
    await manager.set("b", 2)
    assert await manager.get_many(["b", "a"]) == [2, 1]
    await manager.close()


async def test_a_restarted_server_is_another(own_redis: RedisServer, manager: RedisManager) -> None:
    before = await manager.identify()
    assert await manager.identify() == before
    own_redis.restart()

    assert await manager.identify() != before


async def test_a_pinned_connection_asks_no_other_server(
    own_redis: RedisServer, manager: RedisManager
) -> None:
    await manager.pin(await manager.identify())
    await manager.set("a", 1)
    own_redis.command("SAVE")
    own_redis.restart()

    with pytest.raises(UnavailableError):
        await manager.get("a")  # on the connection that the restart has cut
    with pytest.raises(UnavailableError, match="another server"):
        await manager.get("a")
    await manager.pin(await manager.identify())

    assert await manager.get("a") == 1


async def test_a_replica_is_not_asked(own_redis: RedisServer) -> None:
    replica = RedisServer({"replicaof": f"127.0.0.1 {own_redis.port}"})
    manager = RedisManager("127.0.0.1", replica.port)

    with pytest.raises(UnavailableError, match="replica"):
        await manager.get("a")
    await manager.close()
    replica.remove()


async def test_a_promoted_replica_is_another_server(own_redis: RedisServer) -> None:
    manager = RedisManager("127.0.0.1", own_redis.port)
    before = await manager.identify()
    other = RedisServer()
    own_redis.command("REPLICAOF", "127.0.0.1", str(other.port))
    own_redis.command("REPLICAOF", "NO", "ONE")

    assert await manager.identify() != before
    await manager.close()
    other.remove()


async def test_the_password_opens_and_is_never_shown(guarded_redis: RedisServer) -> None:
    url = f"redis://:s3cret%3Aword@127.0.0.1:{guarded_redis.port}"
    manager = RedisManager(url=url)
    wrong = RedisManager("127.0.0.1", guarded_redis.port, username="ann", password="w0rng")
    none = RedisManager("127.0.0.1", guarded_redis.port)

    await manager.initialize()
    with pytest.raises(ConfigError) as told:
        await wrong.initialize()
    with pytest.raises(ConfigError):
        await none.initialize()

    assert "s3cret" not in repr(manager) + str(manager.__dict__["_address"])
    assert "w0rng" not in repr(told.value) + repr(told.value.__cause__)
    assert "ann" not in repr(told.value)
    for each in (manager, wrong, none):
        await each.close()


async def test_who_may_not_is_told(own_redis: RedisServer) -> None:
    own_redis.command("ACL", "SETUSER", "ann", "on", ">pw", "~kumiai:*", "+@all", "-set")
    manager = RedisManager("127.0.0.1", own_redis.port, username="ann", password="pw")

    with pytest.raises(StorageError, match="must allow"):
        await manager.set("a", 1)
    await manager.close()


async def test_a_full_server_refuses_and_stays_up(own_redis: RedisServer) -> None:
    manager = RedisManager("127.0.0.1", own_redis.port)
    await manager.initialize()
    own_redis.command("CONFIG", "SET", "maxmemory", "1")

    with pytest.raises(StoreFullError, match="must have room"):
        await manager.set("a", 1)

    assert manager.circuit is CircuitState.CLOSED
    assert await manager.get("a") is None
    await manager.close()


async def test_without_the_package_it_is_told_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['redis'] = None\n"
        "from kumiai.core.errors import ConfigError\n"
        "from kumiai.storage.cache.redis import RedisManager\n"
        "try:\n"
        "    RedisManager()\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert "pip install 'kumiai[redis]'" in done.stdout, done.stderr


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="pool_size must be at least 1, got 0"):
        RedisManager(pool_size=0)


def _write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@asynccontextmanager
async def _behind_tls(folder: Path, port: int) -> AsyncIterator[int]:
    """Lend a port that speaks TLS for the server; the server's program may know none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_under_tls_it_speaks_only_to_whom_it_trusts(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    _write_certificate(tmp_path)
    async with _behind_tls(tmp_path, redis_server.port) as port:
        url = f"rediss://localhost:{port}"
        trusting = RedisManager(url=url, ca_file=str(tmp_path / "cert.pem"))
        strange = RedisManager(url=url)
        misnamed = RedisManager(
            url=f"rediss://127.0.0.1:{port}", ca_file=str(tmp_path / "cert.pem")
        )

        await trusting.set("a", 1)

        assert await trusting.get("a") == 1
        with pytest.raises(UnavailableError):
            await strange.get("a")
        with pytest.raises(UnavailableError):
            await misnamed.get("a")
        for each in (trusting, strange, misnamed):
            await each.close()


async def test_whoever_is_cancelled_between_two_answers_hears_of_it(
    redis_manager: RedisManager,
) -> None:
    async def ask_for_ever() -> None:
        while True:
            await redis_manager.execute("PING")

    for turns in range(300):
        task = asyncio.create_task(ask_for_ever())
        for _ in range(turns % 30):
            await asyncio.sleep(0)
        task.cancel()
        _, deaf = await asyncio.wait({task}, timeout=30)
        task.cancel()  # one that did not hear must not outlive the test
        assert not deaf
