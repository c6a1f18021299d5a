"""Where a round stands, read from the coordinator's records: for those who look on.

It believes the records, as whoever wrote them has checked all that is in them; it needs no keys,
and says nothing that could be used to go on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kumiai.secagg.conversation import seen_digest
from kumiai.secagg.descriptor import RoundDescriptor, Scheme
from kumiai.secagg.messages import Confirmation, Envelope, decode_body, read_envelope
from kumiai.secagg.paillier_client import dealer_among
from kumiai.secagg.server_records import (
    PAILLIER_SERVER_TRANSITIONS,
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
_PAILLIER_ANSWERS: Final[Mapping[ServerPhase, ServerEvent]] = {
    ServerPhase.ADVERTISING: _E.ADVERTISEMENT,
    ServerPhase.SHARING: _E.KEY_DEAL,
    ServerPhase.COLLECTING: _E.UPLOAD,
    ServerPhase.AGREEING: _E.AGREEMENT,
    ServerPhase.CONFIRMING: _E.CONFIRMATION,
    ServerPhase.OPENING: _E.OPENING,
}
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
    if descriptor.scheme is Scheme.PAILLIER:
        return _standing_with_key(descriptor, records)
    phase = ServerPhase.ADVERTISING_HIDDEN if descriptor.degree else ServerPhase.ADVERTISING
    asked, answered = {member.name for member in descriptor.roster}, set[str]()
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
    awaited = asked - answered if phase in _ANSWERS else set()
    return _standing(descriptor, phase, awaited, answered, excluded)


def _standing_with_key(descriptor: RoundDescriptor, records: Iterable[bytes]) -> Standing:
    phase = ServerPhase.ADVERTISING
    asked, answered = {member.name for member in descriptor.roster}, set[str]()
    said: dict[str, Envelope] = {}
    excluded: dict[str, str] = {}
    for data in records:
        record = ServerRecord.decode(data)
        if record.event is _E.EXCLUSION:
            excluded[record.message.decode()] = record.attachment.decode()
        elif record.event is _E.SKIP:
            asked = asked - {record.message.decode()}
        elif record.event in _UNNAMED:
            asked = _asked_after(phase, descriptor, asked, answered, said)
            phase, answered = PAILLIER_SERVER_TRANSITIONS[phase, record.event], set()
        elif record.event is _PAILLIER_ANSWERS.get(phase):
            name = _sender_of(record, descriptor)
            answered.add(name)
            if record.event is not _E.UPLOAD:
                said[name] = read_envelope(record.message, descriptor)
    awaited = asked - answered - excluded.keys() if phase in _PAILLIER_ANSWERS else set()
    if phase is ServerPhase.OPENING:  # one after the other is asked, until one has told the sum
        awaited = set() if answered else set(sorted(awaited)[:1])
    return _standing(descriptor, phase, awaited, answered, excluded)


def _asked_after(
    phase: ServerPhase,
    descriptor: RoundDescriptor,
    asked: set[str],
    answered: set[str],
    said: Mapping[str, Envelope],
) -> set[str]:
    match phase:
        case ServerPhase.ADVERTISING if answered:
            bodies = {descriptor.index_of(name): said[name].body for name in answered}
            seen = seen_digest(descriptor.context(), bodies)
            return {descriptor.roster[dealer_among(tuple(sorted(bodies)), seen)].name}
        case ServerPhase.SHARING:
            return set(said)
        case ServerPhase.COLLECTING:
            return answered
        case ServerPhase.CONFIRMING:
            return {name for name in answered if decode_body(said[name], Confirmation).is_right}
        case _:
            return asked


def _standing(
    descriptor: RoundDescriptor,
    phase: ServerPhase,
    awaited: set[str],
    answered: set[str],
    excluded: dict[str, str],
) -> Standing:
    roster = [member.name for member in descriptor.roster]
    return Standing(
        phase,
        tuple(name for name in roster if name in awaited and name not in excluded),
        tuple(name for name in roster if name in answered),
        excluded,
    )


def _sender_of(record: ServerRecord, descriptor: RoundDescriptor) -> str:
    if record.event is _E.UPLOAD:
        return record.message.decode()
    return read_envelope(record.message, descriptor).sender
