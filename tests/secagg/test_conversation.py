"""Who said what in a round: signatures are checked, and digests stand for all that was said."""

import hashlib
from collections.abc import Callable

import pytest

from kumiai.core.errors import KumiaiError, SecureAggregationError
from kumiai.crypto.signatures import Ed25519Signer
from kumiai.secagg.conversation import Conversation, seen_digest
from kumiai.secagg.messages import Abandonment, Agreement, NonceReveal, Survivor, encode_body
from kumiai.secagg.parameters import Adversary
from tests.secagg.rounds import COORDINATOR, VERIFIER, describe, signers_of

SIGNERS = signers_of(4)
DIGEST = bytes(range(32))


def conversation(**changes: object) -> Conversation:
    return Conversation(describe(SIGNERS, **changes), VERIFIER)


def hashed(context: bytes, *parts: bytes) -> bytes:
    content = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.sha256(b"kumiai/secagg/transcript/v1/" + context + content).digest()


def test_digests_stand_for_all_parts_under_a_name() -> None:
    own = conversation()
    index = (2).to_bytes(2, "little")

    assert own.context == own.descriptor.context()
    assert own.digest("name", b"a", b"bc") == hashed(own.context, b"name", b"a", b"bc")
    assert own.input_digest(b"body") == hashed(own.context, b"input", b"body")
    assert own.result_digest(b"a", b"s") == hashed(own.context, b"result", b"a", b"s")
    agreement = own.agreement_digest(b"seen", (2, 2), 2 * (Survivor(2, DIGEST),))
    parts = (b"agreement", b"seen", index + index, 2 * (index + DIGEST))
    assert agreement == hashed(own.context, *parts)


def test_what_was_seen_stands_by_phase_and_client() -> None:
    own = conversation()
    bodies = {258: Agreement(DIGEST), 1: Agreement(bytes(32))}

    found = own.seen_digest(bodies, {})

    parts = [b"\x01\x00" + bytes(32), b"\x02\x01" + DIGEST]
    assert found == hashed(own.context, b"seen", b"\x02", *parts)
    assert found == seen_digest(
        own.context, {index: encode_body(body) for index, body in bodies.items()}, {}
    )
    assert own.seen_digest(bodies) != found


def test_messages_open_with_the_place_of_their_sender() -> None:
    own = conversation()
    data = own.seal(Agreement(DIGEST), "site-0002", SIGNERS["site-0002"])

    said = own.open_client(data)

    assert (said.index, said.envelope.sender, said.data) == (2, "site-0002", data)
    assert own.name(2) == "site-0002"
    told = own.seal(Abandonment("enough"), COORDINATOR, SIGNERS[COORDINATOR])
    assert own.open_coordinator(told).sender == COORDINATOR


@pytest.mark.parametrize(
    ("opened", "sender", "problem"),
    [
        (Conversation.open_client, COORDINATOR, "sender must be in the round's roster, got 'coord"),
        (Conversation.open_coordinator, "site-0001", "sender must be a coordinator, got 'site-000"),
    ],
)
def test_a_message_of_the_wrong_side_is_refused(
    opened: Callable[[Conversation, bytes], object], sender: str, problem: str
) -> None:
    own = conversation()
    data = own.seal(Agreement(DIGEST), sender, SIGNERS[sender])

    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        opened(own, data)


def test_a_message_that_another_has_signed_is_refused() -> None:
    own, stranger = conversation(), Ed25519Signer.generate()

    with pytest.raises(KumiaiError, match="signature"):
        own.open_client(own.seal(Agreement(DIGEST), "site-0001", stranger))
    with pytest.raises(KumiaiError, match="signature"):
        own.open_coordinator(own.seal(Abandonment("x"), COORDINATOR, stranger))
    other = conversation(round_id=own.descriptor.round_id, clip=2.0)
    with pytest.raises(KumiaiError, match="signature"):
        own.open_client(other.seal(Agreement(DIGEST), "site-0001", SIGNERS["site-0001"]))


def test_messages_of_all_are_one_of_each_client_in_order_and_of_one_kind() -> None:
    own = conversation()
    first, second = (
        own.seal(Agreement(DIGEST), name, SIGNERS[name]) for name in ("site-0000", "site-0003")
    )

    found = own.open_all([first, second], Agreement)

    assert [(index, said.index, body) for index, (said, body) in found.items()] == [
        (0, 0, Agreement(DIGEST)),
        (3, 3, Agreement(DIGEST)),
    ]
    for wrong, last in (([first, first], "got 0 after 0"), ([second, first], "got 0 after 3")):
        with pytest.raises(SecureAggregationError, match=f"^messages must be one of .*, {last}"):
            own.open_all(wrong, Agreement)
    with pytest.raises(SecureAggregationError, match="message must be NonceReveal, got Agreement"):
        own.open_all([first], NonceReveal)


def test_it_says_whether_the_coordinator_may_lie() -> None:
    assert conversation().is_malicious
    assert not conversation(adversary=Adversary.SEMI_HONEST).is_malicious
