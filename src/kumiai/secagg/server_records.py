"""How far the coordinator is in a round, and what it keeps of each step."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from kumiai.secagg.messages import ATTACHMENT_SIZE_MAX
from kumiai.secagg.wire import Codec, blob, choice, record

__all__ = [
    "PAILLIER_SERVER_TRANSITIONS",
    "SERVER_TRANSITIONS",
    "ServerEvent",
    "ServerPhase",
    "ServerRecord",
]


class ServerPhase(IntEnum):
    """What the coordinator waits for."""

    ADVERTISING = 1
    """Advertisements of all clients."""
    ADVERTISING_HIDDEN = 2
    """Same, with hidden nonces for a sparse graph."""
    REVEALING = 3
    """The nonces."""
    SHARING = 4
    """Sealed shares; or the dealer's sealed copies of a Paillier key."""
    COLLECTING = 5
    """Masked or encrypted inputs and their vectors."""
    AGREEING = 6
    """Signatures of the list of survivors."""
    UNMASKING = 7
    """Shares that take the masks away."""
    CONFIRMING = 8
    """The clients' word that the sum is right."""
    OPENING = 9
    """The decrypted sum, from one who has confirmed it."""
    PUBLISHED = 10
    """The sum is out."""
    ABANDONED = 11
    """There is none."""


class ServerEvent(IntEnum):
    """What happens to the coordinator."""

    ADVERTISEMENT = 1
    NONCE_REVEAL = 2
    KEY_SHARES = 3
    MASKED_INPUT = 4
    UPLOAD = 5
    AGREEMENT = 6
    UNMASKING = 7
    CONFIRMATION = 8
    END = 9
    """All have answered, or the time is up."""
    ABANDON = 10
    EXCLUSION = 11
    """A client has signed what it must not."""
    KEY_DEAL = 12
    OPENING = 13
    SKIP = 14
    """A client that was asked for the decrypted sum did not answer in time."""


_P, _E = ServerPhase, ServerEvent
SERVER_TRANSITIONS: Final[dict[tuple[ServerPhase, ServerEvent], ServerPhase]] = {
    (_P.ADVERTISING, _E.ADVERTISEMENT): _P.ADVERTISING,
    (_P.ADVERTISING, _E.END): _P.SHARING,
    (_P.ADVERTISING_HIDDEN, _E.ADVERTISEMENT): _P.ADVERTISING_HIDDEN,
    (_P.ADVERTISING_HIDDEN, _E.END): _P.REVEALING,
    (_P.REVEALING, _E.NONCE_REVEAL): _P.REVEALING,
    (_P.REVEALING, _E.END): _P.SHARING,
    (_P.SHARING, _E.KEY_SHARES): _P.SHARING,
    (_P.SHARING, _E.END): _P.COLLECTING,
    (_P.COLLECTING, _E.MASKED_INPUT): _P.COLLECTING,
    (_P.COLLECTING, _E.UPLOAD): _P.COLLECTING,
    (_P.COLLECTING, _E.END): _P.AGREEING,
    (_P.AGREEING, _E.AGREEMENT): _P.AGREEING,
    (_P.AGREEING, _E.END): _P.UNMASKING,
    (_P.UNMASKING, _E.UNMASKING): _P.UNMASKING,
    (_P.UNMASKING, _E.END): _P.CONFIRMING,
    (_P.CONFIRMING, _E.CONFIRMATION): _P.CONFIRMING,
    (_P.CONFIRMING, _E.END): _P.PUBLISHED,
    **{(phase, _E.ABANDON): _P.ABANDONED for phase in _P if phase < _P.PUBLISHED},
    **{(phase, _E.EXCLUSION): phase for phase in _P if phase < _P.PUBLISHED},
}
"""Every step that there is; whatever is not here is refused."""

PAILLIER_SERVER_TRANSITIONS: Final[dict[tuple[ServerPhase, ServerEvent], ServerPhase]] = {
    (_P.ADVERTISING, _E.ADVERTISEMENT): _P.ADVERTISING,
    (_P.ADVERTISING, _E.END): _P.SHARING,
    (_P.SHARING, _E.KEY_DEAL): _P.SHARING,
    (_P.SHARING, _E.END): _P.COLLECTING,
    (_P.COLLECTING, _E.MASKED_INPUT): _P.COLLECTING,
    (_P.COLLECTING, _E.UPLOAD): _P.COLLECTING,
    (_P.COLLECTING, _E.END): _P.AGREEING,
    (_P.AGREEING, _E.AGREEMENT): _P.AGREEING,
    (_P.AGREEING, _E.END): _P.CONFIRMING,
    (_P.CONFIRMING, _E.CONFIRMATION): _P.CONFIRMING,
    (_P.CONFIRMING, _E.END): _P.OPENING,
    (_P.OPENING, _E.OPENING): _P.OPENING,
    (_P.OPENING, _E.SKIP): _P.OPENING,
    (_P.OPENING, _E.END): _P.PUBLISHED,
    **{
        step: phase
        for step, phase in SERVER_TRANSITIONS.items()
        if step[1] in {_E.ABANDON, _E.EXCLUSION}
    },
}
"""The same where a Paillier key takes the place of masks."""


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One step.

    Attributes:
        event: what happened.
        message: that it came with; of an upload, an exclusion or a skip, the client's name; of
            an abandoning, why.
        attachment: of the message; of an exclusion, why.
    """

    event: ServerEvent
    message: bytes = field(default=b"", repr=False)
    attachment: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Return the record as bytes."""
        return _RECORD.write(self)

    @classmethod
    def decode(cls, data: bytes) -> "ServerRecord":
        """Return the record that the bytes stand for.

        Raises:
            SecureAggregationError: they stand for none.
        """
        return _RECORD.decode(data)


_RECORD: Final[Codec[ServerRecord]] = record(
    ServerRecord,
    event=choice(tuple(ServerEvent), "event"),
    message=blob(1 << 28, "message"),
    attachment=blob(ATTACHMENT_SIZE_MAX, "attachment"),
)
