"""How long to wait before trying again."""

from kumiai.node.client.backoff import Backoff


def test_waits_grow_to_the_longest_and_are_jittered() -> None:
    backoff = Backoff(first_seconds=1, longest_seconds=8)

    waits = [backoff.next_seconds() for _ in range(6)]

    for wait, limit in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert limit / 2 <= wait <= limit


def test_two_clients_do_not_wait_alike() -> None:
    assert len({Backoff(first_seconds=1, longest_seconds=8).next_seconds() for _ in range(50)}) > 40


def test_a_success_begins_again_with_the_shortest_wait() -> None:
    backoff = Backoff(first_seconds=1, longest_seconds=8)
    for _ in range(5):
        backoff.next_seconds()

    backoff.reset()

    assert backoff.next_seconds() <= 1
