"""A client commits to one vector and uploads another: nothing is published, and it is found.

The attack on the finding is a coordinator that uses it: sums over sets that it chooses, whose
difference is one update. So the groups follow from what all have signed.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.client_records import ClientPhase
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.proofs import CommittedUpdate
from kumiai.secagg.reruns import rerun_groups
from kumiai.secagg.server_records import ServerEvent, ServerRecord
from tests.secagg.rounds import COORDINATOR, Network, pedersen_proofs

CHEAT = "site-0002"


class Lying:
    """Commits to a vector that is one off."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pedersen_proofs(), name)

    def commit(self, values: Any, descriptor: Any, context: bytes) -> CommittedUpdate:
        other = values.copy()
        other[0] += 1
        return pedersen_proofs().commit(other, descriptor, context)


def cheated(count: int = 8, **changes: object) -> Network:
    fields = {"rerun_size": 4, "colluders": 2, **changes}
    network = Network(count, mode=Proofs.SUM, **fields)
    network.clients[CHEAT]._knowledge._proofs = Lying()  # type: ignore[assignment]
    network.run()
    return network


def test_the_sum_is_not_published_and_all_know_the_same_two_groups() -> None:
    network = cheated()

    assert network.outcome is None
    assert network.stopped == "the sum is not that of what its clients had committed to"
    stop = network.server.stopped
    assert stop is not None
    assert stop.wrong is not None
    assert stop.wrong.survivors == tuple(network.names)
    groups = stop.wrong.groups
    assert [len(group) for group in groups] == [4, 4]
    assert sorted(groups[0] + groups[1]) == network.names
    for name, client in network.clients.items():
        assert client.rerun_groups == groups
        network.restart_client(name)
        assert network.clients[name].rerun_groups == groups
        assert network.clients[name].phase is ClientPhase.STOPPED


def test_a_coordinator_that_starts_again_knows_it_still() -> None:
    network = cheated()
    before = network.server.stopped
    assert before is not None

    network.restart_server()

    last = ServerRecord.decode(network.records[COORDINATOR][-1])
    assert network.server.stopped == before
    assert last == ServerRecord(ServerEvent.ABANDON, before.reason.encode(), b"wrong")


def test_a_round_whose_sum_is_right_has_no_groups() -> None:
    network = Network(8, mode=Proofs.SUM, rerun_size=4, colluders=2)
    network.run()

    assert network.outcome is not None
    assert network.server.stopped is None
    assert {client.rerun_groups for client in network.clients.values()} == {()}


def test_a_round_that_ends_for_another_reason_blames_nobody() -> None:
    network = Network(8, mode=Proofs.SUM, rerun_size=4, colluders=2)
    network.begin()

    network.from_server(network.server.abandon("enough"))

    assert network.server.stopped is not None
    assert network.server.stopped.wrong is None


@pytest.mark.parametrize(("count", "size"), [(7, 4), (8, 0)])
def test_too_few_are_not_split(count: int, size: int) -> None:
    stop = cheated(count, rerun_size=size).server.stopped

    assert stop is not None
    assert stop.wrong is not None
    assert (len(stop.wrong.survivors), stop.wrong.groups) == (count, ())


def test_the_groups_are_nobodys_choice() -> None:
    names = [f"site-{number}" for number in range(40)]

    def groups(order: list[str], agreement: bytes) -> Any:
        return rerun_groups(order, agreement=agreement, minimum_size=3)

    assert groups(names, bytes(32)) == groups(names[::-1], bytes(32))
    others = {groups(names, np.random.default_rng(each).bytes(32)) for each in range(20)}
    assert len(others) == 20
    assert all(name in first + second for first, second in others for name in names)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rerun_size": 3}, "rerun_size must be 0 or at least 4, got 3"),
        ({"rerun_size": 4, "proofs": Proofs.OFF}, "rerun_size must be 0 without proofs"),
    ],
)
def test_groups_that_would_tell_too_much_cannot_be_described(
    changes: dict[str, object], problem: str
) -> None:
    descriptor = Network(8, mode=Proofs.SUM, colluders=2).descriptor

    with pytest.raises(SecureAggregationError, match=problem):
        replace(descriptor, **changes)  # type: ignore[arg-type]
