"""A client restarts, or an old copy of its disk comes back: it must not answer twice."""

import numpy as np
import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import Advance, Persist, Send
from kumiai.secagg.messages import Agreements, Kind, Survivors
from tests.secagg.rounds import Network

VICTIM = "site-0000"


def test_after_a_restart_the_same_request_gets_the_same_bytes() -> None:
    network = Network(7)
    network.run_until(Kind.RESULT)
    told, sent = network.told[VICTIM], network.sent[VICTIM]

    network.restart_client(VICTIM)

    (again,) = network.clients[VICTIM].receive(told[-1].message)
    assert isinstance(again, Send)
    assert again.message == sent[-1].message


def test_after_a_restart_a_second_list_of_survivors_is_refused() -> None:
    network = Network(7)
    network.run_until(Kind.RESULT)
    entries = network.server._knowledge.entries

    network.restart_client(VICTIM)

    for body in (Survivors(entries[:6]), Agreements(())):
        with pytest.raises(SecureAggregationError, match="different stories"):
            network.tell(VICTIM, body)


def test_after_a_restart_another_update_is_not_masked_with_the_same_keys() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)
    update, weight = network.updates[VICTIM]
    network.restart_client(VICTIM)

    (again,) = network.clients[VICTIM].submit(update, weight)
    assert isinstance(again, Send)
    assert again.vector is not None
    assert bytes(again.vector) == network.uploads[VICTIM]

    for other in ((-update, weight), (update, weight % 8 + 1)):
        with pytest.raises(SecureAggregationError, match="update must be the one"):
            network.clients[VICTIM].submit(*other)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_an_old_copy_of_the_records_is_not_taken_up(lost: int) -> None:
    network = Network(7)
    network.run_until(Kind.RESULT)
    network.records[VICTIM] = network.records[VICTIM][:-lost]

    with pytest.raises(SecureAggregationError, match="old copy was restored"):
        network.restart_client(VICTIM)


def test_two_copies_of_one_client_cannot_both_move_the_counter() -> None:
    network = Network(7)
    held = network.run_until(Kind.AGREEMENTS)
    network.restart_client(VICTIM)
    copy = network.clients[VICTIM]
    network.restart_client(VICTIM)

    first = network.clients[VICTIM].receive(held[VICTIM].message)
    second = copy.receive(held[VICTIM].message)

    for actions in (first, second):
        kinds = [type(action) for action in actions]
        assert kinds == [Persist, Advance, Send]
    assert first[1] == second[1] == Advance(network.counters[VICTIM] + 1)


def test_a_crash_between_record_and_counter_costs_nothing() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)

    network.restart_client(VICTIM, counter=network.counters[VICTIM] - 1)

    assert network.clients[VICTIM].phase.name == "SUBMITTED"


@pytest.mark.parametrize(
    "kind",
    [
        Kind.ADVERTISEMENTS,
        Kind.DELIVERIES,
        Kind.SURVIVORS,
        Kind.AGREEMENTS,
        Kind.RESULT,
        Kind.RECEIPT_ISSUE,
    ],
)
def test_a_round_in_which_everybody_restarts_at_any_moment_has_the_same_sum(kind: Kind) -> None:
    network = Network(5)
    held = network.run_until(kind)
    for name in network.names:
        network.restart_client(name)
    network.restart_server()

    for name, send in held.items():
        vector = b"" if send.vector is None else send.vector
        network.from_client(name, network.clients[name].receive(send.message, vector))
    network.deliver()

    total, _ = network.plain_sum(tuple(network.names))
    assert network.outcome is not None
    assert np.array_equal(network.outcome.total, total)
    assert len(network.receipts) == 5


def test_records_of_another_round_are_not_taken_up() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)
    other = Network(4, signers=network.signers)
    other.run_until(Kind.SURVIVORS)
    network.records[VICTIM] = other.records[VICTIM]

    with pytest.raises(SecureAggregationError, match="message must be of round"):
        network.restart_client(VICTIM)


def test_records_in_another_order_are_not_taken_up() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)
    network.records[VICTIM].reverse()

    with pytest.raises(SecureAggregationError, match="record must be number 1"):
        network.restart_client(VICTIM)
