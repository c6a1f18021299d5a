"""What both sides write down: its one form, its limits, and the steps that there are."""

from collections.abc import Iterable
from typing import Any

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.client_records import (
    CLIENT_TRANSITIONS,
    PAILLIER_CLIENT_TRANSITIONS,
    ClientEvent,
    ClientPhase,
    ClientRecord,
)
from kumiai.secagg.server_records import (
    PAILLIER_SERVER_TRANSITIONS,
    SERVER_TRANSITIONS,
    ServerEvent,
    ServerPhase,
    ServerRecord,
)
from tests.secagg.forms import changed_at, size

CLIENT = size(3) + b"\x09" + b"".join(size(1) + each for each in (b"h", b"s", b"r", b"a"))
SERVER = b"\x0b" + size(1) + b"m" + size(1) + b"a"


def test_the_bytes_of_records_are_these() -> None:
    client = ClientRecord(3, ClientEvent.RESULT, b"h", b"s", b"r", b"a")
    server = ServerRecord(ServerEvent.EXCLUSION, b"m", b"a")

    assert client.encode() == CLIENT
    assert ClientRecord.decode(CLIENT, 3) == client
    assert server.encode() == SERVER
    assert ServerRecord.decode(SERVER) == server


def test_a_record_of_a_step_alone_is_as_short_as_can_be() -> None:
    assert ClientRecord(1, ClientEvent.BEGIN).encode() == size(1) + b"\x01" + 4 * size(0)
    assert ServerRecord(ServerEvent.END).encode() == b"\x09" + 2 * size(0)


def test_what_records_hold_stands_in_no_repr() -> None:
    client = ClientRecord(3, ClientEvent.RESULT, b"h", b"s", b"r", b"a")

    assert repr(client) == f"ClientRecord(counter=3, event={ClientEvent.RESULT!r})"
    assert repr(ServerRecord(ServerEvent.END, b"m", b"a")) == (
        f"ServerRecord(event={ServerEvent.END!r})"
    )
    with pytest.raises(TypeError, match="a ClientRecord cannot be pickled"):
        client.__reduce__()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (changed_at(CLIENT, 0, size(0)), "counter must be 1 to 4294967295, got 0"),
        (changed_at(CLIENT, 4, b"\0"), "event must be 1 to 12, got 0"),
        (changed_at(CLIENT, 5, size(2**30 + 1)), "length of message must be 0 to 1073741824, got"),
        (changed_at(CLIENT, 10, size(2**27 + 1)), "length of secret must be 0 to 134217728, got"),
        (changed_at(CLIENT, 15, size(2**28 + 1)), "length of reply must be 0 to 268435456, got"),
        (changed_at(CLIENT, 20, size(2**27 + 1)), "length of attachment must be 0 to 134217728"),
        (changed_at(CLIENT, 0, size(4)), "record must be number 3 of its round, got 4; begin"),
    ],
)
def test_a_record_of_a_client_beyond_a_limit_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        ClientRecord.decode(data, 3)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (changed_at(SERVER, 0, b"\x0f"), "event must be 1 to 14, got 15"),
        (changed_at(SERVER, 1, size(2**28 + 1)), "length of message must be 0 to 268435456, got"),
        (changed_at(SERVER, 6, size(2**27 + 1)), "length of attachment must be 0 to 134217728"),
    ],
)
def test_a_record_of_the_coordinator_beyond_a_limit_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        ServerRecord.decode(data)


def walked(phases: Any, events: Any, *ways: str) -> dict[Any, Any]:
    """Return the steps of ways that name a phase, an event, a phase, and so on."""
    found = {}
    for way in ways:
        words = way.split()
        for first, event, second in zip(words[::2], words[1::2], words[2::2], strict=False):
            found[phases[first], events[event]] = phases[second]
    return found


def ended(phases: Iterable[Any], event: Any, last: Any) -> dict[Any, Any]:
    return {(phase, event): last for phase in phases}


def test_a_client_takes_these_steps_and_no_others() -> None:
    late = ended(
        (phase for phase in ClientPhase if phase.name not in {"NEW", "DONE", "STOPPED"}),
        ClientEvent.ABANDONMENT,
        ClientPhase.STOPPED,
    )

    assert (
        late
        | walked(
            ClientPhase,
            ClientEvent,
            "NEW BEGIN ADVERTISED ADVERTISEMENTS SHARED DELIVERIES READY SUBMIT SUBMITTED",
            "NEW BEGIN_HIDDEN HIDDEN ADVERTISEMENTS REVEALED NONCE_REVEALS SHARED",
            "SUBMITTED SURVIVORS AGREED AGREEMENTS UNMASKED RESULT CONFIRMED RECEIPT_ISSUE DONE",
        )
        == CLIENT_TRANSITIONS
    )
    assert (
        late
        | walked(
            ClientPhase,
            ClientEvent,
            "NEW BEGIN ADVERTISED ADVERTISEMENTS SHARED DELIVERIES READY SUBMIT SUBMITTED",
            "SUBMITTED SURVIVORS AGREED RESULT CONFIRMED CONFIRMATIONS OPENED RECEIPT_ISSUE DONE",
            "CONFIRMED RECEIPT_ISSUE DONE",
        )
        == PAILLIER_CLIENT_TRANSITIONS
    )


def test_the_coordinator_takes_these_steps_and_no_others() -> None:
    open_phases = [phase for phase in ServerPhase if phase.name not in {"PUBLISHED", "ABANDONED"}]
    always = ended(open_phases, ServerEvent.ABANDON, ServerPhase.ABANDONED)
    always |= {(phase, ServerEvent.EXCLUSION): phase for phase in open_phases}

    assert (
        always
        | walked(
            ServerPhase,
            ServerEvent,
            "ADVERTISING ADVERTISEMENT ADVERTISING END SHARING KEY_SHARES SHARING END COLLECTING",
            "ADVERTISING_HIDDEN ADVERTISEMENT ADVERTISING_HIDDEN END REVEALING",
            "REVEALING NONCE_REVEAL REVEALING END SHARING",
            "COLLECTING MASKED_INPUT COLLECTING UPLOAD COLLECTING END AGREEING",
            "AGREEING AGREEMENT AGREEING END UNMASKING UNMASKING UNMASKING END CONFIRMING",
            "CONFIRMING CONFIRMATION CONFIRMING END PUBLISHED",
        )
        == SERVER_TRANSITIONS
    )
    assert (
        always
        | walked(
            ServerPhase,
            ServerEvent,
            "ADVERTISING ADVERTISEMENT ADVERTISING END SHARING KEY_DEAL SHARING END COLLECTING",
            "COLLECTING MASKED_INPUT COLLECTING UPLOAD COLLECTING END AGREEING",
            "AGREEING AGREEMENT AGREEING END CONFIRMING CONFIRMATION CONFIRMING END OPENING",
            "OPENING OPENING OPENING SKIP OPENING END PUBLISHED",
        )
        == PAILLIER_SERVER_TRANSITIONS
    )


def test_the_numbers_that_stand_in_records_keep_their_meaning() -> None:
    assert [event.value for event in ClientEvent] == list(range(1, 13))
    assert [event.value for event in ServerEvent] == list(range(1, 15))
    assert [*ClientEvent][8] is ClientEvent.RESULT
    assert [*ServerEvent][10] is ServerEvent.EXCLUSION
    assert [phase.value for phase in ClientPhase] == list(range(1, 14))
    assert [phase.value for phase in ServerPhase] == list(range(1, 12))
