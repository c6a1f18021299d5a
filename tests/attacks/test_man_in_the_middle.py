"""Somebody between a client and the coordinator changes, forges or redirects messages."""

import pytest

from kumiai.core.errors import CryptoError, KumiaiError, SecureAggregationError
from kumiai.crypto.signatures import Ed25519Signer
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.messages import Abandonment, Kind, Survivors
from tests.secagg.rounds import COORDINATOR, VERIFIER, Network

VICTIM = "site-0000"


def test_no_byte_of_a_message_can_be_changed() -> None:
    network = Network(4)
    held = network.run_until(Kind.SURVIVORS)
    message = held[VICTIM].message

    for place in range(len(message)):
        changed = bytearray(message)
        changed[place] ^= 1
        with pytest.raises(KumiaiError):
            network.clients[VICTIM].receive(bytes(changed))

    assert network.clients[VICTIM].receive(message)


def test_nothing_that_the_coordinator_did_not_sign_is_believed() -> None:
    network = Network(4)
    network.run_until(Kind.SURVIVORS)
    conversation = Conversation(network.descriptor, VERIFIER)
    body = Survivors(network.server._knowledge.entries)

    forged = conversation.seal(body, COORDINATOR, Ed25519Signer.generate())
    of_a_client = conversation.seal(body, "site-0001", network.signers["site-0001"])

    with pytest.raises(CryptoError, match="signature"):
        network.clients[VICTIM].receive(forged)
    with pytest.raises(SecureAggregationError, match="must be a coordinator"):
        network.clients[VICTIM].receive(of_a_client)


def test_a_client_cannot_be_sent_away_by_a_stranger() -> None:
    network = Network(4)
    network.begin()
    conversation = Conversation(network.descriptor, VERIFIER)

    forged = conversation.seal(Abandonment("go home"), COORDINATOR, Ed25519Signer.generate())

    with pytest.raises(CryptoError, match="signature"):
        network.clients[VICTIM].receive(forged)


def test_a_message_counts_for_the_connection_of_its_sender_alone() -> None:
    network = Network(4)
    network.begin()
    message = network.sent["site-0001"][0].message

    with pytest.raises(SecureAggregationError, match="must be of its sender"):
        network.server.receive(VICTIM, message)


def test_shares_sealed_for_one_holder_are_no_use_to_another() -> None:
    from kumiai.secagg.messages import Deliveries

    network = Network(4)
    held = network.run_until(Kind.DELIVERIES)
    of_another = network.body_of(held["site-0001"], Deliveries)
    sharers = of_another.sharers

    with pytest.raises(SecureAggregationError):
        network.tell(VICTIM, Deliveries(sharers, of_another.deliveries))
