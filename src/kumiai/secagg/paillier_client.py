"""The client's side of a round with a Paillier key that all clients share.

One of the clients, which the advertisements choose, deals a fresh key: the public half to the
coordinator, the private half sealed to each client. The coordinator adds what they encrypt, and can
read none of it. Safe while it follows the protocol and no client helps it: whoever has the key and
an upload reads the update. What else a client keeps here, whatever the coordinator says:

* it decrypts one sum in a round, after enough clients have signed who is in it;
* in rounds with proofs, it confirms no sum but that of the commitments of all survivors;
* it tells the decrypted sum only after a quorum has confirmed the same one.

Everything else (records, counter, restarts, repeated messages) is the machine of masked rounds.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.digest import Buffer
from kumiai.core.errors import CryptoError, SecureAggregationError
from kumiai.crypto.keys import open_sealed, seal
from kumiai.crypto.paillier import (
    PaillierPrivateKey,
    private_key_from_bytes,
    private_key_to_bytes,
    public_key_to_bytes,
)
from kumiai.secagg.client import ClientRound
from kumiai.secagg.client_records import PAILLIER_CLIENT_TRANSITIONS, ClientEvent, ClientPhase
from kumiai.secagg.client_steps import ClientKnowledge, Step, proof_digest
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.graph import complete_graph
from kumiai.secagg.messages import (
    KEY_COPIES,
    Confirmation,
    Confirmations,
    EncryptedSum,
    Envelope,
    KeyCopy,
    KeyDeal,
    KeyDelivery,
    Kind,
    MaskedInput,
    Opening,
    decode_body,
)
from kumiai.secagg.paillier_vectors import CipherLayout, decrypt_sum, encrypt_vector
from kumiai.secagg.quantizing import Numbers
from kumiai.secagg.round_keys import place_context, share_key
from kumiai.secagg.vectors import vector_digest

__all__ = ["PaillierClientKnowledge", "PaillierClientRound", "dealer_among", "seen_with_key"]

_DIGEST_SIZE_BYTES: Final = 32


def dealer_among(members: tuple[int, ...], seen: bytes) -> int:
    """Return who deals the key: one whom the advertisements of all choose.

    Args:
        members: who advertised, ascending.
        seen: digest of their advertisements.
    """
    return members[int.from_bytes(seen[:8], "little") % len(members)]


def seen_with_key(conversation: Conversation, seen: bytes, public_key: bytes) -> bytes:
    """Return what stands for the advertisements and the key that was dealt."""
    return conversation.digest("paillier key", seen, public_key)


class PaillierClientKnowledge(ClientKnowledge):
    """What a client knows of a round with a Paillier key."""

    __slots__ = ("_cipher", "_private_key", "dealer", "plain_sum")

    _cipher: CipherLayout
    _private_key: PaillierPrivateKey
    dealer: int
    plain_sum: bytes
    """Empty if it is not right."""

    @property
    def sum_size_bytes(self) -> int:
        """How long the encrypted sum is; 0 before the key is known."""
        return self._cipher.size_bytes if hasattr(self, "_cipher") else 0

    # ------------------------------------------------------------------ keys

    def hear_advertisements(self, envelope: Envelope, drawn: bytes | None) -> Step:
        """Check everybody's keys; the dealer answers with the round's key."""
        found = self._verified_advertisements(envelope)
        members = tuple(found)
        self.advertisements, self.graph = found, complete_graph(members)
        self.seen = self.conversation.seen_digest(found)
        self.dealer = dealer_among(members, self.seen)
        if self.dealer != self.index:
            return Step()
        if drawn is not None:
            self._private_key = private_key_from_bytes(drawn)
            return Step()
        self._private_key = PaillierPrivateKey.generate(self.conversation.descriptor.key_bits)
        secret = private_key_to_bytes(self._private_key)
        copies = KEY_COPIES.write(
            tuple(self._sealed(secret, holder) for holder in members if holder != self.index)
        )
        public_key = public_key_to_bytes(self._private_key.public_key)
        return Step(KeyDeal(public_key, self.seen), copies, secret)

    def _sealed(self, secret: bytes, holder: int) -> KeyCopy:
        place = place_context(self.conversation.context, self.index, holder)
        key = share_key(self.keys.channel, self.advertisements[holder].channel_key, place)
        return KeyCopy(holder, seal(key, secret, place))

    def hear_deliveries(self, envelope: Envelope) -> Step:
        """Open the key, and check that it is the dealer's."""
        conversation, body = self.conversation, decode_body(envelope, KeyDelivery)
        said = conversation.open_client(body.envelope)
        deal = decode_body(said.envelope, KeyDeal)
        if said.index != self.dealer or deal.seen != self.seen:
            raise SecureAggregationError(
                "key must come from the dealer that the advertisements chose, after the same "
                "advertisements, got another; the coordinator tells different stories"
            )
        key = self._private_key if said.index == self.index else self._opened(body.sealed)
        public_key = key.public_key
        if public_key_to_bytes(public_key) != deal.public_key or (
            public_key.key_size != conversation.descriptor.key_bits
        ):
            raise SecureAggregationError(
                "key must be the one whose public half its dealer signed, and of the round's "
                "length, got another"
            )
        self._private_key = key
        self._cipher = CipherLayout.of(conversation.descriptor, self.layout, public_key)
        self.sharers = tuple(self.advertisements)
        self.seen = seen_with_key(conversation, self.seen, deal.public_key)
        return Step()

    def _opened(self, sealed: bytes) -> PaillierPrivateKey:
        place = place_context(self.conversation.context, self.dealer, self.index)
        peer = self.advertisements[self.dealer].channel_key
        key = share_key(self.keys.channel, peer, place)
        return private_key_from_bytes(open_sealed(key, sealed, place))

    # ------------------------------------------------------------------ input

    def submit(self, update: Numbers, weight: int) -> tuple[Step, NDArray[np.uint8]]:
        """Quantise, commit to, and encrypt an update; return the answer and the ciphertexts.

        The ciphertexts are kept: encrypted again, the same update would have another digest.
        """
        vector, scaled = self._quantized(update, weight)
        plain = vector_digest(vector)
        made = self._committed(vector)
        self.layout.write_blindings(vector, made.blindings)
        content = encrypt_vector(self._cipher, vector, self._private_key)
        self.input = MaskedInput(
            vector_digest(content),
            content.nbytes,
            scaled,
            made.commitments,
            proof_digest(made.proof),
            (),
        )
        return Step(self.input, made.proof, plain + content.tobytes()), content

    def submitted_again(self, update: Numbers, weight: int, drawn: bytes) -> NDArray[np.uint8]:
        """Return the same ciphertexts once more.

        Raises:
            SecureAggregationError: the update or the weight is another one.
        """
        vector, _ = self._quantized(update, weight)  # the weight is its last word
        if vector_digest(vector) != drawn[:_DIGEST_SIZE_BYTES]:
            raise SecureAggregationError(
                "update must be the one that was submitted, got another; take part in the next "
                "round with it"
            )
        return np.frombuffer(drawn, np.uint8, offset=_DIGEST_SIZE_BYTES)

    # ------------------------------------------------------------- verifying

    def hear_result(self, envelope: Envelope, vector: NDArray[np.uint8]) -> Step:
        """Check who agreed to what; decrypt the sum, check it, and answer with a signed word."""
        conversation, body = self.conversation, decode_body(envelope, EncryptedSum)
        self._verify_agreements(body.agreements)
        inputs = self._verified_inputs(body.inputs)
        if vector.nbytes != self._cipher.size_bytes or vector_digest(vector) != body.sum_digest:
            raise SecureAggregationError(
                f"sum must be {self._cipher.size_bytes} bytes with the digest that the coordinator "
                f"signed, got {vector.nbytes} bytes"
            )
        self._remember(self._decrypted(vector, inputs))
        digest = conversation.result_digest(self.agreement, self.sum_digest)
        return Step(Confirmation(digest, bool(self.plain_sum)), secret=self.plain_sum)

    def _decrypted(self, vector: NDArray[np.uint8], inputs: list[MaskedInput]) -> bytes:
        """Return the sum, or nothing if it is not right."""
        try:
            plain = decrypt_sum(self._cipher, vector, self._private_key, summand_count=len(inputs))
        except (CryptoError, SecureAggregationError):
            return b""
        return plain.tobytes() if self._is_sum_of(plain, inputs) else b""

    def hear_own_confirmation(self, envelope: Envelope, drawn: bytes) -> None:
        """Remember from a record which sum was decrypted then."""
        self._remember(drawn)

    def _remember(self, plain: bytes) -> None:
        self.plain_sum = plain
        self.sum_digest = vector_digest(np.frombuffer(plain, np.uint8))

    def hear_confirmations(self, envelope: Envelope) -> Step:
        """Check that a quorum has decrypted the same; answer with the sum."""
        conversation = self.conversation
        listed = decode_body(envelope, Confirmations).envelopes
        survivors = {entry.index for entry in self.survivors}
        digest = conversation.result_digest(self.agreement, self.sum_digest)
        count = sum(
            index in survivors and body.is_right and body.digest == digest
            for index, (_, body) in conversation.open_all(listed, Confirmation).items()
        )
        quorum = conversation.descriptor.quorum
        if not self.plain_sum or count < quorum:
            raise SecureAggregationError(
                f"sum must be confirmed by {quorum} survivors before it is told, got {count}"
            )
        return Step(Opening(self.sum_digest), self.plain_sum)


class PaillierClientRound(ClientRound):
    """One client in one round with a Paillier key."""

    __slots__ = ()
    _knowledge: PaillierClientKnowledge
    _knowledge_class: ClassVar[type[ClientKnowledge]] = PaillierClientKnowledge
    _transitions: ClassVar[Mapping[tuple[ClientPhase, ClientEvent], ClientPhase]] = (
        PAILLIER_CLIENT_TRANSITIONS
    )
    _events: ClassVar[Mapping[Kind, ClientEvent]] = {
        Kind.ADVERTISEMENTS: ClientEvent.ADVERTISEMENTS,
        Kind.KEY_DELIVERY: ClientEvent.DELIVERIES,
        Kind.SURVIVORS: ClientEvent.SURVIVORS,
        Kind.ENCRYPTED_SUM: ClientEvent.RESULT,
        Kind.CONFIRMATIONS: ClientEvent.CONFIRMATIONS,
        Kind.RECEIPT_ISSUE: ClientEvent.RECEIPT_ISSUE,
        Kind.ABANDONMENT: ClientEvent.ABANDONMENT,
    }

    def _hear(
        self, event: ClientEvent, envelope: Envelope, vector: Buffer | None, drawn: bytes | None
    ) -> Step:
        if event is ClientEvent.CONFIRMATIONS:
            return self._knowledge.hear_confirmations(envelope)
        return super()._hear(event, envelope, vector, drawn)
