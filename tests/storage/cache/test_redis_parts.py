import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CodecError, ConfigError
from kumiai.storage.cache.circuit import CircuitBreaker, CircuitState
from kumiai.storage.cache.packing import MessagePackSerializer, PackedSerializer
from kumiai.storage.cache.redis_address import RedisAddress, RedisKind, parse_redis_url
from tests.storage.cache.stores import HandClock

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress(RedisKind.SINGLE, (("h", 6379),))),
        (
            "rediss://ann:p%40ss@h:7000/3",
            RedisAddress(
                RedisKind.SINGLE, (("h", 7000),), 3, tls=True, username="ann", password="p@ss"
            ),
        ),
        ("redis://:pw@[::1]:7000", RedisAddress(RedisKind.SINGLE, (("::1", 7000),), password="pw")),
        ("redis://[::1]", RedisAddress(RedisKind.SINGLE, (("::1", 6379),))),
        (
            "redis+sentinel://a,b:7/main/2",
            RedisAddress(RedisKind.SENTINEL, (("a", 26379), ("b", 7)), 2, "main"),
        ),
        (
            "rediss+cluster://a,b:7",
            RedisAddress(RedisKind.CLUSTER, (("a", 6379), ("b", 7)), tls=True),
        ),
    ],
)
def test_a_url_names_an_address(url: str, address: RedisAddress) -> None:
    assert parse_redis_url(url) == address
    assert parse_redis_url(str(address)).hosts == address.hosts


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h:pw123", "scheme"),
        ("unix:///tmp/redis.sock", "scheme"),
        ("redis+other://h", "scheme"),
        ("redis://", "host:port"),
        ("redis://:pw123@", "host:port"),
        ("redis://h:", "host:port"),
        ("redis://h:99999", "host:port"),
        ("redis://h:pw123", "host:port"),
        ("redis://[::1", "no URL"),
        ("redis://a,b", "one host"),
        ("redis://h/x", "number"),
        ("redis://h/1/2", "number"),
        ("redis://h?db=1", "options"),
        ("redis+sentinel://h", "group"),
        ("redis+cluster://h/1", "but 0"),
    ],
)
def test_a_wrong_url_is_told_without_its_secrets(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as told:
        parse_redis_url(url)

    assert "pw123" not in str(told.value)


def test_no_text_of_an_address_shows_user_or_password() -> None:
    address = parse_redis_url("redis+sentinel://ann:secret@h/main")

    assert str(address) == "redis+sentinel://h:26379/main/0"
    assert "ann" not in repr(address)
    assert "secret" not in repr(address)


class TestCircuitBreaker:
    def test_it_opens_after_failures_in_a_row(self) -> None:
        breaker = CircuitBreaker(failures_max=2, clock=HandClock(0.0))

        breaker.fail()
        breaker.succeed()
        breaker.fail()
        assert breaker.state is CircuitState.CLOSED
        breaker.fail()

        assert breaker.state is CircuitState.OPEN
        assert not breaker.allow()
        assert breaker.openings == 1

    def test_one_call_is_on_trial_and_closes_it(self) -> None:
        clock = HandClock(0.0)
        breaker = CircuitBreaker(failures_max=1, open_seconds=1.0, clock=clock)
        breaker.fail()
        assert breaker.seconds_to_trial == 1.0
        clock.seconds = 1.0

        assert breaker.state is CircuitState.HALF_OPEN
        assert [breaker.allow(), breaker.allow()] == [True, False]
        breaker.succeed()

        assert breaker.state is CircuitState.CLOSED
        assert breaker.seconds_to_trial == 0.0
        assert breaker.allow()

    def test_each_trial_that_fails_doubles_the_wait_up_to_a_limit(self) -> None:
        clock = HandClock(0.0)
        breaker = CircuitBreaker(
            failures_max=1, open_seconds=1.0, open_seconds_max=3.0, clock=clock
        )
        breaker.fail()
        waits = []
        for _ in range(4):
            waits.append(breaker.seconds_to_trial)
            clock.seconds += breaker.seconds_to_trial
            assert breaker.allow()
            breaker.fail()

        assert waits == [1.0, 2.0, 3.0, 3.0]

    def test_a_late_failure_of_before_does_not_prolong_it(self) -> None:
        clock = HandClock(0.0)
        breaker = CircuitBreaker(failures_max=1, open_seconds=1.0, clock=clock)
        breaker.fail()
        clock.seconds = 0.5
        breaker.fail()

        assert breaker.seconds_to_trial == 0.5
        assert breaker.openings == 1

    def test_a_trial_that_nobody_reports_on_does_not_last(self) -> None:
        clock = HandClock(0.0)
        breaker = CircuitBreaker(
            failures_max=1, open_seconds=1.0, open_seconds_max=5.0, clock=clock
        )
        breaker.fail()
        clock.seconds = 1.0
        assert breaker.allow()
        clock.seconds = 5.9
        assert not breaker.allow()
        clock.seconds = 6.0

        assert breaker.allow()

    def test_numbers_out_of_range_are_refused(self) -> None:
        with pytest.raises(ValueError, match="failures_max"):
            CircuitBreaker(failures_max=0)
        with pytest.raises(ValueError, match="open_seconds"):
            CircuitBreaker(open_seconds=0)


class TestPacking:
    @pytest.mark.parametrize("written", ["json", "msgpack"])
    @pytest.mark.parametrize("above", [None, 1, 4096])
    @given(value=JSON)
    def test_what_comes_back_is_what_went(
        self, written: str, above: int | None, value: object
    ) -> None:
        serializer = PackedSerializer(written, compress_above_bytes=above)
        reader = PackedSerializer()

        assert reader.loads(serializer.dumps(value)) == value

    @given(data=st.binary(max_size=200))
    def test_other_bytes_are_refused_or_read(self, data: bytes) -> None:
        with contextlib.suppress(CodecError):
            PackedSerializer().loads(data)

    @given(st.data())
    def test_a_cut_compressed_value_is_refused(self, data: st.DataObject) -> None:
        whole = PackedSerializer(compress_above_bytes=1).dumps("x" * 1000)
        cut = data.draw(st.integers(0, len(whole) - 1))

        with pytest.raises(CodecError):
            PackedSerializer().loads(whole[:cut])

    def test_a_bomb_is_not_unpacked(self) -> None:
        bomb = PackedSerializer(compress_above_bytes=1).dumps("x" * 1_000_000)

        with pytest.raises(CodecError, match="at most 1000 bytes"):
            PackedSerializer(max_bytes=1000).loads(bomb)
        with pytest.raises(CodecError, match="at most 1000 bytes"):
            PackedSerializer(max_bytes=1000).loads(b"\x01" + b'"' + b"x" * 1000 + b'"')

    def test_what_is_too_large_is_not_written(self) -> None:
        with pytest.raises(ValueError, match="at most 10 bytes"):
            PackedSerializer(max_bytes=10).dumps("x" * 20)

    def test_what_does_not_get_smaller_is_not_compressed(self) -> None:
        packed = PackedSerializer("msgpack", compress_above_bytes=1).dumps(bytes(range(256)))

        assert packed[0] == 0x02

    def test_what_has_no_place_is_refused(self) -> None:
        with pytest.raises(ValueError, match="MessagePack"):
            MessagePackSerializer().dumps(object())
        with pytest.raises(ValueError, match="MessagePack"):
            MessagePackSerializer().dumps(2**70)
        with pytest.raises(ValueError, match="JSON"):
            PackedSerializer().dumps(object())

    def test_settings_out_of_range_are_refused(self) -> None:
        with pytest.raises(ValueError, match="format"):
            PackedSerializer("pickle")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="above 0"):
            PackedSerializer(max_bytes=0)

    def test_without_msgpack_it_is_told_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "msgpack", None)

        with pytest.raises(ConfigError, match="pip install"):
            PackedSerializer("msgpack")
