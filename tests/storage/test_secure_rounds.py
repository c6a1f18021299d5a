"""Secure aggregation's memory, on both databases: what is said once stays said."""

import asyncio
from dataclasses import replace

import pytest

from kumiai.core.errors import ConflictError, FencedError
from kumiai.storage import (
    DatabaseManager,
    SecureOutcome,
    SecureRequest,
    SecureRoundRepository,
    UpdateInbox,
)
from tests.storage.leading import TTL_SECONDS, Leading, request_of

KEPT, DUPLICATE = SecureOutcome.KEPT, SecureOutcome.DUPLICATE
CONFLICT, NOT_OPEN = SecureOutcome.CONFLICT, SecureOutcome.NOT_OPEN


@pytest.fixture
def secure(database: DatabaseManager) -> SecureRoundRepository:
    return SecureRoundRepository(database)


def said(client_id: str, body: bytes = b"one", **changes: object) -> SecureRequest:
    request = SecureRequest("run-a", 1, 1, client_id, "advert", body)
    return replace(request, **changes)  # type: ignore[arg-type]


async def test_a_message_is_kept_once_and_in_order(
    leading: Leading, secure: SecureRoundRepository, inbox: UpdateInbox
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1)

    first = await inbox.accept_message(said("b"))
    together = await asyncio.gather(
        *(inbox.accept_message(each) for each in (said("a"), said("b"), said("b", b"two")))
    )
    await secure.record(leading.lease, attempt, {"roster": b"\x00\xff"})

    assert first is KEPT
    assert together == [KEPT, DUPLICATE, CONFLICT]
    messages = await secure.messages(attempt)
    assert [(each.sender, each.kind, each.body) for each in messages] == [
        ("b", "advert", b"one"),
        ("a", "advert", b"one"),
        ("", "roster", b"\x00\xff"),
    ]
    known = {messages[0].seq, messages[2].seq}
    assert await secure.messages(attempt, known=known) == [messages[1]]


@pytest.mark.parametrize(
    "request_",
    [said("x"), said("a", round=2), said("a", attempt=2), said("a", run_id="run-x")],
)
async def test_what_nobody_asked_for_is_not_kept(
    leading: Leading, secure: SecureRoundRepository, inbox: UpdateInbox, request_: SecureRequest
) -> None:
    await leading.open(evaluate=["x"])
    attempt = await secure.open(leading.lease, 1, 1)

    assert await inbox.accept_message(request_) is NOT_OPEN
    assert await secure.messages(attempt) == []


async def test_an_attempt_that_ended_takes_nothing(
    leading: Leading, secure: SecureRoundRepository, inbox: UpdateInbox
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1)
    await secure.end(leading.lease, attempt, "aborted", "too few")
    await secure.end(leading.lease, attempt, "aborted", "again")

    assert await inbox.accept_message(said("a")) is NOT_OPEN
    with pytest.raises(ConflictError, match="must be open, got one that is aborted: too few"):
        await secure.record(leading.lease, attempt, {"roster": b""})
    with pytest.raises(ConflictError, match="must be open"):
        await secure.end(leading.lease, attempt, "done")
    assert await secure.open(leading.lease, 1, 1) == await secure.find("run-a", 1)
    assert await secure.find_open_of("a") == []


async def test_the_coordinator_says_one_thing(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1)
    await secure.record(leading.lease, attempt, {"survivors": b"a,b"})
    await secure.record(leading.lease, attempt, {"survivors": b"a,b"})

    with pytest.raises(ConflictError, match="must say one thing"):
        await secure.record(leading.lease, attempt, {"roster": b"x", "survivors": b"a,c"})

    assert [each.body for each in await secure.messages(attempt)] == [b"a,b"]


async def test_whoever_does_not_lead_writes_nothing(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1)
    old = replace(leading.lease, epoch=leading.lease.epoch - 1)

    with pytest.raises(FencedError):
        await secure.open(old, 1, 2)
    with pytest.raises(FencedError):
        await secure.record(old, attempt, {"roster": b"x"})
    with pytest.raises(FencedError):
        await secure.end(old, attempt, "done")

    assert await secure.messages(attempt) == []
    assert await secure.find("run-a", 1) == attempt


async def test_a_client_finds_the_rounds_in_which_it_is(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    await leading.open()
    first = await secure.open(leading.lease, 1, 1)
    await secure.end(leading.lease, first, "aborted")
    second = await secure.open(leading.lease, 1, 2)

    assert await secure.find_open_of("a") == [second]
    assert await secure.find_open_of("x") == []
    assert await secure.find("run-a", 1) == second
    assert await secure.find("run-a", 2) is None


async def test_a_restarted_round_has_nothing_of_the_first_attempt(
    leading: Leading, inbox: UpdateInbox
) -> None:
    runs = leading.runs
    await leading.open()
    await inbox.accept(request_of("a"))
    await runs.close_round(leading.lease, 1, "why")

    again = await runs.restart_round(
        leading.lease,
        round=1,
        deadline_seconds=TTL_SECONDS,
        clients=[("a", 7), ("b", 8)],
        reason="a sum could not be unmasked",
    )

    assert (again.stage, again.attempt, again.quorum_at) == ("collecting", 2, None)
    assert await runs.updates("run-a", 1) == []
    states = {
        each.client_id: (each.state, each.attempt) for each in await runs.assignments("run-a", 1)
    }
    assert states["a"] == states["b"] == ("assigned", 2)
    assert states["c"][0] == "late"
    assert (await inbox.accept(request_of("a", digest="anew"))).value == "accepted"
    with pytest.raises(FencedError):
        await runs.restart_round(
            replace(leading.lease, epoch=0), round=1, deadline_seconds=1, clients=[], reason="x"
        )


async def test_a_published_round_is_not_restarted(leading: Leading) -> None:
    await leading.play(1)

    with pytest.raises(ConflictError, match="must be collecting or closed, got published"):
        await leading.runs.restart_round(
            leading.lease, round=1, deadline_seconds=1.0, clients=[], reason="x"
        )
