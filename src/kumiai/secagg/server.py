"""The coordinator's side of a round, as a state machine without a network, a disk or a clock.

`receive` takes clients' messages, `add_upload` their masked vectors, `end_phase` the news that the
time of a phase is up; all return actions, in the order in which they must be done. A phase also
ends by itself once everybody has answered. Every step is a record that is durable before anything
is sent; a machine made again from the records goes on with the same lists, and asks only for the
uploads once more.

It never holds a client's plain update, and nothing from which it could make one: it learns of each
client one of two secrets, and its sum is taken out of the masks only as a whole.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import (
    Action,
    Exclude,
    Outcome,
    Persist,
    Publish,
    Send,
    Stop,
    WrongSum,
)
from kumiai.secagg.client import verify_proofs_fit
from kumiai.secagg.conversation import Conversation, Said
from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.messages import (
    Abandonment,
    Advertisement,
    Advertisements,
    Agreement,
    Agreements,
    Body,
    Confirmation,
    Deliveries,
    Delivery,
    KeyShares,
    Kind,
    MaskedInput,
    NonceReveal,
    NonceReveals,
    ReceiptIssue,
    Result,
    Signer,
    Survivors,
    Unmasking,
    Verifier,
    decode_body,
)
from kumiai.secagg.proofs import UpdateProofs
from kumiai.secagg.receipts import Receipt, RoundEvidence
from kumiai.secagg.server_knowledge import MisbehaviourError, ServerKnowledge
from kumiai.secagg.server_records import (
    SERVER_TRANSITIONS,
    ServerEvent,
    ServerPhase,
    ServerRecord,
)
from kumiai.secagg.unmasking import masks_to_remove, missing_authors
from kumiai.secagg.vectors import Blocks, VectorSum, vector_digest

__all__ = ["ServerRound"]

_WRONG: Final = b"wrong"
"""Attached to the record of an abandoning: the sum was shown, and it was not right."""


class ServerRound:
    """The coordinator in one round."""

    _knowledge_class: ClassVar[type[ServerKnowledge]] = ServerKnowledge
    _transitions: ClassVar[Mapping[tuple[ServerPhase, ServerEvent], ServerPhase]] = (
        SERVER_TRANSITIONS
    )
    _events: ClassVar[Mapping[Kind, tuple[ServerEvent, type[Any]]]] = {
        Kind.ADVERTISEMENT: (ServerEvent.ADVERTISEMENT, Advertisement),
        Kind.NONCE_REVEAL: (ServerEvent.NONCE_REVEAL, NonceReveal),
        Kind.KEY_SHARES: (ServerEvent.KEY_SHARES, KeyShares),
        Kind.MASKED_INPUT: (ServerEvent.MASKED_INPUT, MaskedInput),
        Kind.AGREEMENT: (ServerEvent.AGREEMENT, Agreement),
        Kind.UNMASKING: (ServerEvent.UNMASKING, Unmasking),
        Kind.CONFIRMATION: (ServerEvent.CONFIRMATION, Confirmation),
    }
    __slots__ = (
        "_conversation",
        "_folded",
        "_heard",
        "_is_unmasked",
        "_knowledge",
        "_name",
        "_phase",
        "_signer",
        "_stopped",
        "_sum",
    )

    def __init__(
        self,
        descriptor: RoundDescriptor,
        name: str,
        *,
        signer: Signer,
        verifier: Verifier,
        proofs: UpdateProofs | None = None,
    ) -> None:
        """Begin a round.

        Args:
            descriptor: the round.
            name: this coordinator's, among the round's coordinators.
            signer: its key.
            verifier: checks the clients' signatures.
            proofs: checks commitments; for rounds with proofs alone.

        Raises:
            SecureAggregationError: ``name`` may not speak for the coordinator, or ``proofs`` does
                not fit.
        """
        verify_proofs_fit(descriptor, proofs)
        if name not in {member.name for member in descriptor.coordinators}:
            raise SecureAggregationError(f"name must be one of the coordinators, got {name!r}")
        self._conversation = Conversation(descriptor, verifier)
        self._knowledge = self._knowledge_class(self._conversation, proofs)
        self._name = name
        self._signer = signer
        self._phase = (
            ServerPhase.ADVERTISING_HIDDEN if descriptor.degree else ServerPhase.ADVERTISING
        )
        self._heard: dict[tuple[Kind, int], bytes] = {}
        self._folded: set[int] = set()
        self._is_unmasked = False
        self._stopped: Stop | None = None
        self._begin_sum()

    @classmethod
    def restore(
        cls,
        descriptor: RoundDescriptor,
        name: str,
        records: Sequence[bytes],
        *,
        signer: Signer,
        verifier: Verifier,
        proofs: UpdateProofs | None = None,
    ) -> "ServerRound":
        """Return the machine that wrote the records; then add the `missing_uploads` again.

        Args:
            descriptor: as when it was made.
            name: of whoever goes on with the round.
            records: all, in their order.
            signer: of whoever goes on.
            verifier: as when it was made.
            proofs: same; proofs that were checked are not checked again.

        Raises:
            KumiaiError: the records are not of this round.
        """
        machine = cls(descriptor, name, signer=signer, verifier=verifier, proofs=proofs)
        for data in records:
            machine._replay(ServerRecord.decode(data))
        return machine

    def __repr__(self) -> str:
        """Say how far it is."""
        round_id = self._conversation.descriptor.round_id.hex()
        return f"{type(self).__name__}({round_id}, {self._phase.name})"

    # ----------------------------------------------------------------- state

    @property
    def phase(self) -> ServerPhase:
        """What the round waits for."""
        return self._phase

    @property
    def turn(self) -> object:
        """What is asked of the clients now; what is asked next has a time of its own."""
        return self._phase

    @property
    def awaited(self) -> tuple[str, ...]:
        """The clients that may still answer in this phase."""
        return tuple(self._conversation.name(index) for index in sorted(self._missing()))

    @property
    def excluded(self) -> dict[str, str]:
        """Who was left out for what it did."""
        return {
            self._conversation.name(index): reason
            for index, reason in self._knowledge.excluded.items()
        }

    @property
    def missing_uploads(self) -> dict[str, bytes]:
        """Uploads that are in the sum and must be added again after a restart: their digests."""
        return {
            self._conversation.name(index): self._knowledge.inputs[index][1].vector_digest
            for index in self._knowledge.uploaded - self._folded
        }

    @property
    def named_uploads(self) -> dict[str, bytes]:
        """Uploads that clients have named, and that are not in the sum yet: their digests."""
        knowledge = self._knowledge
        return {
            self._conversation.name(index): body.vector_digest
            for index, (_, body) in knowledge.inputs.items()
            if index not in self._folded and index not in knowledge.excluded
        }

    @property
    def has_enough(self) -> bool:
        """Whether the phase could end now and the round go on."""
        return self._phase < ServerPhase.PUBLISHED and self._shortage() is None

    # ---------------------------------------------------------------- events

    def receive(self, sender: str, message: bytes, attachment: bytes = b"") -> tuple[Action, ...]:
        """Take a client's message.

        Args:
            sender: who the connection belongs to.
            message: from outside.
            attachment: same.

        Returns:
            What to do; nothing for a message that was taken before. A client that has signed what
            it must not is excluded.

        Raises:
            KumiaiError: the message is not the sender's, malformed, or must not come now; nothing
                has changed.
        """
        said = self._conversation.open_client(message)
        if said.envelope.sender != sender:
            raise SecureAggregationError(
                f"message must be of its sender {sender!r}, got one of {said.envelope.sender!r}"
            )
        if said.index in self._knowledge.excluded:
            raise SecureAggregationError(f"{sender!r} must not go on: it was excluded")
        known = self._heard.get((said.envelope.kind, said.index))
        if known is not None:
            if known != said.envelope.body:
                raise SecureAggregationError(
                    f"{sender!r} must say one thing once, got another "
                    f"{said.envelope.kind.name.lower()}"
                )
            # Nothing, but after a restart that came between the last answer and the phase's end.
            return self._end_if_complete()
        event, expected = self._event_of(said)
        self._verify_allowed(event)
        body = decode_body(said.envelope, expected)
        try:
            self._knowledge.hear(said, body, attachment)
        except MisbehaviourError as error:
            return (
                *self._exclude(said.index, str(error), message),
                *self._end_if_complete(),
            )
        self._heard[said.envelope.kind, said.index] = said.envelope.body
        record = ServerRecord(event, message, attachment)
        return (Persist(record.encode()), *self._end_if_complete())

    def add_upload(self, sender: str, blocks: Blocks) -> tuple[Action, ...]:
        """Add a client's masked vector to the sum; the second time nothing happens.

        Args:
            sender: whose `MaskedInput` has come.
            blocks: gives the bytes, twice; each block a multiple of a word.

        Raises:
            SecureAggregationError: no input names it, the bytes are not those that the input
                names, or the time is up.
        """
        index = self._conversation.descriptor.index_of(sender)
        if index in self._folded:
            return ()
        is_new = index not in self._knowledge.uploaded
        if is_new:
            self._verify_allowed(ServerEvent.UPLOAD)
        is_excluded = is_new and index in self._knowledge.excluded
        if index not in self._knowledge.inputs or is_excluded:
            raise SecureAggregationError(f"upload of {sender!r} must follow its masked input")
        self._fold(blocks, self._knowledge.inputs[index][1].vector_digest)
        self._folded.add(index)
        if not is_new:
            self._remove_masks_if_due()
            return self._end_if_complete()
        self._knowledge.uploaded.add(index)
        record = ServerRecord(ServerEvent.UPLOAD, sender.encode())
        return (Persist(record.encode()), *self._end_if_complete())

    def exclude(self, sender: str, reason: str) -> tuple[Action, ...]:
        """Leave out a client whose upload is not what it has signed; twice changes nothing.

        Args:
            sender: whose `MaskedInput` has come, and whose upload is not in the sum.
            reason: what it did, for people.

        Raises:
            SecureAggregationError: the client is not in the round, or the round has ended.
        """
        index = self._conversation.descriptor.index_of(sender)
        self._verify_allowed(ServerEvent.EXCLUSION)
        if index in self._knowledge.excluded:
            return ()
        evidence = self._knowledge.inputs[index][0].data
        return (*self._exclude(index, reason, evidence), *self._end_if_complete())

    def end_phase(self) -> tuple[Action, ...]:
        """End the phase with those who have answered: on to the next, or to the round's end.

        Raises:
            SecureAggregationError: the round has ended, or uploads are missing after a restart.
        """
        self._verify_allowed(ServerEvent.END)
        if self._lacks_uploads():
            raise SecureAggregationError(
                f"uploads must be added again after a restart, got {len(self.missing_uploads)} "
                "missing; see missing_uploads"
            )
        shortage = self._shortage()
        if shortage is not None:
            return (*self._blame_dealers(), *self.abandon(shortage))
        if self._phase is ServerPhase.UNMASKING:
            guilty = self._unmask()
            if guilty:
                blamed = [
                    self._exclude(index, "shared something else than its secrets")
                    for index in guilty
                ]
                reason = f"{len(guilty)} clients shared something else than their secrets"
                return (*(each for actions in blamed for each in actions), *self.abandon(reason))
        self._enter(ServerEvent.END)
        return (Persist(ServerRecord(ServerEvent.END).encode()), *self.announce())

    def abandon(self, reason: str) -> tuple[Action, ...]:
        """End the round without a result.

        Raises:
            SecureAggregationError: it has ended.
        """
        self._verify_allowed(ServerEvent.ABANDON)
        everybody = tuple(member.name for member in self._conversation.descriptor.roster)
        wrong = self._find_wrong()
        if wrong is not None:
            reason = "the sum is not that of what its clients had committed to"
        self._enter(ServerEvent.ABANDON)
        self._stopped = Stop(reason, wrong)
        record = ServerRecord(ServerEvent.ABANDON, reason.encode(), _WRONG if wrong else b"")
        return (
            Persist(record.encode()),
            Send(self._seal(Abandonment(reason)), recipients=everybody),
            self._stopped,
        )

    @property
    def stopped(self) -> Stop | None:
        """Why there is no result, if there will be none."""
        return self._stopped

    def announce(self) -> tuple[Action, ...]:
        """Return what this phase began with, to be sent again after a restart."""
        knowledge = self._knowledge
        match self._phase:
            case ServerPhase.SHARING if self._conversation.descriptor.degree:
                return (self._to_all(NonceReveals(_data(knowledge.revealed)), knowledge.revealed),)
            case ServerPhase.SHARING | ServerPhase.REVEALING:
                body = Advertisements(_data(knowledge.advertised))
                return (self._to_all(body, knowledge.advertised),)
            case ServerPhase.COLLECTING:
                return tuple(self._deliver(holder) for holder in self._present(knowledge.sharers))
            case ServerPhase.AGREEING:
                survivors = Survivors(knowledge.entries)
                return (self._to_all(survivors, knowledge.uploaded),)
            case ServerPhase.UNMASKING:
                return tuple(
                    self._agreements_for(index) for index in self._present(knowledge.survivors)
                )
            case ServerPhase.CONFIRMING:
                return (self._result(),)
            case ServerPhase.PUBLISHED:
                return (Publish(self._outcome()), *self._issue_receipts())
            case _:
                return ()

    # --------------------------------------------------------------- the sum

    def _begin_sum(self) -> None:
        self._sum = VectorSum(self._knowledge.layout)

    def _fold(self, blocks: Blocks, digest: bytes) -> None:
        self._sum.add(blocks, digest)

    def _sum_digest(self) -> bytes:
        return vector_digest(self._sum.vector())

    def _numbers(self) -> NDArray[np.int64]:
        return self._sum.numbers()

    # ------------------------------------------------------------- the steps

    def _missing(self) -> AbstractSet[int]:
        return self._asked() - self._answered() - self._knowledge.excluded.keys()

    def _is_anyone_missing(self) -> bool:
        # For all but the last messages of a phase it is enough to count.
        heard = len(self._answered()) + len(self._knowledge.excluded)
        return len(self._asked()) > heard or bool(self._missing())

    def _asked(self) -> AbstractSet[int]:
        knowledge = self._knowledge
        match self._phase:
            case ServerPhase.ADVERTISING | ServerPhase.ADVERTISING_HIDDEN:
                return set(range(self._conversation.descriptor.client_count))
            case ServerPhase.REVEALING:
                return knowledge.advertised.keys()
            case ServerPhase.SHARING:
                return knowledge.graph.holders.keys()
            case ServerPhase.COLLECTING:
                return knowledge.dealt.keys()
            case ServerPhase.AGREEING | ServerPhase.UNMASKING | ServerPhase.CONFIRMING:
                return knowledge.uploaded
            case _:
                return set()

    def _answered(self) -> AbstractSet[int]:
        knowledge = self._knowledge
        match self._phase:
            case ServerPhase.ADVERTISING | ServerPhase.ADVERTISING_HIDDEN:
                return knowledge.advertised.keys()
            case ServerPhase.REVEALING:
                return knowledge.revealed.keys()
            case ServerPhase.SHARING:
                return knowledge.dealt.keys()
            case ServerPhase.COLLECTING:
                return knowledge.uploaded
            case ServerPhase.AGREEING:
                return knowledge.agreed.keys()
            case ServerPhase.UNMASKING:
                return knowledge.answers.keys()
            case _:
                return knowledge.confirmed.keys()

    def _shortage(self) -> str | None:
        """Return why the round cannot go on from here, if it cannot."""
        descriptor, knowledge = self._conversation.descriptor, self._knowledge
        least, count = (
            max(descriptor.minimum_survivors, descriptor.threshold),
            len(self._answered()),
        )
        match self._phase:
            case ServerPhase.AGREEING:
                least = descriptor.threshold
            case ServerPhase.UNMASKING:
                missing = missing_authors(knowledge.rebuilding())
                if missing:
                    return (
                        f"the secrets of {len(missing)} clients could not be rebuilt: fewer than "
                        f"{descriptor.threshold} of their neighbours gave shares"
                    )
                return None
            case ServerPhase.CONFIRMING:
                least = descriptor.quorum
                count = sum(body.is_right for _, body in self._right_confirmations())
            case ServerPhase.REVEALING if self._conversation.is_malicious:
                least = len(knowledge.advertised)
            case _:
                pass
        if count < least:
            return f"{self._phase.name.lower()} needs {least} clients, got {count}"
        return None

    def _lacks_uploads(self) -> bool:
        """Say whether a sum is needed that was not made again after a restart."""
        is_needed = self._phase in {ServerPhase.UNMASKING, ServerPhase.CONFIRMING}
        return is_needed and bool(self.missing_uploads)

    def _right_confirmations(self) -> list[tuple[Said, Confirmation]]:
        if not self._knowledge.confirmed:
            return []
        digest = self._result_digest()
        return [each for each in self._knowledge.confirmed.values() if each[1].digest == digest]

    def _find_wrong(self) -> WrongSum | None:
        """Return who is in the sum that was shown, if that is not right."""
        if not self._is_unmasked or self._knowledge.is_right(self._sum.vector()):
            return None
        return self._knowledge.wrong_sum()

    def _result_digest(self) -> bytes:
        return self._conversation.result_digest(self._knowledge.agreement, self._sum_digest())

    def _end_if_complete(self) -> tuple[Action, ...]:
        is_over = self._phase >= ServerPhase.PUBLISHED
        if is_over or self._is_anyone_missing() or self._lacks_uploads():
            return ()
        return self.end_phase()

    def _exclude(self, index: int, reason: str, evidence: bytes = b"") -> tuple[Action, ...]:
        name = self._conversation.name(index)
        self._knowledge.excluded[index] = reason
        record = ServerRecord(ServerEvent.EXCLUSION, name.encode(), reason.encode())
        return Persist(record.encode()), Exclude(name, reason, evidence)

    def _unmask(self) -> tuple[int, ...]:
        """Take the masks out of the sum; return whose shares gave something else, if any."""
        masks, guilty = masks_to_remove(self._knowledge.rebuilding())
        if not guilty:
            self._sum.remove_masks(masks)
            self._is_unmasked = True
        return guilty

    def _remove_masks_if_due(self) -> None:
        is_due = self._phase in {ServerPhase.CONFIRMING, ServerPhase.PUBLISHED}
        if is_due and not self.missing_uploads:
            self._unmask()

    def _blame_dealers(self) -> tuple[Action, ...]:
        """Name authors about whom more holders complain than can be lying."""
        knowledge, descriptor = self._knowledge, self._conversation.descriptor
        complaints: dict[int, int] = {}
        for index in knowledge.uploaded:
            for author in knowledge.inputs[index][1].complaints:
                complaints[author] = complaints.get(author, 0) + 1
        actions: list[Action] = []
        for author, count in complaints.items():
            if count > len(knowledge.graph.holders[author]) - descriptor.threshold:
                reason = f"sent {count} of its neighbours shares that they could not use"
                actions += self._exclude(author, reason)
        return tuple(actions)

    # -------------------------------------------------------------- messages

    def _seal(self, body: Body) -> bytes:
        return self._conversation.seal(body, self._name, self._signer)

    def _to_all(self, body: Body, indices: Collection[int]) -> Send:
        recipients = set(indices) - self._knowledge.excluded.keys()
        names = tuple(self._conversation.name(index) for index in recipients)
        return Send(self._seal(body), recipients=names)

    def _present(self, indices: Iterable[int]) -> tuple[int, ...]:
        return tuple(index for index in indices if index not in self._knowledge.excluded)

    def _deliver(self, holder: int) -> Send:
        knowledge = self._knowledge
        deliveries = []
        for author in knowledge.graph.neighbours(holder):
            dealt = knowledge.dealt.get(author)
            if dealt is None:
                continue
            position = knowledge.graph.place(author, holder) - 1
            deliveries.append(
                Delivery(dealt.said.data, dealt.entries[holder], position, dealt.paths[position])
            )
        return self._to_all(Deliveries(knowledge.sharers, tuple(deliveries)), [holder])

    def _agreements_for(self, holder: int) -> Send:
        """Pass on as many of the neighbours' agreements as it takes, and no more to check."""
        agreed = self._knowledge.agreed
        near = [index for index in self._knowledge.graph.holders[holder] if index in agreed]
        enough = near[: self._conversation.descriptor.threshold]
        return self._to_all(Agreements(tuple(agreed[index].data for index in enough)), [holder])

    def _result(self) -> Send:
        inputs = tuple(self._knowledge.inputs[index][0].data for index in self._knowledge.survivors)
        vector = self._sum.vector()
        send = self._to_all(Result(inputs, vector_digest(vector)), self._knowledge.uploaded)
        return Send(send.message, vector=vector.data, recipients=send.recipients)

    def _outcome(self) -> Outcome:
        descriptor = self._conversation.descriptor
        numbers = self._numbers()
        return Outcome(
            total=numbers[:-1],
            weight=int(numbers[-1]),
            step=descriptor.clip / descriptor.levels,
            survivors=tuple(self._conversation.name(index) for index in self._knowledge.survivors),
        )

    @property
    def proven(self) -> tuple[bytes, tuple[bytes, ...]]:
        """What receipts are made of, once the sum is out: the evidence, and the survivors' inputs.

        The inputs stand in the order of the survivors' names in the outcome.
        """
        knowledge = self._knowledge
        return self._evidence(), tuple(
            knowledge.inputs[each][0].data for each in knowledge.survivors
        )

    def _evidence(self) -> bytes:
        knowledge = self._knowledge
        confirmed = {
            said.index: said.data for said, body in self._right_confirmations() if body.is_right
        }
        quorum = self._conversation.descriptor.quorum
        confirmations = tuple(data for _, data in sorted(confirmed.items())[:quorum])
        return RoundEvidence(
            self._conversation.descriptor.encode(),
            knowledge.seen,
            knowledge.sharers,
            knowledge.entries,
            self._sum_digest(),
            confirmations,
        ).encode()

    def _issue_receipts(self) -> tuple[Send, ...]:
        knowledge, evidence = self._knowledge, self._evidence()
        return tuple(
            self._to_all(
                ReceiptIssue(Receipt(knowledge.inputs[index][0].data, evidence).encode()), [index]
            )
            for index in self._present(knowledge.survivors)
        )

    # -------------------------------------------------------------- restoring

    def _enter(self, event: ServerEvent) -> None:
        if event is ServerEvent.END:
            self._fix()
        self._phase = self._transitions[self._phase, event]

    def _fix(self) -> None:
        """Fix what the phase that ends has decided."""
        match self._phase:
            case ServerPhase.ADVERTISING_HIDDEN:
                self._knowledge.see_hidden()
            case ServerPhase.ADVERTISING | ServerPhase.REVEALING:
                self._knowledge.see()
            case ServerPhase.COLLECTING:
                self._knowledge.fix_survivors()
            case _:
                pass

    def _replay(self, record: ServerRecord) -> None:
        self._verify_allowed(record.event)
        index_of = self._conversation.descriptor.index_of
        match record.event:
            case ServerEvent.UPLOAD:
                self._knowledge.uploaded.add(index_of(record.message.decode()))
            case ServerEvent.EXCLUSION:
                index = index_of(record.message.decode())
                self._knowledge.excluded[index] = record.attachment.decode()
            case ServerEvent.END | ServerEvent.ABANDON:
                self._enter(record.event)
                if record.event is ServerEvent.ABANDON:
                    is_wrong = record.attachment == _WRONG
                    wrong = self._knowledge.wrong_sum() if is_wrong else None
                    self._stopped = Stop(record.message.decode(), wrong)
            case _:
                said = self._conversation.open_client(record.message)
                body = decode_body(said.envelope, self._event_of(said)[1])
                self._knowledge.hear(said, body, record.attachment, is_known=True)
                self._heard[said.envelope.kind, said.index] = said.envelope.body

    def _verify_allowed(self, event: ServerEvent) -> None:
        if (self._phase, event) not in self._transitions:
            raise SecureAggregationError(
                f"{event.name.lower()} must come when it is awaited, got it while "
                f"{self._phase.name.lower()}"
            )

    def _event_of(self, said: Said) -> tuple[ServerEvent, type[Any]]:
        found = self._events.get(said.envelope.kind)
        if found is None:
            raise SecureAggregationError(
                f"message must be for the coordinator, got {said.envelope.kind.name.lower()}"
            )
        return found


def _data(messages: Mapping[int, tuple[Said, Body]]) -> tuple[bytes, ...]:
    return tuple(said.data for _, (said, _) in sorted(messages.items()))
