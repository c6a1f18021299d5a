"""What a client keeps of each step, so that a restart goes on where it was, and nowhere else."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NoReturn

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.messages import ATTACHMENT_SIZE_MAX
from kumiai.secagg.wire import Codec, blob, choice, number, record

__all__ = [
    "CLIENT_TRANSITIONS",
    "PAILLIER_CLIENT_TRANSITIONS",
    "ClientEvent",
    "ClientPhase",
    "ClientRecord",
]


class ClientPhase(IntEnum):
    """How far a client is."""

    NEW = 1
    ADVERTISED = 2
    """Its keys are out."""
    HIDDEN = 3
    """Its keys are out, and its part of a sparse graph's seed, hidden."""
    REVEALED = 4
    """Its part of the seed is out."""
    SHARED = 5
    """Its secrets are shared; or it waits for the dealer of the Paillier key."""
    READY = 6
    """It holds shares of its neighbours, or the Paillier key, and waits for its update."""
    SUBMITTED = 7
    """Its masked or encrypted vector is out."""
    AGREED = 8
    """It signed who is in the sum."""
    UNMASKED = 9
    """It gave shares away."""
    CONFIRMED = 10
    """It has signed whether the sum is right."""
    OPENED = 11
    """It has told the decrypted sum."""
    DONE = 12
    """It holds its receipt."""
    STOPPED = 13
    """The round ended without a result."""


class ClientEvent(IntEnum):
    """What happens to a client."""

    BEGIN = 1
    BEGIN_HIDDEN = 2
    ADVERTISEMENTS = 3
    NONCE_REVEALS = 4
    DELIVERIES = 5
    SUBMIT = 6
    SURVIVORS = 7
    AGREEMENTS = 8
    RESULT = 9
    RECEIPT_ISSUE = 10
    ABANDONMENT = 11
    CONFIRMATIONS = 12


_P, _E = ClientPhase, ClientEvent
CLIENT_TRANSITIONS: Final[dict[tuple[ClientPhase, ClientEvent], ClientPhase]] = {
    (_P.NEW, _E.BEGIN): _P.ADVERTISED,
    (_P.NEW, _E.BEGIN_HIDDEN): _P.HIDDEN,
    (_P.ADVERTISED, _E.ADVERTISEMENTS): _P.SHARED,
    (_P.HIDDEN, _E.ADVERTISEMENTS): _P.REVEALED,
    (_P.REVEALED, _E.NONCE_REVEALS): _P.SHARED,
    (_P.SHARED, _E.DELIVERIES): _P.READY,
    (_P.READY, _E.SUBMIT): _P.SUBMITTED,
    (_P.SUBMITTED, _E.SURVIVORS): _P.AGREED,
    (_P.AGREED, _E.AGREEMENTS): _P.UNMASKED,
    (_P.UNMASKED, _E.RESULT): _P.CONFIRMED,
    (_P.CONFIRMED, _E.RECEIPT_ISSUE): _P.DONE,
    **{
        (phase, _E.ABANDONMENT): _P.STOPPED
        for phase in ClientPhase
        if phase not in {_P.NEW, _P.DONE, _P.STOPPED}
    },
}
"""Every step that there is; whatever is not here is refused."""

PAILLIER_CLIENT_TRANSITIONS: Final[dict[tuple[ClientPhase, ClientEvent], ClientPhase]] = {
    (_P.NEW, _E.BEGIN): _P.ADVERTISED,
    (_P.ADVERTISED, _E.ADVERTISEMENTS): _P.SHARED,
    (_P.SHARED, _E.DELIVERIES): _P.READY,
    (_P.READY, _E.SUBMIT): _P.SUBMITTED,
    (_P.SUBMITTED, _E.SURVIVORS): _P.AGREED,
    (_P.AGREED, _E.RESULT): _P.CONFIRMED,
    (_P.CONFIRMED, _E.CONFIRMATIONS): _P.OPENED,
    (_P.CONFIRMED, _E.RECEIPT_ISSUE): _P.DONE,
    (_P.OPENED, _E.RECEIPT_ISSUE): _P.DONE,
    **{step: phase for step, phase in CLIENT_TRANSITIONS.items() if step[1] is _E.ABANDONMENT},
}
"""The same where a Paillier key takes the place of masks."""


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """One step.

    Attributes:
        counter: 1 for the first, and so on.
        event: what happened.
        heard: the message that it came with, if any.
        secret: what was drawn for it, if anything.
        reply: the envelope that was sent, if any.
        attachment: of the reply.
    """

    counter: int
    event: ClientEvent
    heard: bytes = field(default=b"", repr=False)
    secret: bytes = field(default=b"", repr=False)
    reply: bytes = field(default=b"", repr=False)
    attachment: bytes = field(default=b"", repr=False)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: a record holds secrets."""
        raise TypeError("a ClientRecord cannot be pickled")

    def encode(self) -> bytes:
        """Return the record as bytes, to be sealed at rest."""
        return _RECORD.write(self)

    @classmethod
    def decode(cls, data: bytes, counter: int) -> "ClientRecord":
        """Return the record that must be the given one of its round.

        Raises:
            SecureAggregationError: it is malformed, or another.
        """
        found = _RECORD.decode(data)
        if found.counter != counter:
            raise SecureAggregationError(
                f"record must be number {counter} of its round, got {found.counter}; begin "
                "another round"
            )
        return found


_RECORD: Final[Codec[ClientRecord]] = record(
    ClientRecord,
    counter=number(4, "counter", least=1),
    event=choice(tuple(ClientEvent), "event"),
    heard=blob(1 << 30, "message"),
    secret=blob(ATTACHMENT_SIZE_MAX, "secret"),
    reply=blob(1 << 28, "reply"),
    attachment=blob(ATTACHMENT_SIZE_MAX, "attachment"),
)
