"""Where a round stands, read from the coordinator's records: for those who look on.

It believes the records, as whoever wrote them has checked all that is in them; it needs no keys,
and says nothing that could be used to go on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.messages import read_envelope
from kumiai.secagg.server_records import (
    SERVER_TRANSITIONS,
    ServerEvent,
    ServerPhase,
    ServerRecord,
)

__all__ = ["Standing", "standing_of"]

_E: Final = ServerEvent
_ANSWERS: Final[Mapping[ServerPhase, ServerEvent]] = {
    ServerPhase.ADVERTISING: _E.ADVERTISEMENT,
    ServerPhase.ADVERTISING_HIDDEN: _E.ADVERTISEMENT,
    ServerPhase.REVEALING: _E.NONCE_REVEAL,
    ServerPhase.SHARING: _E.KEY_SHARES,
    ServerPhase.COLLECTING: _E.UPLOAD,
    ServerPhase.AGREEING: _E.AGREEMENT,
    ServerPhase.UNMASKING: _E.UNMASKING,
    ServerPhase.CONFIRMING: _E.CONFIRMATION,
}
"""What ends the waiting for a client, by phase."""
_UNNAMED: Final = frozenset({_E.END, _E.ABANDON})


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a round stands.

    Attributes:
        phase: what it waits for.
        awaited: whose answers may still come in this phase, in the roster's order.
        answered: whose have come.
        excluded: who was left out for what it did, with the reason.
    """

    phase: ServerPhase
    awaited: tuple[str, ...]
    answered: tuple[str, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)


def standing_of(descriptor: RoundDescriptor, records: Iterable[bytes]) -> Standing:
    """Return where a round stands.

    Args:
        descriptor: the round.
        records: all of the coordinator's, in their order.

    Raises:
        SecureAggregationError: they are not of this round.
    """
    phase = ServerPhase.ADVERTISING_HIDDEN if descriptor.degree else ServerPhase.ADVERTISING
    roster = [member.name for member in descriptor.roster]
    asked, answered = set(roster), set[str]()
    excluded: dict[str, str] = {}
    for data in records:
        record = ServerRecord.decode(data)
        if record.event is _E.EXCLUSION:
            excluded[record.message.decode()] = record.attachment.decode()
        elif record.event not in _UNNAMED:
            if record.event is _ANSWERS.get(phase):
                answered.add(_sender_of(record, descriptor))
        else:
            # Agreements, shares and confirmations are asked of all who are in the sum.
            asked = answered if phase <= ServerPhase.COLLECTING else asked
            phase, answered = SERVER_TRANSITIONS[phase, record.event], set()
    is_over = phase not in _ANSWERS
    return Standing(
        phase,
        tuple(
            name
            for name in roster
            if not is_over and name in asked - answered and name not in excluded
        ),
        tuple(name for name in roster if name in answered),
        excluded,
    )


def _sender_of(record: ServerRecord, descriptor: RoundDescriptor) -> str:
    if record.event is _E.UPLOAD:
        return record.message.decode()
    return read_envelope(record.message, descriptor).sender
