"""Messages, shares and whole rounds are sent once more."""

import pytest

from kumiai.core.errors import KumiaiError, SecureAggregationError
from kumiai.secagg.actions import Persist, Send
from kumiai.secagg.messages import Deliveries, Kind
from tests.secagg.rounds import COORDINATOR, Network

VICTIM = "site-0000"


def test_a_message_of_an_earlier_round_is_refused_on_both_sides() -> None:
    earlier = Network(4)
    earlier.run()
    now = Network(4, signers=earlier.signers)
    now.begin()

    for send in earlier.told[VICTIM]:
        with pytest.raises(SecureAggregationError, match="message must be of round"):
            now.clients[VICTIM].receive(send.message)
    for send in earlier.sent[VICTIM]:
        with pytest.raises(SecureAggregationError, match="message must be of round"):
            now.server.receive(VICTIM, send.message, send.attachment)


def test_a_round_id_used_again_for_another_round_gives_other_signatures() -> None:
    earlier = Network(4)
    earlier.run()
    now = Network(4, signers=earlier.signers, round_id=earlier.descriptor.round_id, round_number=8)
    now.begin()

    for send in earlier.told[VICTIM]:
        with pytest.raises(KumiaiError, match="signature"):
            now.clients[VICTIM].receive(send.message)


def test_shares_of_an_earlier_round_do_not_open() -> None:
    earlier = Network(4)
    old = earlier.body_of(earlier.run_until(Kind.DELIVERIES)[VICTIM], Deliveries)
    now = Network(4, signers=earlier.signers)
    now.run_until(Kind.DELIVERIES)

    with pytest.raises(SecureAggregationError, match="message must be of round"):
        now.tell(VICTIM, old)


def test_the_same_message_again_changes_nothing_and_gets_the_same_answer() -> None:
    network = Network(4)
    network.run()
    unmasking = next(
        send for send in network.sent[VICTIM] if network.kind_of(send) is Kind.UNMASKING
    )
    agreements = next(
        send for send in network.told[VICTIM] if network.kind_of(send) is Kind.AGREEMENTS
    )

    (again,) = network.clients[VICTIM].receive(agreements.message)

    assert again == Send(unmasking.message)
    assert not isinstance(again, Persist)


def test_every_message_to_the_coordinator_counts_once() -> None:
    twice = Network(4)
    plain_deliver = twice.server.receive

    def deliver_twice(name: str, send: Send) -> Send:
        actions = plain_deliver(name, send.message, send.attachment)
        twice.from_server(actions)
        assert plain_deliver(name, send.message, send.attachment) == ()
        return send

    twice.to_server = deliver_twice
    twice.run()

    assert twice.outcome is not None
    assert twice.outcome.weight == twice.plain_sum(tuple(twice.names))[1]
    assert len(twice.records[COORDINATOR]) == 6 * 4 + 4 + 6


def test_a_client_that_says_two_things_is_held_to_the_first() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)
    said = network.sent["site-0001"][1]
    other = Network(4, signers=network.signers, round_id=network.descriptor.round_id)
    other.run_until(Kind.DELIVERIES)

    with pytest.raises(SecureAggregationError, match="one thing once"):
        network.server.receive("site-0001", other.sent["site-0001"][1].message)
    assert network.server.receive("site-0001", said.message, said.attachment) == ()
