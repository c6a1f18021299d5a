"""A coordinator tells different clients different stories about who takes part."""

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.messages import (
    SHARE_ENTRIES,
    Advertisements,
    Agreements,
    Deliveries,
    Delivery,
    Kind,
    Survivors,
)
from kumiai.secagg.sharing import leaf_of
from kumiai.secagg.tree import HashTree
from tests.secagg.rounds import Network

VICTIM = "site-0000"


def test_different_lists_of_keys_are_noticed_before_anything_is_masked() -> None:
    network = Network(7)
    held = network.run_until(Kind.ADVERTISEMENTS)
    everybody = network.body_of(held[VICTIM], Advertisements).envelopes
    network.tell(VICTIM, Advertisements(everybody[:6]))
    for name in network.names[1:]:
        network.tell(name, Advertisements(everybody))
    victims_view = network.sent[VICTIM][-1]

    network.from_server(
        network.server.receive(VICTIM, victims_view.message, victims_view.attachment)
    )

    assert network.excluded == {VICTIM: "says that it has seen other advertisements"}


def test_a_client_finds_out_that_a_peer_saw_other_keys() -> None:
    network = Network(7)
    held = network.run_until(Kind.ADVERTISEMENTS)
    everybody = network.body_of(held[VICTIM], Advertisements).envelopes
    network.tell(VICTIM, Advertisements(everybody))
    others = Advertisements(everybody[:6])
    for name in network.names[1:6]:
        network.tell(name, others)

    deliveries = tuple(delivery_of(network, author, 0) for author in range(1, 6))

    with pytest.raises(SecureAggregationError, match="different stories"):
        network.tell(VICTIM, Deliveries(tuple(range(6)), deliveries))


def delivery_of(network: Network, author: int, holder: int) -> Delivery:
    """Return an author's shares for a holder, as a coordinator would pass them on."""
    send = network.sent[network.names[author]][-1]
    entries = SHARE_ENTRIES.decode(send.attachment)
    context = network.descriptor.context()
    tree = HashTree([leaf_of(context, author, entry) for entry in entries])
    return Delivery(send.message, entries[holder], holder, tree.paths()[holder])


def test_agreements_to_another_list_stop_the_unmasking() -> None:
    network = Network(7)
    network.run_until(Kind.SURVIVORS)
    entries = network.server._knowledge.entries
    network.tell(VICTIM, Survivors(entries[:5]))
    for name in network.names[1:]:
        network.tell(name, Survivors(entries))
    agreements = tuple(network.sent[name][-1].message for name in network.names)

    for name in (VICTIM, "site-0001"):
        with pytest.raises(SecureAggregationError, match="different stories"):
            network.tell(name, Agreements(agreements))


@pytest.mark.parametrize("kind", [Kind.DELIVERIES, Kind.SURVIVORS, Kind.AGREEMENTS, Kind.RESULT])
def test_a_message_that_must_come_later_is_refused(kind: Kind) -> None:
    network = Network(4)
    done = Network(4, signers=network.signers, round_id=network.descriptor.round_id)
    done.run()
    told = next(send for send in done.told[VICTIM] if done.kind_of(send) is kind)
    network.begin()

    with pytest.raises(SecureAggregationError, match="must come when it is awaited"):
        network.clients[VICTIM].receive(told.message)
