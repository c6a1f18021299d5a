import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.identity import CallLimits, LimitRules, PeerRefusedError, Refusal
from kumiai.identity.rate_limits import address_key

ADDRESS = "10.0.0.1"
URI = "kumiai://hospitals/client/site-1"
NOBODY = PeerRefusedError(Refusal.WRONG_AUTHORITY, "no")


class Clock:
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock(5_000.0)


@pytest.fixture
def limits(clock: Clock) -> CallLimits:
    rules = LimitRules(
        identity_calls_per_second=2.0,
        identity_calls_max=3,
        address_calls_per_second=1.0,
        address_calls_max=2,
        handshakes_per_second=4.0,
        handshakes_max=2,
        failures_max=3,
        lockout_seconds=1.0,
        lockout_seconds_max=4.0,
        remembered_max=8,
    )
    return CallLimits(clock, rules)


def fail(limits: CallLimits, address: str = "10.0.0.1", count: int = 1) -> None:
    for _ in range(count):
        limits.note_refusal(address, NOBODY)


def is_locked_out(limits: CallLimits, address: str = "10.0.0.1") -> bool:
    try:
        limits.admit_unknown(address)
    except PeerRefusedError as error:
        return error.refusal is Refusal.LOCKED_OUT
    return False


def test_an_identity_may_burst_and_then_goes_on_at_its_rate(
    limits: CallLimits, clock: Clock
) -> None:
    for _ in range(3):
        limits.admit_identity(URI, ADDRESS)
    with pytest.raises(PeerRefusedError, match="at most 2 calls a second") as caught:
        limits.admit_identity(URI, ADDRESS)
    limits.admit_identity(URI.replace("site-1", "site-2"), ADDRESS)

    clock.seconds += 0.5

    limits.admit_identity(URI, ADDRESS)
    assert caught.value.refusal is Refusal.RATE_LIMITED
    assert caught.value.retry_seconds == 0.5
    clock.seconds += 0.75
    limits.admit_identity(URI, ADDRESS)
    with pytest.raises(PeerRefusedError) as caught:
        limits.admit_identity(URI, ADDRESS)
    assert caught.value.retry_seconds == 0.25


def test_callers_who_must_be_looked_up_are_limited_by_address(limits: CallLimits) -> None:
    limits.admit_unknown("10.0.0.1")
    limits.admit_unknown("10.0.0.1")
    with pytest.raises(PeerRefusedError, match="an address must make at most 1") as caught:
        limits.admit_unknown("10.0.0.1")
    limits.admit_unknown("10.0.0.2")

    assert caught.value.refusal is Refusal.RATE_LIMITED


def test_failures_lock_an_address_out_each_time_for_twice_as_long(
    limits: CallLimits, clock: Clock
) -> None:
    lasted = []
    for _ in range(4):
        fail(limits, count=3)
        began = clock.seconds
        while is_locked_out(limits):
            clock.seconds += 0.25
        lasted.append(clock.seconds - began)

    assert lasted == [1.0, 2.0, 4.0, 4.0]


def test_who_is_locked_out_is_told_that_and_nothing_else(limits: CallLimits) -> None:
    fail(limits, count=3)

    with pytest.raises(PeerRefusedError, match="must wait after so many refusals") as caught:
        limits.note_refusal("10.0.0.1", NOBODY)

    assert caught.value.refusal is Refusal.LOCKED_OUT
    assert caught.value.retry_seconds == 1.0
    assert not is_locked_out(limits, "10.0.0.2")


@pytest.mark.parametrize(
    "refusal", [Refusal.MISSING_PERMISSION, Refusal.RATE_LIMITED, Refusal.LOCKED_OUT]
)
def test_refusals_of_known_callers_lock_nobody_out(limits: CallLimits, refusal: Refusal) -> None:
    for _ in range(10):
        limits.note_refusal("10.0.0.1", PeerRefusedError(refusal, "no"))

    assert not is_locked_out(limits)


@pytest.mark.parametrize(("pause", "locked"), [(8.0, True), (8.25, False)])
def test_failures_are_forgotten_after_twice_the_longest_lockout(
    limits: CallLimits, clock: Clock, pause: float, locked: bool
) -> None:
    fail(limits, count=2)
    clock.seconds += pause
    fail(limits)

    assert is_locked_out(limits) is locked


def test_lockouts_begin_short_again_once_they_are_forgotten(
    limits: CallLimits, clock: Clock
) -> None:
    fail(limits, count=3)
    clock.seconds += 9
    fail(limits, count=3)
    clock.seconds += 1

    assert not is_locked_out(limits)


def test_who_is_locked_out_a_thousand_times_is_locked_out_once_more(
    limits: CallLimits, clock: Clock
) -> None:
    for _ in range(1_100):
        fail(limits, count=3)
        clock.seconds += 4

    fail(limits, count=3)

    assert is_locked_out(limits)


def test_a_single_failure_locks_nobody_out() -> None:
    limits = CallLimits(Clock())
    fail(limits)

    assert not is_locked_out(limits)


def others(limits: CallLimits, first: int, count: int) -> None:
    """Let so many others call, connect and fail."""
    for number in range(first, first + count):
        address = f"10.1.0.{number}"
        limits.admit_identity(f"{URI}-{number}", address)
        limits.admit_unknown(address)
        limits.admit_handshake(address)
        fail(limits, address)


def test_who_calls_again_is_remembered_longer_than_who_does_not(limits: CallLimits) -> None:
    others(limits, 0, 8)
    fail(limits)
    for _ in range(3):
        limits.admit_identity(URI, ADDRESS)
    limits.admit_unknown(ADDRESS)
    limits.admit_unknown(ADDRESS)
    handshake_waits(limits)
    for begin in (8, 15):
        others(limits, begin, 7)
        with pytest.raises(PeerRefusedError):
            limits.admit_identity(URI, ADDRESS)
        with pytest.raises(PeerRefusedError):
            limits.admit_unknown(ADDRESS)
        assert handshake_waits(limits) == []
        fail(limits)

    assert is_locked_out(limits)


def test_where_a_good_caller_came_from_again_is_remembered_longer(limits: CallLimits) -> None:
    limits.admit_identity(URI, ADDRESS)
    for number in range(7):
        limits.admit_identity(URI + f"-{number}", f"10.1.0.{number}")
    limits.admit_identity(URI, ADDRESS)
    for number in range(7, 14):
        limits.admit_identity(URI + f"-{number}", f"10.1.0.{number}")

    assert len(handshake_waits(limits)) == 42


def test_without_other_rules_these_hold() -> None:
    # A machine that has just been started counts its seconds from zero.
    clock = Clock()
    assert LimitRules() == LimitRules(200.0, 1_000, 20.0, 100, 20.0, 10, 10, 1.0, 300.0, 4_096)
    limits = CallLimits(clock)
    fail(limits, count=9)
    assert not is_locked_out(limits)
    fail(limits)
    assert is_locked_out(limits)
    clock.seconds += 1.0
    assert not is_locked_out(limits)


def test_ten_thousand_addresses_do_not_make_the_tables_grow(limits: CallLimits) -> None:
    for number in range(10_000):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        fail(limits, address)
        limits.admit_unknown(address)
        limits.admit_identity(f"{URI}-{number}", address)
        limits.admit_handshake(address)

    assert limits.remembered_count == 40


def handshake_waits(limits: CallLimits, address: str = ADDRESS) -> list[float]:
    """Return how long each of so many connections at once must wait, until one is refused."""
    waits: list[float] = []
    while True:
        try:
            waits.append(limits.admit_handshake(address))
        except PeerRefusedError:
            return waits


def test_handshakes_of_an_address_wait_for_their_turn_and_too_many_are_refused(
    limits: CallLimits, clock: Clock
) -> None:
    assert handshake_waits(limits) == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    with pytest.raises(PeerRefusedError, match="at most 4 connections a second") as caught:
        limits.admit_handshake(ADDRESS)
    assert limits.admit_handshake("10.0.0.2") == 0.0

    clock.seconds += 0.25

    assert caught.value.refusal is Refusal.RATE_LIMITED
    assert caught.value.retry_seconds == 0.25
    assert handshake_waits(limits) == [2.0]


def test_an_address_that_good_callers_come_from_may_open_more_connections(
    limits: CallLimits, clock: Clock
) -> None:
    handshake_waits(limits)

    limits.admit_identity(URI, ADDRESS)

    waits = handshake_waits(limits)
    assert (len(waits), waits[-1]) == (32, 2.0)
    clock.seconds += 3_600.0
    assert len(handshake_waits(limits)) == 42
    clock.seconds += 0.1
    assert len(handshake_waits(limits)) == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_handshakes_never_begin_oftener_than_burst_and_rate(pauses: list[float]) -> None:
    clock = Clock()
    limits = CallLimits(clock, LimitRules(handshakes_per_second=2.0, handshakes_max=3))
    begun = []
    for pause in pauses:
        clock.seconds += pause
        begun += [clock.seconds + wait for wait in handshake_waits(limits)]

    assert begun == sorted(begun)
    spans = [late - early for early, late in zip(begun, begun[3:], strict=False)]
    assert all(span >= 0.5 - 1e-6 for span in spans)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
        ("x" * 65, "x" * 64),
    ],
)
def test_an_ipv6_host_can_not_escape_within_its_network(address: str, key: str) -> None:
    assert address_key(address) == key


@given(st.text())
def test_any_text_has_a_short_key(address: str) -> None:
    assert len(address_key(address)) <= 64


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_nobody_ever_gets_more_than_burst_and_rate(pauses: list[float]) -> None:
    clock = Clock()
    limits = CallLimits(clock, LimitRules(identity_calls_per_second=2.0, identity_calls_max=3))
    admitted = 0
    for pause in pauses:
        clock.seconds += pause
        try:
            limits.admit_identity(URI, ADDRESS)
        except PeerRefusedError:
            continue
        admitted += 1

    assert admitted <= 3 + 2.0 * clock.seconds + 1e-6
