"""The client's side of a round, as a state machine without a network or a disk.

`receive` takes the coordinator's messages, `submit` the update; both return actions, in the order
in which they must be done. Every step is a record that is durable before its message leaves; a
machine made again from the records sends the same bytes again.

What it keeps, whatever the coordinator says and however often it is restarted:

* it gives away a share of one secret of a peer at most: of its mask key or of its self mask;
* it masks one input under its keys;
* it reveals nothing before enough of its neighbours have signed the same list of survivors;
* it takes no step twice, also not from an old copy of its records (the counter tells).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kumiai.core.digest import Buffer
from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import Action, Advance, AskUpdate, KeepReceipt, Persist, Send, Stop
from kumiai.secagg.client_records import (
    CLIENT_TRANSITIONS,
    ClientEvent,
    ClientPhase,
    ClientRecord,
)
from kumiai.secagg.client_steps import ClientKnowledge, Step
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.descriptor import Proofs, RoundDescriptor
from kumiai.secagg.messages import (
    Abandonment,
    Confirmation,
    Envelope,
    Kind,
    ReceiptIssue,
    Signer,
    Verifier,
    decode_body,
    read_envelope,
)
from kumiai.secagg.proofs import UpdateProofs
from kumiai.secagg.quantizing import Numbers
from kumiai.secagg.receipts import verify_receipt
from kumiai.secagg.reruns import rerun_groups

__all__ = ["ClientRound"]


class ClientRound:
    """One client in one round."""

    _knowledge_class: ClassVar[type[ClientKnowledge]] = ClientKnowledge
    _transitions: ClassVar[Mapping[tuple[ClientPhase, ClientEvent], ClientPhase]] = (
        CLIENT_TRANSITIONS
    )
    _events: ClassVar[Mapping[Kind, ClientEvent]] = {
        Kind.ADVERTISEMENTS: ClientEvent.ADVERTISEMENTS,
        Kind.NONCE_REVEALS: ClientEvent.NONCE_REVEALS,
        Kind.DELIVERIES: ClientEvent.DELIVERIES,
        Kind.SURVIVORS: ClientEvent.SURVIVORS,
        Kind.AGREEMENTS: ClientEvent.AGREEMENTS,
        Kind.RESULT: ClientEvent.RESULT,
        Kind.RECEIPT_ISSUE: ClientEvent.RECEIPT_ISSUE,
        Kind.ABANDONMENT: ClientEvent.ABANDONMENT,
    }
    __slots__ = (
        "_conversation",
        "_knowledge",
        "_name",
        "_phase",
        "_signer",
        "_steps",
        "_verifier",
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
        """Take part in a round.

        Args:
            descriptor: the round; that its roster's keys are the members' is the caller's word.
            name: this client's, in the roster.
            signer: this client's key.
            verifier: checks the others' signatures.
            proofs: commits to updates; for rounds with proofs alone.

        Raises:
            SecureAggregationError: the client is not in the roster, or ``proofs`` does not fit.
        """
        verify_proofs_fit(descriptor, proofs)
        self._conversation = Conversation(descriptor, verifier)
        self._knowledge = self._knowledge_class(
            self._conversation, descriptor.index_of(name), proofs
        )
        self._name = name
        self._signer = signer
        self._verifier = verifier
        self._phase = ClientPhase.NEW
        self._steps: dict[ClientEvent, ClientRecord] = {}

    @classmethod
    def restore(
        cls,
        descriptor: RoundDescriptor,
        name: str,
        records: Sequence[bytes],
        *,
        counter: int,
        signer: Signer,
        verifier: Verifier,
        proofs: UpdateProofs | None = None,
    ) -> "ClientRound":
        """Return the machine that wrote the records.

        Args:
            descriptor: as when it was made.
            name: same.
            records: all, in their order.
            counter: what the round's monotonic counter says now; 0 if it was never set.
            signer: as when it was made.
            verifier: same.
            proofs: same.

        Raises:
            SecureAggregationError: the records are not of this round, or older than the counter:
                an old copy came back, and this round must go on without this client.
        """
        # A record is durable before the counter moves, so that a crash leaves it one behind.
        if counter not in {len(records), len(records) - 1}:
            raise SecureAggregationError(
                f"records must be as many as the counter {counter} says, got {len(records)}; an "
                "old copy was restored: stay out of this round"
            )
        machine = cls(descriptor, name, signer=signer, verifier=verifier, proofs=proofs)
        for number, data in enumerate(records, start=1):
            machine._replay(ClientRecord.decode(data, number))
        return machine

    def __repr__(self) -> str:
        """Name the client and how far it is."""
        return f"{type(self).__name__}({self._name!r}, {self._phase.name})"

    @property
    def phase(self) -> ClientPhase:
        """How far this client is."""
        return self._phase

    @property
    def sum_size_bytes(self) -> int:
        """How long the sum is that the coordinator sends to be checked."""
        return self._knowledge.sum_size_bytes

    @property
    def rerun_groups(self) -> tuple[tuple[str, ...], ...]:
        """The groups in which the round may go again, once this client has found its sum wrong."""
        done = self._steps.get(ClientEvent.RESULT)
        if done is None or decode_body(self._read(done.reply), Confirmation).is_right:
            return ()
        knowledge, conversation = self._knowledge, self._conversation
        return rerun_groups(
            [conversation.name(entry.index) for entry in knowledge.survivors],
            agreement=knowledge.agreement,
            minimum_size=conversation.descriptor.rerun_size,
        )

    def begin(self) -> tuple[Action, ...]:
        """Draw keys and advertise them.

        Raises:
            SecureAggregationError: it has begun already.
        """
        is_sparse = bool(self._conversation.descriptor.degree)
        event = ClientEvent.BEGIN_HIDDEN if is_sparse else ClientEvent.BEGIN
        self._verify_allowed(event)
        return self._take(event, self._knowledge.begin(None))

    def receive(self, message: bytes, vector: Buffer | None = None) -> tuple[Action, ...]:
        """Take a message of the coordinator.

        Args:
            message: from outside.
            vector: the sum, with the `Result`.

        Returns:
            What to do; for a message that came before, to send the same answer again.

        Raises:
            KumiaiError: the message is not the coordinator's, not of this round, not right, or
                must not come now; nothing has changed.
        """
        envelope = self._conversation.open_coordinator(message)
        event = self._events.get(envelope.kind)
        if event is None:
            raise SecureAggregationError(
                f"message must be for clients, got {envelope.kind.name.lower()}"
            )
        if event in self._steps:
            return self._repeated(event, envelope)
        self._verify_allowed(event)
        return self._take(event, self._hear(event, envelope, vector, None), heard=message)

    def submit(self, update: Numbers, weight: int) -> tuple[Action, ...]:
        """Mask the update and send it; the same one again after a restart.

        Args:
            update: shape (dimension,); float32, finite, or int64: whole steps of the round.
            weight: 1 to the round's weight bound, public.

        Raises:
            SecureAggregationError: it is not asked for now, out of its limits, or another one than
                was submitted before.
        """
        done = self._steps.get(ClientEvent.SUBMIT)
        if done is not None and self._phase is not ClientPhase.STOPPED:
            vector = self._knowledge.submitted_again(update, weight, done.secret)
            return (Send(done.reply, done.attachment, vector.data),)
        self._verify_allowed(ClientEvent.SUBMIT)
        step, vector = self._knowledge.submit(update, weight)
        actions = self._take(ClientEvent.SUBMIT, step)
        return tuple(_with_vector(action, vector) for action in actions)

    def resend(self) -> tuple[Action, ...]:
        """Return what was last to be done for others, after a restart or a lost connection."""
        if self._phase is ClientPhase.READY or self._phase is ClientPhase.SUBMITTED:
            return (AskUpdate(),)
        replies = [step for step in self._steps.values() if step.reply]
        if self._phase in {ClientPhase.DONE, ClientPhase.STOPPED} or not replies:
            return ()
        return (Send(replies[-1].reply, replies[-1].attachment),)

    def _hear(
        self, event: ClientEvent, envelope: Envelope, vector: Buffer | None, drawn: bytes | None
    ) -> Step:
        knowledge = self._knowledge
        match event:
            case ClientEvent.ADVERTISEMENTS:
                return knowledge.hear_advertisements(envelope, drawn)
            case ClientEvent.NONCE_REVEALS:
                return knowledge.hear_nonce_reveals(envelope, drawn)
            case ClientEvent.DELIVERIES:
                return knowledge.hear_deliveries(envelope)
            case ClientEvent.SURVIVORS:
                return knowledge.hear_survivors(envelope)
            case ClientEvent.AGREEMENTS:
                return knowledge.hear_agreements(envelope)
            case ClientEvent.RESULT:
                return knowledge.hear_result(envelope, np.frombuffer(vector or b"", np.uint8))
            case ClientEvent.RECEIPT_ISSUE:
                self._verify_receipt(decode_body(envelope, ReceiptIssue).receipt)
                return Step()
            case _:
                return Step()

    def _take(self, event: ClientEvent, step: Step, *, heard: bytes = b"") -> tuple[Action, ...]:
        reply = b""
        if step.body is not None:
            reply = self._conversation.seal(step.body, self._name, self._signer)
        record = ClientRecord(
            len(self._steps) + 1, event, heard, step.secret, reply, step.attachment
        )
        consequences = self._consequences(record)
        self._enter(record)
        actions: list[Action] = [Persist(record.encode()), Advance(record.counter)]
        if reply:
            actions.append(Send(reply, step.attachment))
        return (*actions, *consequences)

    def _consequences(self, record: ClientRecord) -> tuple[Action, ...]:
        match record.event:
            case ClientEvent.DELIVERIES:
                return (AskUpdate(),)
            case ClientEvent.RECEIPT_ISSUE:
                issue = decode_body(self._read(record.heard), ReceiptIssue)
                return (KeepReceipt(issue.receipt),)
            case ClientEvent.ABANDONMENT:
                return (Stop(decode_body(self._read(record.heard), Abandonment).reason),)
            case _:
                return ()

    def _enter(self, record: ClientRecord) -> None:
        self._steps[record.event] = record
        self._phase = self._transitions[self._phase, record.event]

    def _replay(self, record: ClientRecord) -> None:
        """Take a step once more, with what was drawn for it then."""
        self._verify_allowed(record.event)
        match record.event:
            case ClientEvent.BEGIN | ClientEvent.BEGIN_HIDDEN:
                self._knowledge.begin(record.secret)
            case ClientEvent.SUBMIT:
                self._knowledge.hear_own_input(self._read(record.reply))
            case ClientEvent.RESULT:
                self._knowledge.hear_own_confirmation(self._read(record.heard), record.secret)
            case _:
                envelope = self._conversation.open_coordinator(record.heard)
                self._hear(record.event, envelope, None, record.secret)
        self._enter(record)

    def _repeated(self, event: ClientEvent, envelope: Envelope) -> tuple[Action, ...]:
        """Answer what was answered before; refuse another message in its place."""
        record = self._steps[event]
        if self._read(record.heard).body != envelope.body:
            raise SecureAggregationError(
                f"{event.name.lower()} must be the ones that came before, got others; the "
                "coordinator tells different stories"
            )
        if event is ClientEvent.DELIVERIES:
            return self.resend() if self._phase is ClientPhase.READY else ()
        answer = (Send(record.reply, record.attachment),) if record.reply else ()
        return (*answer, *self._consequences(record))

    def _verify_allowed(self, event: ClientEvent) -> None:
        if (self._phase, event) not in self._transitions:
            raise SecureAggregationError(
                f"{event.name.lower()} must come when it is awaited, got it while "
                f"{self._phase.name.lower()}"
            )

    def _verify_receipt(self, receipt: bytes) -> None:
        descriptor, knowledge = self._conversation.descriptor, self._knowledge
        roster = {member.name: member.verification_key for member in descriptor.roster}
        facts = verify_receipt(receipt, roster, verifier=self._verifier)
        own = (self._name, knowledge.input.weight, knowledge.agreement, knowledge.sum_digest)
        if (facts.client, facts.weight, facts.agreement, facts.sum_digest) != own:
            raise SecureAggregationError(
                "receipt must be of this client's input and the sum that it has checked, "
                "got another"
            )

    def _read(self, data: bytes) -> Envelope:
        return read_envelope(data, self._conversation.descriptor)


def verify_proofs_fit(descriptor: RoundDescriptor, proofs: UpdateProofs | None) -> None:
    """Check that proofs are there if, and only if, the round has them.

    Raises:
        SecureAggregationError: they are not.
    """
    if (proofs is None) is not (descriptor.proofs is Proofs.OFF):
        raise SecureAggregationError(
            f"proofs must be given for a round with proofs and for no other, got one with "
            f"{descriptor.proofs.value}"
        )


def _with_vector(send: Action, vector: NDArray[np.uint8]) -> Action:
    return replace(send, vector=vector.data) if isinstance(send, Send) else send
