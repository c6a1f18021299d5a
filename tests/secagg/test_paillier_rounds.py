"""Rounds with a Paillier key: the sum is exact, whoever lies or restarts, and none is read."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kumiai.core.digest import digest_of
from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.paillier import (
    PaillierPrivateKey,
    private_key_to_bytes,
    public_key_to_bytes,
)
from kumiai.secagg.actions import Send
from kumiai.secagg.client_records import ClientPhase
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import (
    Advertisements,
    Agreement,
    Confirmation,
    Confirmations,
    EncryptedSum,
    KeyDeal,
    KeyDelivery,
    Kind,
    MaskedInput,
    Opening,
    encode_body,
)
from kumiai.secagg.paillier_client import dealer_among, seen_with_key
from kumiai.secagg.paillier_server import PaillierServerRound
from kumiai.secagg.quantizing import signed
from kumiai.secagg.receipts import verify_receipt
from kumiai.secagg.server import ServerRound
from kumiai.secagg.server_records import ServerEvent, ServerPhase, ServerRecord
from tests.secagg.rounds import (
    COORDINATOR,
    VERIFIER,
    Network,
    assert_plain_sum,
    lose,
    names_of,
    paillier_network,
    replaced,
)


def sent_by(network: Network, name: str, kind: Kind) -> Send:
    """Return the last message of a kind that a client has sent."""
    return [send for send in network.sent[name] if network.kind_of(send) is kind][-1]


def dealer_of(network: Network) -> str:
    return network.names[network.server._knowledge.dealer]  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [3, 4, 7])
def test_the_sum_is_the_plain_sum_bit_for_bit(count: int) -> None:
    network = paillier_network(count)

    network.run()

    assert_plain_sum(network)
    assert network.outcome is not None
    assert network.outcome.survivors == tuple(names_of(count))


def test_who_deals_the_key_and_what_stands_for_it_are_these() -> None:
    seen = (7).to_bytes(8, "little") + b"\x01" * 24
    conversation = Conversation(Network(3).descriptor, VERIFIER)
    parts = b"".join(
        len(part).to_bytes(8, "little") + part for part in (b"paillier key", seen, b"key")
    )
    domain = b"kumiai/secagg/transcript/v1/" + conversation.context

    assert dealer_among((3, 5, 9, 11, 13), seen) == 9
    assert seen_with_key(conversation, seen, b"key") == hashlib.sha256(domain + parts).digest()


def test_numbers_with_noise_have_room_beside_each_other() -> None:
    network = paillier_network(
        3, value_bits=4, weight_bound=1, noise_variance=1 << 30, dimension=999
    )
    network.run()

    assert network.outcome is not None
    parts = [client._knowledge for client in network.clients.values()]
    vectors = [
        part._quantized(network.updates[name][0], 1)[0]
        for name, part in zip(network.names, parts, strict=True)
    ]
    words = [signed(part.layout.words(vector)) for part, vector in zip(parts, vectors, strict=True)]
    assert np.array_equal(network.outcome.total, np.sum(words, axis=0)[:-1])
    assert np.abs(network.outcome.total).max() > network.descriptor.levels * 3


@pytest.mark.parametrize(
    "kind", [Kind.ADVERTISEMENT, Kind.MASKED_INPUT, Kind.AGREEMENT, Kind.CONFIRMATION]
)
def test_with_fewer_than_the_threshold_nothing_is_told(kind: Kind) -> None:
    network = paillier_network(7)
    lose(network, dict.fromkeys(network.names[1:5], kind))

    network.run()

    assert network.outcome is None
    assert network.stopped is not None
    assert not any(
        network.kind_of(send) is Kind.OPENING for sent in network.sent.values() for send in sent
    )


def vector_digest_of(network: Network, name: str) -> bytes:
    return network.body_of(sent_by(network, name, Kind.MASKED_INPUT), MaskedInput).vector_digest


def test_without_its_dealer_the_round_ends() -> None:
    network = paillier_network(4)
    network.to_server = lambda _, send: None if network.kind_of(send) is Kind.KEY_DEAL else send

    network.run()

    assert network.stopped == "the client that deals the key has not dealt it"


def test_when_nobody_tells_the_sum_everybody_was_asked_and_the_round_ends() -> None:
    network = paillier_network(4)
    network.to_server = lambda _, send: None if network.kind_of(send) is Kind.OPENING else send
    network.begin()
    network.deliver()

    for _ in network.names:
        network.from_server(network.server.end_phase())
        network.deliver()

    assert network.stopped == "nobody has told the decrypted sum"
    asked = [name for name in network.names if network.clients[name].phase is ClientPhase.STOPPED]
    openings = [s for n in network.names for s in network.sent[n] if is_opening(network, s)]
    assert len(asked) == len(openings) == 4


def is_opening(network: Network, send: Send) -> bool:
    return network.kind_of(send) is Kind.OPENING


def test_one_client_tells_the_sum_to_the_coordinator_and_the_others_only_sign_it() -> None:
    network = paillier_network(5)

    network.run()

    tellers = [n for n in network.names if any(is_opening(network, s) for s in network.sent[n])]
    assert tellers == network.names[:1]


def test_each_who_is_asked_for_the_sum_has_a_time_of_its_own() -> None:
    network = paillier_network(4)
    network.to_server = lambda _, send: None if network.kind_of(send) is Kind.OPENING else send
    network.begin()
    network.deliver()
    first = network.server.turn

    network.from_server(network.server.end_phase())

    assert network.server.turn != first
    assert network.server.awaited == (network.names[1],)


@pytest.mark.parametrize("mode", [Proofs.SUM, Proofs.NORM])
def test_the_sum_is_checked_against_all_commitments(mode: Proofs) -> None:
    network = paillier_network(4, mode=mode)
    lose(network, {"site-0002": Kind.MASKED_INPUT})

    network.run()

    assert_plain_sum(network)
    roster = {name: signer.public for name, signer in network.signers.items()}
    facts = verify_receipt(network.receipts["site-0001"], roster, verifier=VERIFIER)
    assert facts.survivors == ("site-0000", "site-0001", "site-0003")
    assert facts.weight == network.updates["site-0001"][1]


def test_a_sum_that_is_not_that_of_the_commitments_is_told_to_nobody() -> None:
    network = paillier_network(4, mode=Proofs.SUM)
    held = network.run_until(Kind.ENCRYPTED_SUM)
    victim = network.uploads["site-0002"]

    for name, send in held.items():
        body = network.body_of(send, EncryptedSum)
        digest = vector_digest_of(network, "site-0002")
        lie = network.lie(EncryptedSum(body.agreements, body.inputs, digest))
        network.from_client(name, network.clients[name].receive(lie, victim))
    network.deliver()

    assert network.stopped == "confirming needs 3 clients, got 0"
    confirmed = [
        network.body_of(send, Confirmation)
        for name in network.names
        for send in network.sent[name]
        if network.kind_of(send) is Kind.CONFIRMATION
    ]
    assert [each.is_right for each in confirmed] == [False] * 4


def test_a_sum_that_leaves_out_a_weight_is_not_confirmed_even_without_proofs() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.ENCRYPTED_SUM)
    name, send = next(iter(held.items()))
    body = network.body_of(send, EncryptedSum)
    digest = vector_digest_of(network, "site-0002")

    network.tell(
        name,
        EncryptedSum(body.agreements, body.inputs, digest),
        network.uploads["site-0002"],
    )

    assert not network.body_of(network.sent[name][-1], Confirmation).is_right
    with pytest.raises(SecureAggregationError, match="must be confirmed by 3 survivors"):
        network.tell(name, Confirmations(()))


def test_the_sum_is_told_only_after_a_quorum_has_signed_the_same() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.CONFIRMATIONS)
    (name,) = held
    envelopes = network.body_of(held[name], Confirmations).envelopes
    other = network.lie(Confirmation(bytes(32), is_right=True), "site-0002")
    wrong = network.body_of(sent_by(network, "site-0002", Kind.CONFIRMATION), Confirmation)
    denied = network.lie(replace(wrong, is_right=False), "site-0002")

    for told in (envelopes[:2], (*envelopes[:2], other), (*envelopes[:2], denied)):
        with pytest.raises(SecureAggregationError, match=r"must be confirmed by 3 survivors .* 2"):
            network.tell(name, Confirmations(told))
    network.tell(name, Confirmations(envelopes[:3]))

    assert network.kind_of(network.sent[name][-1]) is Kind.OPENING


def test_nothing_is_decrypted_before_enough_have_agreed_to_the_survivors() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.ENCRYPTED_SUM)
    name, send = next(iter(held.items()))
    body = network.body_of(send, EncryptedSum)
    assert send.vector is not None
    few = EncryptedSum(body.agreements[:2], body.inputs, body.sum_digest)

    with pytest.raises(SecureAggregationError, match="agreements must be of 3"):
        network.tell(name, few, bytes(send.vector))


def test_other_inputs_or_another_vector_than_signed_are_refused() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.ENCRYPTED_SUM)
    name, send = next(iter(held.items()))
    body = network.body_of(send, EncryptedSum)
    assert send.vector is not None

    with pytest.raises(SecureAggregationError, match="inputs must be those"):
        network.tell(
            name,
            EncryptedSum(body.agreements, body.inputs[1:], body.sum_digest),
            bytes(send.vector),
        )
    with pytest.raises(SecureAggregationError, match="with the digest that the coordinator"):
        network.tell(name, body, network.uploads["site-0002"])
    with pytest.raises(SecureAggregationError, match=r"sum must be .* bytes"):
        network.tell(name, body, bytes(send.vector)[1:])


def test_a_sum_of_another_length_is_not_decrypted_though_its_digest_is_signed() -> None:
    network = paillier_network(3)
    held = network.run_until(Kind.ENCRYPTED_SUM)["site-0000"]
    body = network.body_of(held, EncryptedSum)
    assert held.vector is not None
    longer = held.vector.tobytes() + bytes(512)
    forged = replace(body, sum_digest=bytes.fromhex(digest_of([longer])))

    with pytest.raises(SecureAggregationError, match=f"got {len(longer)} bytes"):
        network.tell("site-0000", forged, longer)


def test_only_those_in_the_sum_count_before_it_is_told() -> None:
    network = paillier_network(5)
    outsider = "site-0004"
    network.updates.pop(outsider)
    held = network.run_until(Kind.CONFIRMATIONS)
    (teller,) = held
    listed = network.body_of(held[teller], Confirmations).envelopes[:2]
    digest = network.body_of(sent_by(network, teller, Kind.CONFIRMATION), Confirmation).digest
    stray = network.lie(Confirmation(digest, is_right=True), outsider)

    with pytest.raises(SecureAggregationError, match=r"confirmed by 3 survivors .* got 2"):
        network.tell(teller, Confirmations((*listed, stray)))


def test_whoever_found_the_sum_wrong_tells_nothing_whatever_others_confirm() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.ENCRYPTED_SUM)
    victim, *others = network.names
    wrong = network.uploads[victim]
    body = network.body_of(held[victim], EncryptedSum)
    network.tell(victim, replace(body, sum_digest=bytes.fromhex(digest_of([wrong]))), wrong)
    agreement = network.clients[victim]._knowledge.agreement
    nothing = bytes.fromhex(digest_of([b""]))
    digest = Conversation(network.descriptor, VERIFIER).result_digest(agreement, nothing)
    lies = tuple(network.lie(Confirmation(digest, is_right=True), name) for name in others)

    with pytest.raises(SecureAggregationError, match="confirmed by 3 survivors before it is told"):
        network.tell(victim, Confirmations(lies))


def test_whoever_confirms_first_does_not_matter() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.ENCRYPTED_SUM)

    for name, send in reversed(held.items()):
        network.from_client(name, network.clients[name].receive(send.message, send.vector))
    network.deliver()

    assert_plain_sum(network)
    assert sorted(network.receipts) == network.names


def test_a_client_that_has_told_one_sum_tells_no_other() -> None:
    network = paillier_network(4)
    network.run()
    name = network.names[0]

    with pytest.raises(SecureAggregationError, match=r"tells different stories|must come when"):
        network.tell(name, EncryptedSum((), (), bytes(32)))
    with pytest.raises(SecureAggregationError, match="tells different stories"):
        network.tell(name, Confirmations(()))


def test_a_key_of_somebody_else_than_the_dealer_is_refused() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.KEY_DELIVERY)
    dealer = dealer_of(network)
    other, holder = [name for name in network.names if name != dealer][:2]
    body = network.body_of(held[holder], KeyDelivery)
    deal = network.body_of(sent_by(network, dealer, Kind.KEY_DEAL), KeyDeal)

    with pytest.raises(SecureAggregationError, match="must come from the dealer"):
        network.tell(holder, KeyDelivery(network.lie(deal, other), body.sealed))
    stale = network.lie(KeyDeal(deal.public_key, bytes(32)), dealer)
    with pytest.raises(SecureAggregationError, match="must come from the dealer"):
        network.tell(holder, KeyDelivery(stale, body.sealed))


def test_a_public_key_that_is_not_the_one_of_the_private_key_is_refused() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.KEY_DELIVERY)
    dealer = dealer_of(network)
    holder = next(name for name in network.names if name != dealer)
    deal = network.body_of(sent_by(network, dealer, Kind.KEY_DEAL), KeyDeal)
    changed = network.lie(KeyDeal(deal.public_key[:-1] + b"\0", deal.seen), dealer)

    with pytest.raises(SecureAggregationError, match="public half its dealer signed"):
        network.tell(
            holder, KeyDelivery(changed, network.body_of(held[holder], KeyDelivery).sealed)
        )


def test_a_key_of_another_length_than_the_rounds_is_refused_by_clients() -> None:
    network = paillier_network(3)
    network.run_until(Kind.KEY_DELIVERY)
    dealer = dealer_of(network)
    holder = next(name for name in network.names if name != dealer)
    dealing: Any = network.clients[dealer]._knowledge
    longer = PaillierPrivateKey.generate(3072)
    copy = dealing._sealed(private_key_to_bytes(longer), network.names.index(holder))
    deal = KeyDeal(public_key_to_bytes(longer.public_key), dealing.seen)

    with pytest.raises(SecureAggregationError, match="and of the round's length, got another"):
        network.tell(holder, KeyDelivery(network.lie(deal, dealer), copy.sealed))


def test_a_client_that_was_told_of_others_keys_takes_no_part() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.ADVERTISEMENTS)
    listed = network.body_of(held["site-0001"], Advertisements).envelopes

    with pytest.raises(SecureAggregationError, match="this client's own keys"):
        network.tell("site-0001", Advertisements((listed[0], *listed[2:])))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seen": bytes(32)}, "says that it has seen other advertisements"),
        ({"public_key": b"junk"}, "dealt an unusable key: "),
    ],
)
def test_a_dealer_that_deals_no_key_of_this_round_is_named(
    change: dict[str, bytes], reason: str
) -> None:
    network = paillier_network(4)

    def other(_: str, send: Send) -> Send:
        if network.kind_of(send) is not Kind.KEY_DEAL:
            return send
        body = network.body_of(send, KeyDeal)
        fields = {"public_key": body.public_key, "seen": body.seen, **change}
        return replaced(send, message=network.lie(KeyDeal(**fields), dealer_of(network)))

    network.to_server = other
    network.run()

    assert network.excluded[dealer_of(network)].startswith(reason)
    assert network.stopped == "the client that deals the key has not dealt it"


def test_a_key_of_another_length_names_its_dealer() -> None:
    network = paillier_network(3)
    longer = paillier_network(3, key_bits=3072)
    deals: list[KeyDeal] = []
    longer.to_server = lambda _, send: (
        deals.append(longer.body_of(send, KeyDeal)) or None
        if longer.kind_of(send) is Kind.KEY_DEAL
        else send
    )
    longer.begin()
    longer.deliver()

    def other(_: str, send: Send) -> Send:
        if network.kind_of(send) is not Kind.KEY_DEAL:
            return send
        seen = network.body_of(send, KeyDeal).seen
        lie = network.lie(KeyDeal(deals[0].public_key, seen), dealer_of(network))
        return replaced(send, message=lie)

    network.to_server = other
    network.run()

    assert network.excluded[dealer_of(network)] == "dealt a key of 3072 bits"


def test_a_dealer_that_leaves_out_a_client_is_named() -> None:
    network = paillier_network(4)
    empty = (0).to_bytes(4, "little")
    network.to_server = lambda _, send: (
        replaced(send, attachment=empty) if network.kind_of(send) is Kind.KEY_DEAL else send
    )

    network.run()

    assert network.excluded[dealer_of(network)].startswith("dealt the key to others")


def test_only_the_dealer_deals() -> None:
    network = paillier_network(4)
    held = network.kept_back(Kind.KEY_DEAL)
    other = next(name for name in network.names if name != dealer_of(network))
    body = network.body_of(held, KeyDeal)

    with pytest.raises(SecureAggregationError, match="one of the dealers of the key"):
        network.server.receive(other, network.lie(body, other), held.attachment)


def test_whoever_tells_another_sum_than_it_confirmed_is_named_and_the_next_is_asked() -> None:
    network = paillier_network(4)
    cheat = network.names[0]
    lie = network.lie(Opening(bytes(32)), cheat)
    network.to_server = lambda name, send: (
        replaced(send, message=lie) if name == cheat and is_opening(network, send) else send
    )

    network.begin()
    network.deliver()

    assert_plain_sum(network)
    assert network.excluded == {cheat: "told another sum than it had confirmed"}
    assert network.evidence == {cheat: lie}


def test_nobody_is_told_anything_twice_because_another_was_excluded() -> None:
    network = paillier_network(4)
    cheat = network.names[0]
    network.to_server = lambda name, send: (
        replaced(send, message=network.lie(Agreement(bytes(32)), cheat))
        if name == cheat and network.kind_of(send) is Kind.AGREEMENT
        else send
    )

    network.run()

    assert_plain_sum(network)
    for name in network.names[1:]:
        kinds = [network.kind_of(send) for send in network.told[name]]
        assert len(set(kinds)) == len(kinds)


def test_a_sum_of_any_number_of_words_is_told() -> None:
    network = paillier_network(3, dimension=36)

    network.run()

    assert_plain_sum(network)


def test_a_sum_of_another_length_is_not_taken_though_a_quorum_confirms_it() -> None:
    network = paillier_network(3)
    short = bytes(148)
    digest = bytes.fromhex(digest_of([short]))
    held = network.run_until(Kind.ENCRYPTED_SUM)
    conversation = Conversation(network.descriptor, VERIFIER)
    agreement = network.server._knowledge.agreement
    confirmed = Confirmation(conversation.result_digest(agreement, digest), is_right=True)
    for name in held:
        network.server.receive(name, network.lie(confirmed, name))

    with pytest.raises(SecureAggregationError, match="sum must be the one that its client signed"):
        network.server.receive(
            "site-0000", network.lie(Opening(digest), "site-0000"), attachment=short
        )


def test_whoever_agrees_first_does_not_matter_and_the_dealer_is_sent_no_copy() -> None:
    network = paillier_network(4)
    held = network.run_until(Kind.SURVIVORS)

    for name, send in reversed(held.items()):
        network.from_client(name, network.clients[name].receive(send.message))
    network.deliver()

    assert_plain_sum(network)
    (delivered,) = [
        network.body_of(send, KeyDelivery)
        for send in network.told[dealer_of(network)]
        if network.kind_of(send) is Kind.KEY_DELIVERY
    ]
    assert delivered.sealed == b""
    (told,) = [
        network.body_of(send, EncryptedSum)
        for send in network.told["site-0000"]
        if network.kind_of(send) is Kind.ENCRYPTED_SUM
    ]
    assert len(told.agreements) == network.descriptor.threshold


def test_the_sum_counts_that_most_have_decrypted() -> None:
    network = paillier_network(5)
    other = Confirmation(bytes(32), is_right=True)
    network.to_server = lambda name, send: (
        replaced(send, message=network.lie(other, name))
        if name == "site-0000" and network.kind_of(send) is Kind.CONFIRMATION
        else send
    )

    network.run()

    assert_plain_sum(network)
    tellers = [n for n in network.names if any(is_opening(network, s) for s in network.sent[n])]
    assert tellers == ["site-0001"]


def test_who_denies_the_sum_is_not_asked_to_tell_it() -> None:
    network = paillier_network(5)

    def denied(name: str, send: Send) -> Send:
        if name != "site-0000" or network.kind_of(send) is not Kind.CONFIRMATION:
            return send
        denial = replace(network.body_of(send, Confirmation), is_right=False)
        return replaced(send, message=network.lie(denial, name))

    network.to_server = denied

    network.run()

    assert_plain_sum(network)
    tellers = [n for n in network.names if any(is_opening(network, s) for s in network.sent[n])]
    assert tellers == ["site-0001"]


def test_a_sum_that_is_not_attached_as_signed_is_refused() -> None:
    network = paillier_network(4)
    network.raises = False
    network.to_server = lambda _, send: (
        replaced(send, attachment=send.attachment[:-1] + b"\x7f")
        if is_opening(network, send)
        else send
    )

    network.run()

    assert network.stopped == "nobody has told the decrypted sum"
    assert all("got another attached" in str(error) for _, error in network.refused)


def test_a_client_that_did_not_confirm_the_sum_cannot_tell_it() -> None:
    network = paillier_network(4)
    lose(network, {"site-0003": Kind.CONFIRMATION})
    network.to_client = lambda _, send: (
        None if network.kind_of(send) is Kind.CONFIRMATIONS else send
    )
    network.begin()
    network.deliver()
    network.from_server(network.server.end_phase())

    with pytest.raises(SecureAggregationError, match="one of those who confirmed the sum"):
        network.server.receive("site-0003", network.lie(Opening(bytes(32)), "site-0003"))


@pytest.mark.parametrize("size", [-1, 1])
def test_an_upload_of_another_length_is_refused(size: int) -> None:
    network = paillier_network(4)
    network.raises = False

    def change(name: str, send: Send) -> Send:
        if name != "site-0002" or send.vector is None:
            return send
        content = bytes(send.vector)
        longer = content[:size] if size < 0 else content + b"\0"
        return replaced(send, vector=memoryview(longer))

    network.to_server = change
    network.run()

    assert_plain_sum(network)
    assert "upload must be" in str(network.refused[0][1])
    assert network.outcome is not None
    assert "site-0002" not in network.outcome.survivors


def test_an_upload_of_other_bytes_or_no_ciphertexts_leaves_the_sum_as_it_was() -> None:
    network = paillier_network(4)
    network.raises = False

    def change(name: str, send: Send) -> Send:
        if name != "site-0002" or send.vector is None:
            return send
        return replaced(send, vector=memoryview(bytes(send.vector.nbytes)))

    network.to_server = change
    network.run()

    assert_plain_sum(network)
    assert "upload must hold ciphertexts" in str(network.refused[0][1])


def spoiling(network: Network, name: str, plaintext: int) -> None:
    """Let a client put another plaintext into its first ciphertext."""

    def change(sender: str, send: Send) -> Send:
        if sender != name or send.vector is None:
            return send
        key = network.server._knowledge.cipher.public_key  # type: ignore[attr-defined]
        first = int(key.raw_encrypt(plaintext, 1)).to_bytes(key.ciphertext_size, "big")
        vector = first + bytes(send.vector)[key.ciphertext_size :]
        digest = bytes.fromhex(digest_of([vector]))
        body = replace(network.body_of(send, MaskedInput), vector_digest=digest)
        return replaced(send, message=network.lie(body, name), vector=memoryview(vector))

    network.to_server = change
    network.raises = False  # the cheat's own machine does not know its input again


@pytest.mark.parametrize(
    "plaintext",
    [
        pytest.param(1 << 2046, id="more than its slots hold"),
        pytest.param(3_600_000_000, id="more than a word holds"),
    ],
)
def test_a_sum_with_a_number_that_is_too_large_is_confirmed_by_nobody(plaintext: int) -> None:
    network = paillier_network(3, weight_bound=21845)
    spoiling(network, "site-0001", plaintext)

    network.run()

    assert network.stopped == "confirming needs 2 clients, got 0"


def test_how_long_the_sum_is_is_known_with_the_key() -> None:
    network = paillier_network(3)
    before = network.clients["site-0001"].sum_size_bytes
    network.run()

    assert before == 0
    assert network.clients["site-0001"].sum_size_bytes == len(network.uploads["site-0001"])
    assert Network(3).clients["site-0001"].sum_size_bytes == 4 * 38


def test_an_upload_with_another_digest_is_refused() -> None:
    network = paillier_network(5)
    network.raises = False
    first: list[bytes] = []

    def change(_: str, send: Send) -> Send:
        if send.vector is None:
            return send
        first.append(bytes(send.vector))
        return replaced(send, vector=memoryview(first[0]))

    network.to_server = change
    network.run()

    assert network.outcome is None
    assert "must have the digest that its client signed" in str(network.refused[0][1])


@pytest.mark.parametrize("mode", [Proofs.OFF, Proofs.SUM])
def test_every_client_may_restart_before_every_message(mode: Proofs) -> None:
    network = paillier_network(3, mode=mode)

    def restarted(name: str, send: Send) -> Send:
        network.restart_client(name)
        network.from_client(name, network.clients[name].resend())
        return send

    network.to_client = restarted
    network.run()

    assert_plain_sum(network)
    assert set(network.receipts) == set(network.names)


@pytest.mark.parametrize("mode", [Proofs.OFF, Proofs.SUM])
def test_the_coordinator_may_restart_before_every_message(mode: Proofs) -> None:
    network = paillier_network(3, mode=mode)

    def restarted(_: str, send: Send) -> Send:
        network.restart_server()
        network.from_server(network.server.announce())
        return send

    network.to_server = restarted
    network.run()

    assert_plain_sum(network)
    assert set(network.receipts) == set(network.names)


def test_a_restarted_coordinator_knows_whom_it_has_asked_in_vain() -> None:
    network = paillier_network(4)
    network.to_server = lambda _, send: None if is_opening(network, send) else send
    network.begin()
    network.deliver()
    network.from_server(network.server.end_phase())

    network.restart_server()

    assert network.server.awaited == (network.names[1],)


def restored_without_uploads(network: Network) -> ServerRound:
    return PaillierServerRound.restore(
        network.descriptor,
        COORDINATOR,
        network.records[COORDINATOR],
        signer=network.signers[COORDINATOR],
        verifier=VERIFIER,
    )


def test_uploads_are_needed_again_for_the_encrypted_sum_alone() -> None:
    agreeing, opening = paillier_network(3), paillier_network(3)
    asked = agreeing.run_until(Kind.SURVIVORS)
    (teller, told), *_ = opening.run_until(Kind.CONFIRMATIONS).items()
    waiting, ending = restored_without_uploads(agreeing), restored_without_uploads(opening)

    for name, send in asked.items():
        agreeing.from_client(name, agreeing.clients[name].receive(send.message))
        waiting.receive(name, sent_by(agreeing, name, Kind.AGREEMENT).message)
    opening.from_client(teller, opening.clients[teller].receive(told.message))
    opened = sent_by(opening, teller, Kind.OPENING)
    ending.receive(teller, opened.message, opened.attachment)

    assert waiting.phase is ServerPhase.AGREEING
    assert ending.phase is ServerPhase.PUBLISHED


def test_records_of_one_who_was_asked_before_there_was_a_sum_are_not_taken_up() -> None:
    network = paillier_network(3)
    network.records[COORDINATOR] = [ServerRecord(ServerEvent.SKIP, b"site-0001").encode()]

    with pytest.raises(SecureAggregationError, match="skip must come when it is awaited"):
        network.restart_server()


def test_a_restarted_coordinator_sends_no_sum_before_it_has_added_the_uploads_again() -> None:
    network = paillier_network(4)
    network.run_until(Kind.ENCRYPTED_SUM)
    uploads, network.uploads = network.uploads, {}
    machine = type(network.server).restore(
        network.descriptor,
        COORDINATOR,
        network.records[COORDINATOR],
        signer=network.signers[COORDINATOR],
        verifier=VERIFIER,
    )

    assert machine.announce() == ()
    assert set(machine.missing_uploads) == set(uploads)
    with pytest.raises(SecureAggregationError, match="must be added again after a restart"):
        machine.end_phase()


def test_after_a_restart_the_same_update_gives_the_same_bytes_and_another_is_refused() -> None:
    network = paillier_network(3)
    network.run_until(Kind.SURVIVORS)
    name = network.names[0]
    update, weight = network.updates[name]

    network.restart_client(name)
    (send,) = network.clients[name].submit(update, weight)

    assert isinstance(send, Send)
    assert send.vector is not None
    assert bytes(send.vector) == network.uploads[name]
    assert send.vector.itemsize == 1
    with pytest.raises(SecureAggregationError, match="the one that was submitted"):
        network.clients[name].submit(-update, weight)
    with pytest.raises(SecureAggregationError, match="the one that was submitted"):
        network.clients[name].submit(update, weight % 8 + 1)


def test_the_same_update_is_another_ciphertext_for_each_client() -> None:
    network = paillier_network(3)
    network.updates = dict.fromkeys(network.names, network.updates[network.names[0]])

    network.run()

    assert len(set(network.uploads.values())) == 3


def test_the_coordinator_hears_neither_the_key_nor_an_update() -> None:
    network = paillier_network(4)
    canary = np.random.default_rng(5).uniform(-1, 1, 37).astype(np.float32)
    network.updates["site-0002"] = (canary, 1)

    network.run()

    assert_plain_sum(network)
    client = network.clients["site-0002"]
    key: PaillierPrivateKey = client._knowledge._private_key  # type: ignore[attr-defined]
    secrets = [
        *(prime.to_bytes(128, order) for prime in key.primes for order in ("big", "little")),
        private_key_to_bytes(key),
        canary[:8].tobytes(),
        np.rint(canary[:8] * 32767).astype(np.int32).tobytes(),
        np.rint(canary[:8] * 32767).astype(np.int64).tobytes(),
    ]
    heard = [
        part
        for name in network.names
        for send in network.sent[name]
        for part in (send.message, send.attachment, bytes(send.vector or b""))
    ] + network.records[COORDINATOR]
    assert not any(secret in part for secret in secrets for part in heard)


def test_messages_of_masked_rounds_are_refused() -> None:
    network = paillier_network(4)
    network.begin()

    with pytest.raises(SecureAggregationError, match="must be for the coordinator"):
        network.server.receive(
            "site-0001",
            network.lie(Confirmations(()), "site-0001"),
            encode_body(Opening(bytes(32))),
        )
