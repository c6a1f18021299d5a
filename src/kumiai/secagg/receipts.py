"""A client's proof that its update was counted: once, with its weight, in one published sum.

A receipt holds all that it takes: the round, the client's own signed input, the list of survivors
that the clients agreed to, and the word of a quorum of them that the sum is the one of that list.
Whoever knows the members' public keys can check it without asking anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.descriptor import CLIENT_COUNT_MAX, Proofs, RoundDescriptor
from kumiai.secagg.messages import (
    SURVIVOR,
    Confirmation,
    MaskedInput,
    Survivor,
    Verifier,
    decode_body,
)
from kumiai.secagg.wire import Codec, blob, fixed, increasing, indices, many, record

__all__ = ["Receipt", "ReceiptFacts", "RoundEvidence", "verify_receipt"]

_PART_SIZE_MAX: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """What the receipts of a round have in common.

    Attributes:
        descriptor: of the round.
        seen: digest of the advertisements (and nonces) that all clients saw.
        sharers: who had shared secrets.
        survivors: who is in the sum.
        sum_digest: of the published sum.
        confirmations: of a quorum, as they signed them.
    """

    descriptor: bytes
    seen: bytes
    sharers: tuple[int, ...]
    survivors: tuple[Survivor, ...]
    sum_digest: bytes
    confirmations: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the evidence as bytes."""
        return _EVIDENCE.write(self)

    @classmethod
    def decode(cls, data: bytes) -> "RoundEvidence":
        """Return the evidence that the bytes stand for.

        Raises:
            SecureAggregationError: they stand for none.
        """
        return _EVIDENCE.decode(data)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt holds.

    Attributes:
        own_input: the client's `MaskedInput`, as it signed it.
        evidence: `RoundEvidence.encode`; made once for all clients of a round.
    """

    own_input: bytes
    evidence: bytes

    def encode(self) -> bytes:
        """Return the receipt as bytes."""
        return _RECEIPT.write(self)

    @classmethod
    def decode(cls, data: bytes) -> "Receipt":
        """Return the receipt that the bytes stand for.

        Raises:
            SecureAggregationError: they stand for none.
        """
        return _RECEIPT.decode(data)


@dataclass(frozen=True, slots=True)
class ReceiptFacts:
    """What a receipt proves.

    Attributes:
        run_id: of the run.
        round_number: which of its rounds.
        round_id: of the round.
        client: whose update was counted.
        weight: how much it counted.
        survivors: all clients in the sum, by name.
        signers: who has confirmed the sum.
        proofs: what they could check of it; with `Proofs.OFF` nothing but the sum of the weights.
        sum_digest: of the sum, BLAKE3.
        agreement: digest of what the survivors agreed to.
    """

    run_id: str
    round_number: int
    round_id: bytes
    client: str
    weight: int
    survivors: tuple[str, ...]
    signers: tuple[str, ...]
    proofs: Proofs
    sum_digest: bytes
    agreement: bytes


def verify_receipt(data: bytes, roster: Mapping[str, bytes], *, verifier: Verifier) -> ReceiptFacts:
    """Check a receipt offline.

    Args:
        data: the receipt.
        roster: the members' verification keys by name, from a source of one's own.
        verifier: checks signatures.

    Returns:
        What it proves.

    Raises:
        KumiaiError: it is malformed, names a key that is not the member's, or proves nothing.
    """
    receipt = Receipt.decode(data)
    evidence = RoundEvidence.decode(receipt.evidence)
    descriptor = RoundDescriptor.decode(evidence.descriptor)
    for member in descriptor.roster:
        if roster.get(member.name) != member.verification_key:
            raise SecureAggregationError(
                f"receipt must name the keys of the roster, got another for {member.name!r}"
            )
    conversation = Conversation(descriptor, verifier)
    said = conversation.open_client(receipt.own_input)
    own = Survivor(said.index, conversation.input_digest(said.envelope.body))
    if own not in evidence.survivors:
        raise SecureAggregationError(
            f"receipt must hold {conversation.name(said.index)!r} among the survivors with its "
            "input, got none or another"
        )
    agreement = conversation.agreement_digest(evidence.seen, evidence.sharers, evidence.survivors)
    result = conversation.result_digest(agreement, evidence.sum_digest)
    confirmed = conversation.open_all(evidence.confirmations, Confirmation)
    survivors = {entry.index for entry in evidence.survivors}
    signers = [
        index
        for index, (_, each) in confirmed.items()
        if index in survivors and each.digest == result and each.is_right
    ]
    if len(signers) < descriptor.quorum:
        raise SecureAggregationError(
            f"receipt must be confirmed by {descriptor.quorum} survivors, got {len(signers)}"
        )
    return ReceiptFacts(
        run_id=descriptor.run_id,
        round_number=descriptor.round_number,
        round_id=descriptor.round_id,
        client=conversation.name(said.index),
        weight=decode_body(said.envelope, MaskedInput).weight,
        survivors=tuple(conversation.name(entry.index) for entry in evidence.survivors),
        signers=tuple(conversation.name(index) for index in signers),
        proofs=descriptor.proofs,
        sum_digest=evidence.sum_digest,
        agreement=agreement,
    )


_RECEIPT: Final[Codec[Receipt]] = record(
    Receipt,
    own_input=blob(_PART_SIZE_MAX, "input"),
    evidence=blob(_PART_SIZE_MAX, "evidence"),
)
_EVIDENCE: Final[Codec[RoundEvidence]] = record(
    RoundEvidence,
    descriptor=blob(_PART_SIZE_MAX, "descriptor"),
    seen=fixed(32, "seen"),
    sharers=indices(CLIENT_COUNT_MAX, "sharers"),
    survivors=increasing(SURVIVOR, CLIENT_COUNT_MAX, "survivors", key=lambda entry: entry.index),
    sum_digest=fixed(32, "sum_digest"),
    confirmations=many(blob(1024, "confirmation"), CLIENT_COUNT_MAX, "confirmations"),
)
