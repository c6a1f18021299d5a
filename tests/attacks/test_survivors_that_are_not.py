"""A coordinator makes up the list of survivors, so that the sum tells one client's update."""

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.messages import Kind, Survivor, Survivors
from tests.secagg.rounds import Network, describe, signers_of

VICTIM = "site-0000"


def entries_of(network: Network) -> tuple[Survivor, ...]:
    return network.server._knowledge.entries


def refuse(network: Network, entries: tuple[Survivor, ...], match: str) -> None:
    before = len(network.sent[VICTIM])
    with pytest.raises(SecureAggregationError, match=match):
        network.tell(VICTIM, Survivors(entries))
    assert len(network.sent[VICTIM]) == before


def test_an_outsider_among_them_is_refused() -> None:
    network = Network(7)
    network.lost.add("site-0006")
    network.run_until(Kind.SURVIVORS)

    refuse(network, (*entries_of(network), Survivor(6, bytes(32))), "of those who shared")


def test_the_victim_and_its_false_friends_alone_are_refused() -> None:
    network = Network(7)
    network.run_until(Kind.SURVIVORS)
    entries = entries_of(network)

    refuse(network, (entries[0], *entries[5:]), "survivors must be of at least 5 clients, got 3")


def test_a_list_without_the_victim_is_refused() -> None:
    network = Network(7)
    network.run_until(Kind.SURVIVORS)

    refuse(network, entries_of(network)[1:], "survivors must hold this client")


def test_another_input_in_the_victims_name_is_refused() -> None:
    network = Network(7)
    network.run_until(Kind.SURVIVORS)
    _, *others = entries_of(network)

    refuse(network, (Survivor(0, bytes(32)), *others), "with the input that it sent")


def test_a_round_in_which_false_friends_leave_one_honest_client_cannot_be_described() -> None:
    with pytest.raises(SecureAggregationError, match="minimum_survivors must be at least 4"):
        describe(signers_of(5), threshold=3, minimum_survivors=3, colluders=2)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sum_of_fewer_than_three_cannot_be_described(count: int) -> None:
    with pytest.raises(SecureAggregationError, match="minimum_survivors must be 3"):
        describe(signers_of(count), threshold=2, minimum_survivors=count, colluders=0)
