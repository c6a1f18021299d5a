"""The coordinator's side of a round with a Paillier key: it adds ciphertexts, and reads none.

It holds the public key, the running sum of the uploads and one block of the upload that it adds.
The decrypted sum comes from one of the clients, asked after a quorum of them has signed that they
decrypted the same; if the one who is asked does not answer, the next one is.

Everything else (records, restarts, who is excluded, receipts) is the machine of masked rounds.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import CryptoError, SecureAggregationError
from kumiai.crypto.paillier import PaillierPublicKey, public_key_from_bytes
from kumiai.secagg.actions import Action, Persist, Send
from kumiai.secagg.conversation import Said
from kumiai.secagg.messages import (
    KEY_COPIES,
    Advertisement,
    Agreement,
    Confirmation,
    Confirmations,
    EncryptedSum,
    KeyDeal,
    KeyDelivery,
    Kind,
    MaskedInput,
    Opening,
)
from kumiai.secagg.paillier_client import dealer_among, seen_with_key
from kumiai.secagg.paillier_vectors import CipherLayout, CiphertextSum
from kumiai.secagg.quantizing import signed
from kumiai.secagg.server import ServerRound
from kumiai.secagg.server_knowledge import Answer, MisbehaviourError, ServerKnowledge
from kumiai.secagg.server_records import (
    PAILLIER_SERVER_TRANSITIONS,
    ServerEvent,
    ServerPhase,
    ServerRecord,
)
from kumiai.secagg.vectors import Blocks, vector_digest

__all__ = ["PaillierServerRound"]


class PaillierServerKnowledge(ServerKnowledge):
    """What the coordinator knows of a round with a Paillier key."""

    __slots__ = ("cipher", "copies", "deal", "dealer", "opened", "skipped")

    cipher: CipherLayout
    dealer: int
    deal: tuple[Said, KeyDeal] | None
    copies: dict[int, bytes]
    opened: bytes
    """The decrypted sum; empty before it is there."""
    skipped: set[int]
    """Who was asked for it in vain."""

    def begin(self) -> None:
        """Know of no key and no sum yet."""
        self.deal, self.copies, self.opened, self.skipped = None, {}, b"", set()

    @property
    def sharers(self) -> tuple[int, ...]:
        """Who was dealt the key."""
        return tuple(self.advertisements)

    @property
    def upload_size_bytes(self) -> int:
        """How long an upload is."""
        return self.cipher.size_bytes

    def right_confirmations(self) -> list[tuple[Said, Confirmation]]:
        """Return the confirmations of the sum that most have decrypted."""
        found: dict[bytes, list[tuple[Said, Confirmation]]] = {}
        for _, (said, body) in sorted(self.confirmed.items()):
            if body.is_right:
                found.setdefault(body.digest, []).append((said, body))
        return max(found.values(), key=len, default=[])

    def see(self) -> None:
        """Fix what all have seen before the key, and who deals it."""
        super().see()
        self.dealer = dealer_among(tuple(self.advertisements), self.seen)

    def fix_key(self, deal: KeyDeal) -> None:
        """Fix the key that was dealt, and so what all have seen."""
        self.seen = seen_with_key(self.conversation, self.seen, deal.public_key)

    def hear_deal(self, said: Said, body: KeyDeal, attachment: bytes) -> None:
        """Take the dealer's key.

        Raises:
            SecureAggregationError: somebody else must deal it, or the copies are malformed.
            MisbehaviourError: it is no key of this round; nothing has changed.
        """
        self._require(said, {self.dealer}, "the dealers of the key")
        if body.seen != self.seen:
            raise MisbehaviourError("says that it has seen other advertisements")
        copies = {copy.holder: copy.sealed for copy in KEY_COPIES.decode(attachment)}
        if copies.keys() != self.advertised.keys() - {said.index}:
            raise MisbehaviourError("dealt the key to others than those who advertised")
        descriptor = self.conversation.descriptor
        public_key = _public_key(body.public_key)
        if public_key.key_size != descriptor.key_bits:
            raise MisbehaviourError(f"dealt a key of {public_key.key_size} bits")
        self.cipher = CipherLayout.of(descriptor, self.layout, public_key)
        self.deal, self.copies = (said, body), copies

    def hear_opening(self, said: Said, body: Opening, attachment: bytes) -> None:
        """Take the decrypted sum.

        Raises:
            SecureAggregationError: the client must not send it, or it is not the attached one.
            MisbehaviourError: it is another than the client has confirmed; nothing has changed.
        """
        confirmed = {said.index: confirmation for said, confirmation in self.right_confirmations()}
        self._require(said, confirmed.keys(), "those who confirmed the sum")
        digest = self.conversation.result_digest(self.agreement, body.sum_digest)
        if digest != confirmed[said.index].digest:
            raise MisbehaviourError("told another sum than it had confirmed")
        if len(attachment) != self.layout.size_bytes or (
            vector_digest(np.frombuffer(attachment, np.uint8)) != body.sum_digest
        ):
            raise SecureAggregationError(
                "sum must be the one that its client signed, got another attached"
            )
        self.opened = attachment

    def hear(
        self,
        said: Said,
        body: Answer | KeyDeal | Opening,
        attachment: bytes,
        *,
        is_known: bool = False,
    ) -> None:
        """Take a message; as in masked rounds."""
        match body:
            case KeyDeal():
                self.hear_deal(said, body, attachment)
            case Opening():
                self.hear_opening(said, body, attachment)
            case _:
                super().hear(said, body, attachment, is_known=is_known)


class PaillierServerRound(ServerRound):
    """The coordinator in one round with a Paillier key."""

    __slots__ = ("_ciphertexts",)
    _ciphertexts: CiphertextSum
    _knowledge: PaillierServerKnowledge
    _knowledge_class: ClassVar[type[ServerKnowledge]] = PaillierServerKnowledge
    _transitions: ClassVar[Mapping[tuple[ServerPhase, ServerEvent], ServerPhase]] = (
        PAILLIER_SERVER_TRANSITIONS
    )
    _events: ClassVar[Mapping[Kind, tuple[ServerEvent, type[Any]]]] = {
        Kind.ADVERTISEMENT: (ServerEvent.ADVERTISEMENT, Advertisement),
        Kind.KEY_DEAL: (ServerEvent.KEY_DEAL, KeyDeal),
        Kind.MASKED_INPUT: (ServerEvent.MASKED_INPUT, MaskedInput),
        Kind.AGREEMENT: (ServerEvent.AGREEMENT, Agreement),
        Kind.CONFIRMATION: (ServerEvent.CONFIRMATION, Confirmation),
        Kind.OPENING: (ServerEvent.OPENING, Opening),
    }

    @property
    def turn(self) -> object:
        """What is asked of the clients now; each who is asked for the sum has a time of its own."""
        return self._phase, len(self._knowledge.skipped)

    def end_phase(self) -> tuple[Action, ...]:
        """End the phase; or ask the next one for the decrypted sum.

        Raises:
            SecureAggregationError: as in masked rounds.
        """
        knowledge = self._knowledge
        asked = self._openers()
        if not knowledge.opened and len(asked) > 1:
            knowledge.skipped.add(asked[0])
            name = self._conversation.name(asked[0]).encode()
            return Persist(ServerRecord(ServerEvent.SKIP, name).encode()), *self.announce()
        return super().end_phase()

    def announce(self) -> tuple[Action, ...]:
        """Return what this phase began with, to be sent again after a restart."""
        match self._phase:
            case ServerPhase.CONFIRMING:
                return () if self._lacks_uploads() else (self._encrypted_sum(),)
            case ServerPhase.OPENING:
                confirmed = tuple(said.data for said, _ in self._right_confirmations())
                return (self._to_all(Confirmations(confirmed), self._openers()[:1]),)
            case _:
                return super().announce()

    # --------------------------------------------------------------- the sum

    def _begin_sum(self) -> None:
        """Wait for the key: there is no sum before it."""
        self._knowledge.begin()

    def _fold(self, blocks: Blocks, digest: bytes) -> None:
        try:
            self._ciphertexts.add(blocks, digest)
        except CryptoError as error:
            raise SecureAggregationError(f"upload must hold ciphertexts: {error}") from error

    def _sum_digest(self) -> bytes:
        return vector_digest(np.frombuffer(self._knowledge.opened, np.uint8))

    def _numbers(self) -> NDArray[np.int64]:
        vector = np.frombuffer(self._knowledge.opened, np.uint8)
        return signed(self._knowledge.layout.words(vector))

    # ------------------------------------------------------------- the steps

    def _asked(self) -> AbstractSet[int]:
        match self._phase:
            case ServerPhase.SHARING:
                return {self._knowledge.dealer}
            case ServerPhase.COLLECTING:
                return set(self._knowledge.advertised)
            case ServerPhase.OPENING:
                return set() if self._knowledge.opened else set(self._openers()[:1])
            case _:
                return super()._asked()

    def _answered(self) -> AbstractSet[int]:
        match self._phase:
            case ServerPhase.SHARING:
                return set() if self._knowledge.deal is None else {self._knowledge.dealer}
            case ServerPhase.OPENING:
                return set()
            case _:
                return super()._answered()

    def _shortage(self) -> str | None:
        knowledge = self._knowledge
        match self._phase:
            case ServerPhase.SHARING:
                return None if knowledge.deal else "the client that deals the key has not dealt it"
            case ServerPhase.OPENING:
                return None if knowledge.opened else "nobody has told the decrypted sum"
            case _:
                return super()._shortage()

    def _openers(self) -> tuple[int, ...]:
        """Who can be asked for the decrypted sum, the first one first."""
        if self._phase is not ServerPhase.OPENING:
            return ()
        confirmed = [said.index for said, _ in self._right_confirmations()]
        left = set(confirmed) - self._knowledge.skipped
        return self._present(index for index in confirmed if index in left)

    def _right_confirmations(self) -> list[tuple[Said, Confirmation]]:
        return self._knowledge.right_confirmations()

    def _lacks_uploads(self) -> bool:
        is_needed = self._phase in {ServerPhase.AGREEING, ServerPhase.CONFIRMING}
        return is_needed and bool(self.missing_uploads)

    def _remove_masks_if_due(self) -> None:
        """Do nothing: there are no masks."""

    def _exclude(self, index: int, reason: str, evidence: bytes = b"") -> tuple[Action, ...]:
        actions = super()._exclude(index, reason, evidence)
        return (*actions, *self.announce()) if self._openers() else actions

    # -------------------------------------------------------------- messages

    def _deliver(self, holder: int) -> Send:
        knowledge = self._knowledge
        said = knowledge.deal[0].data if knowledge.deal else b""
        return self._to_all(KeyDelivery(said, knowledge.copies.get(holder, b"")), [holder])

    def _encrypted_sum(self) -> Send:
        knowledge = self._knowledge
        agreed = sorted(knowledge.agreed)[: self._conversation.descriptor.threshold]
        vector = self._ciphertexts.vector()
        body = EncryptedSum(
            tuple(knowledge.agreed[index].data for index in agreed),
            tuple(knowledge.inputs[index][0].data for index in knowledge.survivors),
            vector_digest(vector),
        )
        send = self._to_all(body, knowledge.uploaded)
        return Send(send.message, vector=vector.data, recipients=send.recipients)

    # -------------------------------------------------------------- restoring

    def _fix(self) -> None:
        knowledge = self._knowledge
        if self._phase is ServerPhase.SHARING and knowledge.deal is not None:
            knowledge.fix_key(knowledge.deal[1])
            self._ciphertexts = CiphertextSum(knowledge.cipher)
        else:
            super()._fix()

    def _replay(self, record: ServerRecord) -> None:
        if record.event is ServerEvent.SKIP:
            self._verify_allowed(record.event)
            name = record.message.decode()
            self._knowledge.skipped.add(self._conversation.descriptor.index_of(name))
        else:
            super()._replay(record)


def _public_key(blob: bytes) -> PaillierPublicKey:
    try:
        return public_key_from_bytes(blob)
    except CryptoError as error:
        raise MisbehaviourError(f"dealt an unusable key: {error}") from error
