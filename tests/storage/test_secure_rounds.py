"""Secure aggregation's memory, on both databases: a step that was taken stays taken."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, FencedError
from kumiai.storage import (
    ClientExclusion,
    DatabaseManager,
    SecureRoundRepository,
    Suspicion,
    UpdateInbox,
)
from tests.storage.leading import TTL_SECONDS, Leading, request_of


class Trail:
    """Keeps the entries that were handed on."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    async def append(self, connection: AsyncConnection, entry: Any) -> int:
        self.entries.append(entry)
        return 0


@pytest.fixture
def secure(database: DatabaseManager) -> SecureRoundRepository:
    return SecureRoundRepository(database)


async def test_records_are_read_in_the_order_of_writing(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1, b"opening")

    await secure.append(leading.lease, attempt, 0, [b"one", b"\x00\xff"])
    await secure.append(leading.lease, attempt, 2, [b"three"])

    assert await secure.records(attempt) == [b"one", b"\x00\xff", b"three"]
    assert await secure.find("run-a", 1) == attempt
    assert (attempt.state, attempt.opening) == ("open", b"opening")


async def test_who_is_left_out_is_told_in_the_transaction_of_the_record(
    leading: Leading, database: DatabaseManager
) -> None:
    trail = Trail()
    secure = SecureRoundRepository(database, trail=trail)
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1, b"opening")
    exclusions = [ClientExclusion("a", "lied", "entry of a"), ClientExclusion("b", "lied, too")]

    await secure.append(leading.lease, attempt, 0, [b"one", b"two"], exclusions=exclusions)
    with pytest.raises(ConflictError):
        await secure.append(leading.lease, attempt, 0, [b"x"], exclusions=exclusions)

    assert await secure.exclusions("run-a", 1) == {"a": "lied", "b": "lied, too"}
    assert await secure.exclusions("run-a", 2) == {}
    assert trail.entries == ["entry of a"]
    events = [each for each in await leading.runs.events("run-a") if each.level == "error"]
    assert [(each.kind, each.client_id, each.round) for each in events] == [
        ("client_excluded", "a", 1),
        ("client_excluded", "b", 1),
    ]
    assert events[0].text == "a was left out of the sum: lied"
    assert events[0].data == {"reason": "lied", "attempt": 1}


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_a_record_out_of_its_place_is_refused(
    leading: Leading, secure: SecureRoundRepository, number: int
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1, b"opening")
    await secure.append(leading.lease, attempt, 0, [b"one", b"two"])

    with pytest.raises(ConflictError, match=f"must be {number} so far, got 2"):
        await secure.append(leading.lease, attempt, number, [b"three"])

    assert await secure.records(attempt) == [b"one", b"two"]


async def test_an_attempt_begins_once(leading: Leading, secure: SecureRoundRepository) -> None:
    await leading.open()

    first = await secure.open(leading.lease, 1, 1, b"opening")
    again = await secure.open(leading.lease, 1, 1, b"another")
    second = await secure.open(leading.lease, 1, 2, b"another")

    assert again == first
    assert await secure.find("run-a", 1) == second
    assert await secure.find("run-a", 2) is None


async def test_an_attempt_that_ended_takes_nothing_and_keeps_nothing(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1, b"opening")
    await secure.append(leading.lease, attempt, 0, [b"one"])

    await secure.end(leading.lease, attempt, "aborted", "too few")
    await secure.end(leading.lease, attempt, "aborted", "again")

    with pytest.raises(ConflictError, match="must be open, got one that is aborted: too few"):
        await secure.append(leading.lease, attempt, 1, [b"two"])
    with pytest.raises(ConflictError, match="must be open"):
        await secure.end(leading.lease, attempt, "done")
    assert await secure.records(attempt) == []
    found = await secure.find("run-a", 1)
    assert found is not None
    assert (found.state, found.reason) == ("aborted", "too few")


async def test_what_came_of_an_attempt_is_kept_for_sixty_four_rounds(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    for number in (1, 2, 66):
        attempt = await secure.open(leading.lease, number, 1, b"opening")
        assert await secure.result(attempt) is None
        await secure.append(leading.lease, attempt, 0, [b"one", b"two"])
        assert await secure.result(attempt) is None
        await secure.end(leading.lease, attempt, "done", result=b"came of %d" % number)

    found = [(await secure.attempts("run-a", number))[0] for number in (1, 2, 66)]

    assert [await secure.result(each) for each in found] == [None, None, b"came of 66"]
    assert [each.state for each in found] == ["done"] * 3


async def test_all_attempts_of_a_round_are_found_in_their_order(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    for number in (2, 1, 3):
        await secure.open(leading.lease, 1, number, b"opening")

    assert [each.attempt for each in await secure.attempts("run-a", 1)] == [1, 2, 3]
    assert await secure.attempts("run-a", 2) == []


async def test_whoever_does_not_lead_writes_nothing(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    await leading.open()
    attempt = await secure.open(leading.lease, 1, 1, b"opening")
    old = replace(leading.lease, epoch=leading.lease.epoch - 1)

    with pytest.raises(FencedError):
        await secure.open(old, 1, 2, b"")
    with pytest.raises(FencedError):
        await secure.append(old, attempt, 0, [b"x"])
    with pytest.raises(FencedError):
        await secure.end(old, attempt, "done")

    assert await secure.records(attempt) == []
    assert await secure.find("run-a", 1) == attempt


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
    assert (await inbox.accept(request_of("a", attempt=2, digest="anew"))).value == "accepted"
    # Who was late for the first attempt, and is not asked for the second.
    assert (await inbox.accept(request_of("c", attempt=1))).value == "not_assigned"
    with pytest.raises(FencedError):
        await runs.restart_round(
            replace(leading.lease, epoch=0), round=1, deadline_seconds=1, clients=[], reason="x"
        )


async def test_reports_that_are_in_a_sum_stay_when_the_round_goes_on_in_parts(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    for client in ("a", "b"):
        await inbox.accept(request_of(client))

    await leading.runs.restart_round(
        leading.lease,
        round=1,
        deadline_seconds=TTL_SECONDS,
        clients=[("c", 9)],
        reason="the next part",
        counted=("a",),
    )

    assert [each.client_id for each in await leading.runs.updates("run-a", 1)] == ["a"]
    states = {each.client_id: each.state for each in await leading.runs.assignments("run-a", 1)}
    assert states == {"a": "reported", "b": "cancelled", "c": "assigned"}


async def test_groups_are_blamed_once_with_what_follows_for_single_clients(
    leading: Leading, database: DatabaseManager
) -> None:
    trail = Trail()
    secure = SecureRoundRepository(database, trail=trail)
    await leading.open()
    groups = {("a", "b"): "entry of a, b", ("c", "d"): None}
    suspicions = [
        Suspicion("a", is_suspect=True, entry="entry of a"),
        Suspicion("x", is_suspect=False),
    ]

    for _ in range(2):
        await secure.blame(leading.lease, 1, groups, suspicions=suspicions)
    with pytest.raises(FencedError):
        await secure.blame(replace(leading.lease, epoch=0), 1, {("e",): None})

    events = [each for each in await leading.runs.events("run-a") if "sum" in each.text]
    assert [(each.kind, each.client_id, each.round, each.level) for each in events] == [
        ("sum_refused", None, 1, "error"),
        ("sum_refused", None, 1, "error"),
        ("client_suspected", "a", 1, "error"),
        ("client_cleared", "x", 1, "warning"),
    ]
    assert [each.data for each in events[:2]] == [{"clients": ["a", "b"]}, {"clients": ["c", "d"]}]
    assert events[0].text.startswith("a, b are left out of the sum: one of them has uploaded")
    assert events[2].text.startswith("a is left out of the run: it was in its wrong sums")
    assert events[3].text == "x takes part again: sums were wrong without it"
    assert trail.entries == ["entry of a, b", "entry of a"]
    assert await secure.wrong_groups("run-a") == [("a", "b"), ("c", "d")]
    assert await secure.wrong_groups("run-b") == []


async def test_of_wrong_groups_the_newest_sixty_four_are_remembered(
    leading: Leading, secure: SecureRoundRepository
) -> None:
    await leading.open()
    for number in range(66):
        await secure.blame(leading.lease, 1, {(f"a-{number}",): None})

    assert await secure.wrong_groups("run-a") == [(f"a-{number}",) for number in range(2, 66)]


async def test_a_published_round_is_not_restarted(leading: Leading) -> None:
    await leading.play(1)

    with pytest.raises(ConflictError, match="must be collecting or closed, got published"):
        await leading.runs.restart_round(
            leading.lease, round=1, deadline_seconds=1.0, clients=[], reason="x"
        )
