"""A coordinator puts other keys into the list of advertisements: its own, or one key twice.

Whoever holds the private half of a client's advertised keys reads the shares sealed for it and
takes its pairwise masks off.
"""

from dataclasses import replace

import pytest

from kumiai.core.errors import CryptoError, KumiaiError, SecureAggregationError
from kumiai.crypto.agreement import AgreementKey
from kumiai.crypto.signatures import Ed25519Signer
from kumiai.secagg.messages import (
    Advertisement,
    Advertisements,
    Kind,
    decode_body,
    read_envelope,
    seal_envelope,
)
from tests.secagg.rounds import COORDINATOR, Network

VICTIM, OTHER = "site-0000", "site-0003"


def advertisements(network: Network) -> list[bytes]:
    held = network.run_until(Kind.ADVERTISEMENTS)
    return list(network.body_of(held[VICTIM], Advertisements).envelopes)


def signed_by(network: Network, signer: Ed25519Signer, body: Advertisement, name: str) -> bytes:
    return seal_envelope(
        body,
        sender=name,
        signer=signer,
        descriptor=network.descriptor,
        context=network.descriptor.context(),
    )


def refuse(network: Network, envelopes: list[bytes], match: str) -> None:
    before = len(network.sent[VICTIM])
    with pytest.raises(KumiaiError, match=match):
        network.tell(VICTIM, Advertisements(tuple(envelopes)))
    assert len(network.sent[VICTIM]) == before


def test_keys_that_the_coordinator_signed_for_a_client_are_refused() -> None:
    network = Network(4)
    listed = advertisements(network)
    body = Advertisement(AgreementKey.generate().public, AgreementKey.generate().public, b"")

    listed[3] = signed_by(network, network.signers[COORDINATOR], body, OTHER)

    with pytest.raises(CryptoError, match="signature"):
        network.tell(VICTIM, Advertisements(tuple(listed)))


def test_keys_without_a_signature_are_refused() -> None:
    network = Network(4)
    listed = advertisements(network)
    listed[3] = replace(read_envelope(listed[3], network.descriptor), signature=b"").encode()

    refuse(network, listed, "signature")


def test_the_own_key_echoed_under_another_name_is_refused() -> None:
    network = Network(4)
    listed = advertisements(network)
    own = decode_body(read_envelope(listed[0], network.descriptor), Advertisement)

    listed[3] = signed_by(network, network.signers[OTHER], own, OTHER)

    refuse(network, listed, "keys must all differ")


def test_one_key_of_two_clients_is_refused() -> None:
    network = Network(4)
    listed = advertisements(network)
    third = decode_body(read_envelope(listed[2], network.descriptor), Advertisement)

    listed[3] = signed_by(network, network.signers[OTHER], third, OTHER)

    refuse(network, listed, "keys must all differ")


def test_one_client_twice_is_refused() -> None:
    network = Network(4)
    listed = advertisements(network)

    refuse(network, [*listed[:3], listed[2]], "one of each client")


@pytest.mark.parametrize("is_there", [True, False])
def test_another_key_for_oneself_or_none_is_refused(is_there: bool) -> None:
    network = Network(4)
    listed = advertisements(network)
    body = Advertisement(AgreementKey.generate().public, AgreementKey.generate().public, b"")
    own = [signed_by(network, network.signers[VICTIM], body, VICTIM)] if is_there else []

    refuse(network, [*own, *listed[1:]], "own keys" if is_there else "at least|own keys")


def test_a_client_that_is_not_in_the_roster_is_refused() -> None:
    network = Network(4)
    listed = advertisements(network)
    body = Advertisement(AgreementKey.generate().public, AgreementKey.generate().public, b"")

    stranger = signed_by(network, Ed25519Signer.generate(), body, "site-9999")

    refuse(network, [*listed, stranger], "must be in the round's roster")


def test_a_key_of_low_order_is_refused() -> None:
    network = Network(4)
    listed = advertisements(network)
    body = Advertisement(bytes(32), AgreementKey.generate().public, b"")

    listed[3] = signed_by(network, network.signers[OTHER], body, OTHER)

    refuse(network, listed, "low order")


def test_a_client_that_advertises_anothers_key_is_named() -> None:
    network = Network(4)
    network.begin()
    network._waiting.clear()
    sends = {name: network.sent[name][0] for name in network.names}
    network.server.receive(VICTIM, sends[VICTIM].message)
    copied = network.body_of(sends[VICTIM], Advertisement)

    network.from_server(network.server.receive(OTHER, network.lie(copied, OTHER)))

    assert network.excluded == {OTHER: "advertised a key that is in use already"}
    with pytest.raises(SecureAggregationError, match="was excluded"):
        network.server.receive(OTHER, sends[OTHER].message)
