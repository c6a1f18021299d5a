import socket

import pytest

from kumiai.testing import ports
from kumiai.testing.ports import PAIR_OFFSET, free_pairs, free_port


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 0


def test_pairs_are_free_and_differ() -> None:
    lower = free_pairs(4)

    both = {*lower, *(port + PAIR_OFFSET for port in lower)}
    assert len(both) == 8
    for port in both:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_pair_of_which_the_upper_port_is_taken_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, free = free_pairs(2)
    drawn = iter([taken - ports._FIRST_PORT, free - ports._FIRST_PORT])
    monkeypatch.setattr(ports.secrets, "randbelow", lambda _count: next(drawn))

    with socket.create_server(("127.0.0.1", taken + PAIR_OFFSET)):
        assert free_pairs(1) == [free]
