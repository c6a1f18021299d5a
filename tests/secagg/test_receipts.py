"""A receipt proves to anybody who knows the members' keys that an update was counted once."""

from dataclasses import replace

import pytest

from kumiai.core.errors import KumiaiError, SecureAggregationError
from kumiai.crypto.signatures import Ed25519Signer
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import Confirmation, Kind, Survivor
from kumiai.secagg.receipts import Receipt, RoundEvidence, verify_receipt
from tests.secagg.forms import changed_at, size
from tests.secagg.rounds import VERIFIER, Network

OWNER = "site-0001"


@pytest.fixture(scope="module")
def network() -> Network:
    network = Network(5, mode=Proofs.SUM)
    del network.updates["site-0004"]
    network.run()
    return network


def roster_of(network: Network) -> dict[str, bytes]:
    return {name: signer.public for name, signer in network.signers.items()}


def changed(network: Network, **changes: object) -> bytes:
    receipt = Receipt.decode(network.receipts[OWNER])
    evidence = replace(evidence_of(network), **changes)  # type: ignore[arg-type]
    return replace(receipt, evidence=evidence.encode()).encode()


def evidence_of(network: Network) -> RoundEvidence:
    return RoundEvidence.decode(Receipt.decode(network.receipts[OWNER]).evidence)


def test_it_says_whose_update_counted_how_much_among_whom(network: Network) -> None:
    facts = verify_receipt(network.receipts[OWNER], roster_of(network), verifier=VERIFIER)

    assert (facts.run_id, facts.round_number, facts.client) == ("run-a", 7, OWNER)
    assert facts.round_id == network.descriptor.round_id
    assert facts.weight == network.updates[OWNER][1]
    assert facts.survivors == tuple(network.names[:4])
    assert len(facts.signers) == network.descriptor.quorum
    assert set(facts.signers) <= set(facts.survivors)
    assert facts.proofs is Proofs.SUM


def test_no_byte_of_it_can_be_changed(network: Network) -> None:
    receipt = network.receipts[OWNER]

    for place in range(0, len(receipt), 7):
        forged = bytearray(receipt)
        forged[place] ^= 1
        with pytest.raises(KumiaiError):
            verify_receipt(bytes(forged), roster_of(network), verifier=VERIFIER)


def test_without_a_quorum_it_proves_nothing(network: Network) -> None:
    receipt = evidence_of(network)

    with pytest.raises(SecureAggregationError, match="confirmed by 4 survivors, got 3"):
        verify_receipt(
            changed(network, confirmations=receipt.confirmations[1:]),
            roster_of(network),
            verifier=VERIFIER,
        )
    with pytest.raises(SecureAggregationError, match="one of each client"):
        verify_receipt(
            changed(network, confirmations=receipt.confirmations[:1] * 4),
            roster_of(network),
            verifier=VERIFIER,
        )


def test_another_sum_list_or_input_than_was_confirmed_is_refused(network: Network) -> None:
    receipt = evidence_of(network)
    other = Receipt.decode(network.receipts["site-0000"])
    no_input = tuple(
        Survivor(1, bytes(32)) if each.index == 1 else each for each in receipt.survivors
    )

    for changes, match in (
        ({"sum_digest": bytes(32)}, "got 0"),
        ({"survivors": receipt.survivors[:3]}, "got 0"),
        ({"sharers": receipt.sharers[:4]}, "got 0"),
        ({"seen": bytes(32)}, "got 0"),
        ({"survivors": no_input}, "with its input"),
        ({"survivors": receipt.survivors[2:]}, "with its input"),
    ):
        with pytest.raises(SecureAggregationError, match=match):
            verify_receipt(changed(network, **changes), roster_of(network), verifier=VERIFIER)
    facts = verify_receipt(other.encode(), roster_of(network), verifier=VERIFIER)
    assert facts.client == "site-0000"


def test_keys_that_are_not_those_of_the_members_are_refused(network: Network) -> None:
    for roster in (
        {**roster_of(network), "site-0003": Ed25519Signer.generate().public},
        {name: key for name, key in roster_of(network).items() if name != "site-0004"},
    ):
        with pytest.raises(SecureAggregationError, match="receipt must name the keys"):
            verify_receipt(network.receipts[OWNER], roster, verifier=VERIFIER)


def test_a_receipt_of_another_client_or_round_is_not_kept(network: Network) -> None:
    from kumiai.secagg.messages import ReceiptIssue

    for receipt in (network.receipts["site-0000"], network.receipts[OWNER]):
        fresh = Network(5, signers=network.signers)
        fresh.run_until(Kind.RECEIPT_ISSUE)
        with pytest.raises(SecureAggregationError, match="receipt must be of this client's input"):
            fresh.tell(OWNER, ReceiptIssue(receipt))


def test_words_against_the_sum_and_words_of_others_do_not_make_a_quorum(network: Network) -> None:
    evidence = evidence_of(network)
    digest = network.body_of(
        next(s for s in network.sent[OWNER] if network.kind_of(s) is Kind.CONFIRMATION),
        Confirmation,
    ).digest
    against = network.lie(Confirmation(digest, is_right=False), "site-0003")
    lost = network.lie(Confirmation(digest, is_right=True), "site-0004")

    for last in (against, lost):
        forged = changed(network, confirmations=(*evidence.confirmations[:3], last))
        with pytest.raises(SecureAggregationError, match="by 4 survivors, got 3"):
            verify_receipt(forged, roster_of(network), verifier=VERIFIER)


RECEIPT = size(1) + b"i" + size(1) + b"e"
EVIDENCE = b"".join(
    [
        size(1) + b"d",
        bytes(range(32)),
        size(2) + b"\x01\x00" + b"\x02\x00",
        size(1) + b"\x02\x00" + bytes(32),
        bytes(32),
        size(1) + size(1) + b"c",
    ]
)


def test_its_bytes_are_these() -> None:
    evidence = RoundEvidence(
        b"d", bytes(range(32)), (1, 2), (Survivor(2, bytes(32)),), bytes(32), (b"c",)
    )

    assert Receipt(b"i", b"e").encode() == RECEIPT
    assert evidence.encode() == EVIDENCE
    assert RoundEvidence.decode(EVIDENCE) == evidence


@pytest.mark.parametrize(
    ("place", "problem"),
    [(0, "of input must be 0 to 16777216,"), (5, "of evidence must be 0 to 16777216,")],
)
def test_a_receipt_with_a_part_too_long_is_refused(place: int, problem: str) -> None:
    with pytest.raises(SecureAggregationError, match=f"length {problem} got 16777217"):
        Receipt.decode(changed_at(RECEIPT, place, size(2**24 + 1)))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            changed_at(EVIDENCE, 0, size(2**24 + 1)),
            "length of descriptor must be 0 to 16777216, got 167772",
        ),
        (EVIDENCE[:20], "seen must be 32 bytes, got the last 15"),
        (changed_at(EVIDENCE, 37, size(4097)), "count of sharers must be 0 to 4096, got 4097"),
        (
            changed_at(EVIDENCE, 43, (4096).to_bytes(2, "little")),
            "sharers must be 0 to 4095, got 1 to 4096",
        ),
        (changed_at(EVIDENCE, 43, b"\x01"), "sharers must increase"),
        (changed_at(EVIDENCE, 45, size(4097)), "count of survivors must be 0 to 4096, got 4097"),
        (EVIDENCE[:84], "sum_digest must be 32 bytes, got the last 1"),
        (changed_at(EVIDENCE, 115, size(4097)), "count of confirmations must be 0 to 4096"),
        (
            changed_at(EVIDENCE, 119, size(1025)),
            "length of confirmation must be 0 to 1024, got 1025",
        ),
    ],
)
def test_evidence_beyond_a_limit_is_refused_by_its_name(data: bytes, problem: str) -> None:
    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        RoundEvidence.decode(data)


def test_survivors_that_do_not_increase_are_no_evidence() -> None:
    twice = EVIDENCE[:45] + size(2) + 2 * (b"\x02\x00" + bytes(32)) + EVIDENCE[83:]

    with pytest.raises(SecureAggregationError, match="survivors must increase"):
        RoundEvidence.decode(twice)
