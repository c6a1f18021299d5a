"""How the share of new connections follows from how many come to nothing."""

from collections.abc import Iterable

import pytest

from kumiai.node.wire.connection_pace import LOOK_SECONDS, ConnectionPace

PER_SECOND = 100.0


class Port:
    """A port with a clock of its own, and callers who come as often as they are told to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.accepted = 0
        self.shares: list[float] = []
        self.known = (1.0, [""])
        self.pace = ConnectionPace(lambda: self.accepted, self, wasted_per_second=PER_SECOND)
        self._let_in = 0.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def let_through(self, strangers: float, known: float, addresses: Iterable[str]) -> None:
        self.shares.append(strangers)
        self.known = (known, [*addresses])

    def let_all_through(self) -> None:
        self.shares.append(1.0)

    def pass_by(self, seconds: float, *, wasted: float = 0.0, good: float = 0.0) -> int:
        """Let time go by with so many callers a second; return how many bad ones got in."""
        before, good_before = self.accepted, 0
        for _ in range(round(seconds / LOOK_SECONDS)):
            self.seconds += LOOK_SECONDS
            self._let_in += wasted * LOOK_SECONDS * self.pace.share
            whole, self._let_in = int(self._let_in), self._let_in % 1
            count = round(good * LOOK_SECONDS)
            self.accepted += whole + count
            good_before += count
            for _ in range(count):
                self.pace.note_good("10.0.0.1")
            self.pace.look(self)
        return self.accepted - before - good_before


@pytest.mark.parametrize("wasted", [300, 900, 5_000, 40_000])
def test_of_a_flood_as_many_get_in_as_may(wasted: float) -> None:
    port = Port()
    first = port.pass_by(1, wasted=wasted)

    later = port.pass_by(20, wasted=wasted)

    assert first <= 2 * PER_SECOND + 4 * LOOK_SECONDS * wasted
    assert 0.7 * PER_SECOND <= later / 20 <= 1.3 * PER_SECOND


def test_a_flood_that_comes_in_waves_is_held_like_an_even_one() -> None:
    port = Port()

    let_in = sum(
        port.pass_by(LOOK_SECONDS, wasted=64 / LOOK_SECONDS) + port.pass_by(2 * LOOK_SECONDS)
        for _ in range(200)
    )

    assert let_in / 30 <= 1.5 * PER_SECOND


def test_when_the_flood_is_over_all_get_in_again() -> None:
    port = Port()
    port.pass_by(10, wasted=2_000)
    assert port.pace.share < 0.1

    port.pass_by(5)

    assert port.pace.share == port.shares[-1] == 1.0
    assert port.pass_by(1, wasted=40) > 0
    assert port.pace.share == 1.0


def test_good_clients_are_never_held_up_however_many_come_at_once() -> None:
    port = Port()

    port.pass_by(10, good=2_000)

    assert port.shares == []


def test_clients_whose_calls_come_a_moment_after_their_connections_are_not_held_up() -> None:
    port = Port()
    for _ in range(20):
        port.accepted += 40
        port.pass_by(LOOK_SECONDS)
        for _ in range(40):
            port.pace.note_good("10.0.0.1")
        port.pass_by(LOOK_SECONDS)

    assert port.shares == []


def test_a_thousand_clients_whose_calls_lag_behind_are_held_up_until_they_come() -> None:
    port = Port()
    for _ in range(10):
        port.accepted += 100
        port.pass_by(LOOK_SECONDS)
    assert port.pace.share < 1.0

    for _ in range(1_000):
        port.pace.note_good("10.0.0.1")
    port.pass_by(LOOK_SECONDS)

    assert port.pace.share == port.shares[-1] == 1.0


def test_addresses_of_good_clients_have_five_times_the_chance() -> None:
    port = Port()
    for number in range(300):
        port.pace.note_good(f"10.0.{number // 250}.{number % 250}")
    port.pace.note_good("10.0.1.7")
    port.pace.note_good("unix:/a/socket")

    port.pass_by(5, wasted=2_000)

    known, addresses = port.known
    assert known == pytest.approx(5 * port.shares[-1])
    assert len(addresses) == 256
    assert addresses[-1] == "10.0.1.7"
    assert "10.0.0.0" not in addresses


def test_a_look_at_the_same_moment_sees_nothing() -> None:
    port = Port()
    port.accepted += 10_000

    port.pace.look(port)

    assert port.shares == []


def test_a_share_that_hardly_changes_is_not_set_anew() -> None:
    port = Port()

    port.pass_by(10, wasted=2_000)

    assert len(port.shares) < 60
