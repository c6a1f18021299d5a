import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import text

from kumiai.core import failpoints
from kumiai.core.errors import StorageError
from kumiai.storage import AcceptOutcome, DatabaseManager, RunRepository, UpdateInbox
from kumiai.storage.accepting import accept_updates
from tests.storage.leading import TTL_SECONDS, Leading, new_run, request_of

ACCEPTED, DUPLICATE = AcceptOutcome.ACCEPTED, AcceptOutcome.DUPLICATE
CONFLICT, LATE = AcceptOutcome.CONFLICT, AcceptOutcome.LATE


async def test_an_accepted_update_is_a_row_and_its_assignment_reported(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()

    outcome = await inbox.accept(request_of("b"))

    assert outcome is ACCEPTED
    (update,) = await leading.runs.updates("run-a", 1)
    assert (update.client_id, update.digest, update.size_bytes) == ("b", "update-b", 100)
    assert (update.examples, update.metrics) == (7, {"loss": 0.5})
    assert update.accepted_at > 1.7e9
    states = {each.client_id: each.state for each in await leading.runs.assignments("run-a", 1)}
    assert states == {"a": "assigned", "b": "reported", "c": "assigned"}


async def test_the_same_update_again_is_a_duplicate(leading: Leading, inbox: UpdateInbox) -> None:
    await leading.open()
    request = request_of("a")

    outcomes = [await inbox.accept(request) for _ in range(2)]
    together = await asyncio.gather(*(inbox.accept(request_of("b")) for _ in range(3)))

    assert outcomes == [ACCEPTED, DUPLICATE]
    assert together == [ACCEPTED, DUPLICATE, DUPLICATE]
    assert len(await leading.runs.updates("run-a", 1)) == 2


async def test_another_update_of_the_same_client_is_a_conflict(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()

    together = await asyncio.gather(
        *(inbox.accept(request_of("a", digest=digest)) for digest in ("one", "two"))
    )
    later = await inbox.accept(request_of("a", digest="three"))

    assert together == [ACCEPTED, CONFLICT]
    assert later is CONFLICT
    assert [each.digest for each in await leading.runs.updates("run-a", 1)] == ["one"]


async def test_an_update_after_the_close_is_late_but_a_repeated_one_is_a_duplicate(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    await inbox.accept(request_of("a"))
    await leading.runs.close_round(leading.lease, 1, "why")

    assert await inbox.accept(request_of("b")) is LATE
    assert await inbox.accept(request_of("a")) is DUPLICATE
    assert await inbox.accept(request_of("a", digest="other")) is CONFLICT


async def test_an_update_for_a_run_that_has_ended_is_late(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    await leading.runs.finish(leading.lease, "stopped", "asked")

    assert await inbox.accept(request_of("a")) is LATE


@pytest.mark.parametrize(
    "request_", [request_of("x"), request_of("a", round_=2), request_of("a", run_id="run-x")]
)
async def test_an_update_nobody_asked_for_is_not_assigned(
    leading: Leading, inbox: UpdateInbox, request_: object
) -> None:
    await leading.open(evaluate=["x"])

    assert await inbox.accept(request_) is AcceptOutcome.NOT_ASSIGNED  # type: ignore[arg-type]
    assert await leading.runs.updates("run-a", 1) == []


async def test_a_client_that_failed_and_came_back_is_counted(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    await leading.runs.fail_assignment("run-a", 1, "a", "train", state="failed", reason="lost")

    assert await inbox.accept(request_of("a")) is ACCEPTED

    first = (await leading.runs.assignments("run-a", 1))[0]
    assert (first.state, first.reason) == ("reported", None)


async def extend(leading: Leading, *clients: str) -> None:
    await leading.runs.extend_round(
        leading.lease, round=1, deadline_seconds=60.0, clients=[(each, 1) for each in clients]
    )


async def restart(leading: Leading, *clients: str) -> None:
    await leading.runs.restart_round(
        leading.lease,
        round=1,
        deadline_seconds=60.0,
        clients=[(each, 1) for each in clients],
        reason="no sum",
    )


@pytest.mark.parametrize("ask_again", [extend, restart])
async def test_an_update_for_another_attempt_is_overtaken_and_the_client_is_still_asked(
    leading: Leading, inbox: UpdateInbox, ask_again: Callable[..., Awaitable[None]]
) -> None:
    await leading.open()
    await ask_again(leading, "a", "b")

    for attempt in (0, 1, 3):
        assert await inbox.accept(request_of("a", attempt=attempt)) is AcceptOutcome.OVERTAKEN
    assert await leading.runs.updates("run-a", 1) == []
    assert (await leading.runs.assignments("run-a", 1))[0].state == "assigned"
    assert await inbox.accept(request_of("a", attempt=2)) is ACCEPTED
    # What stands is told whatever it is asked with: its sender may not have heard.
    assert await inbox.accept(request_of("a", attempt=1)) is DUPLICATE
    assert await inbox.accept(request_of("a", attempt=1, digest="other")) is CONFLICT


async def test_who_was_not_asked_anew_by_an_extension_is_counted_as_before(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    await extend(leading, "b")

    assert await inbox.accept(request_of("a", attempt=1)) is ACCEPTED


async def test_who_was_left_out_when_the_round_began_anew_is_not_counted(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    await restart(leading, "b", "c")

    assert await inbox.accept(request_of("a", attempt=1)) is AcceptOutcome.NOT_ASSIGNED
    assert await leading.runs.updates("run-a", 1) == []


@pytest.mark.parametrize("ask_again", [extend, restart])
async def test_a_failure_of_another_attempt_ends_nothing(
    leading: Leading, ask_again: Callable[..., Awaitable[None]]
) -> None:
    await leading.open()
    await ask_again(leading, "a", "b")

    async def fail(attempt: int | None) -> bool:
        return await leading.runs.fail_assignment(
            "run-a", 1, "a", "train", state="failed", reason="oom", attempt=attempt
        )

    assert [await fail(attempt) for attempt in (0, 1, 3)] == [False] * 3
    assert (await leading.runs.assignments("run-a", 1))[0].state == "assigned"
    assert await fail(2)


async def test_find_train_task_tells_task_round_and_update(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()

    before = await leading.runs.find_train_task("run-a", 1, "a")
    await inbox.accept(request_of("a"))
    after = await leading.runs.find_train_task("run-a", 1, "a")

    assert before is not None
    assert (before.state, before.stage, before.accepted_digest) == ("assigned", "collecting", None)
    assert after == replace(before, state="reported", accepted_digest="update-a")
    assert await leading.runs.find_train_task("run-a", 1, "x") is None


async def test_updates_of_several_runs_and_rounds_are_taken_together(
    leading: Leading, inbox: UpdateInbox, reached: list[str]
) -> None:
    runs = leading.runs
    await leading.play(1)
    await leading.open(2)
    await runs.create(new_run("run-b"))
    lease = await runs.acquire_lease("run-b", "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    await Leading(runs, lease).open(evaluate=["a"])
    reached.clear()

    outcomes = await asyncio.gather(
        inbox.accept(request_of("b", round_=2)),
        inbox.accept(request_of("a", run_id="run-b")),
        inbox.accept_evaluation("run-b", 0, "a", 9, {"accuracy": 0.5}),
        inbox.accept(request_of("a", round_=1)),
        inbox.accept(request_of("a", round_=2)),
        inbox.accept_evaluation("run-b", 0, "b", 9, {}),
    )

    assert outcomes == [ACCEPTED, ACCEPTED, True, LATE, ACCEPTED, False]
    assert reached.count("storage.inbox.commit.before") == 1
    assert [each.client_id for each in await runs.updates("run-a", 2)] == ["a", "b"]
    assert [each.examples for each in await runs.evaluations("run-b", 0)] == [9]


async def test_a_batch_has_a_limit(
    database: DatabaseManager, leading: Leading, reached: list[str]
) -> None:
    clients = [f"c{n}" for n in range(7)]
    await leading.open(clients=clients)
    inbox = UpdateInbox(database, batch_limit=3)
    await inbox.start()
    reached.clear()

    outcomes = await asyncio.gather(*(inbox.accept(request_of(client)) for client in clients))
    await inbox.close()

    assert outcomes == [ACCEPTED] * 7
    assert reached.count("storage.inbox.commit.after") == 3


async def test_what_is_acknowledged_is_committed(
    leading: Leading, inbox: UpdateInbox, reached: list[str]
) -> None:
    await leading.open()
    reached.clear()

    await inbox.accept(request_of("a"))

    assert reached == ["storage.inbox.commit.before", "storage.inbox.commit.after"]


async def test_one_bad_request_does_not_hurt_the_others(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    bad = replace(request_of("b"), metrics={"loss": float("nan")})
    unfit = replace(request_of("b"), digest="a\x00b", examples=2**80)

    outcomes = await asyncio.gather(
        inbox.accept(request_of("a")),
        inbox.accept(bad),
        inbox.accept(unfit),
        inbox.accept(request_of("c")),
        return_exceptions=True,
    )

    assert outcomes[0] is outcomes[3] is ACCEPTED
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[2], (StorageError, OverflowError))
    assert [each.client_id for each in await leading.runs.updates("run-a", 1)] == ["a", "c"]


async def test_a_database_that_is_gone_is_told_to_each_caller(database_url: str) -> None:
    database = DatabaseManager(database_url)
    inbox = UpdateInbox(database)
    await inbox.start()

    outcomes = await asyncio.gather(
        *(inbox.accept(request_of(name)) for name in ("a", "b")), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [StorageError, StorageError]
    await inbox.close()


async def test_closing_commits_what_waits(database: DatabaseManager, leading: Leading) -> None:
    await leading.open()
    inbox = UpdateInbox(database)
    await inbox.start()
    await inbox.start()

    waiting = [asyncio.create_task(inbox.accept(request_of(name))) for name in ("a", "b")]
    await asyncio.sleep(0)
    await inbox.close()
    await inbox.close()

    assert await asyncio.gather(*waiting) == [ACCEPTED, ACCEPTED]
    with pytest.raises(StorageError, match="inbox must be open"):
        await inbox.accept(request_of("c"))


async def test_a_closed_inbox_opens_again(database: DatabaseManager, leading: Leading) -> None:
    await leading.open()
    inbox = UpdateInbox(database)
    for name in ("a", "b"):
        await inbox.start()
        assert await inbox.accept(request_of(name)) is ACCEPTED
        await inbox.close()


async def test_a_caller_that_gave_up_before_its_turn_is_not_counted(
    database: DatabaseManager, leading: Leading
) -> None:
    await leading.open()
    inbox = UpdateInbox(database)
    await inbox.start()

    given_up = asyncio.create_task(inbox.accept(request_of("a")))
    await asyncio.sleep(0)
    given_up.cancel()
    outcome = await inbox.accept(request_of("b"))
    await inbox.close()

    assert outcome is ACCEPTED
    assert given_up.cancelled()
    assert [each.client_id for each in await leading.runs.updates("run-a", 1)] == ["b"]


async def test_a_batch_of_callers_that_gave_up_commits_nothing(
    leading: Leading, inbox: UpdateInbox, reached: list[str]
) -> None:
    await leading.open()
    reached.clear()

    given_up = asyncio.create_task(inbox.accept(request_of("a")))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    await inbox.close()

    assert reached == []


async def test_a_caller_that_gives_up_during_the_commit_does_no_harm(
    leading: Leading, inbox: UpdateInbox
) -> None:
    await leading.open()
    tasks: list[asyncio.Task[AcceptOutcome]] = []

    def give_up(name: str) -> None:
        if name == "storage.inbox.commit.before":
            tasks[0].cancel()

    failpoints.install(give_up)
    try:
        tasks.append(asyncio.create_task(inbox.accept(request_of("a"))))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await inbox.accept(request_of("a")) is DUPLICATE
    finally:
        failpoints.install(None)


async def test_a_writer_that_is_cancelled_leaves_nobody_waiting(
    database: DatabaseManager, leading: Leading
) -> None:
    await leading.open()
    inbox = UpdateInbox(database, batch_limit=1)
    await inbox.start()
    writer = inbox._writer
    assert writer is not None

    def cancel(name: str) -> None:
        if name == "storage.inbox.commit.before":
            writer.cancel()

    failpoints.install(cancel)
    try:
        waiting = [asyncio.create_task(inbox.accept(request_of(name))) for name in ("a", "b")]
        await asyncio.wait(waiting)
    finally:
        failpoints.install(None)

    # Whether the first was counted nobody has been told; the second was not.
    assert [task.cancelled() for task in waiting] == [True, True]
    assert {each.client_id for each in await leading.runs.updates("run-a", 1)} <= {"a"}


async def test_a_writer_that_is_cancelled_amid_a_batch_that_failed_leaves_nobody_waiting(
    database: DatabaseManager, leading: Leading
) -> None:
    await leading.open()
    inbox = UpdateInbox(database)
    await inbox.start()
    commits: list[str] = []

    def fail_then_cancel(name: str) -> None:
        if name == "storage.inbox.commit.before":
            commits.append(name)
            if len(commits) == 1:
                raise StorageError("the whole batch fails")
            assert inbox._writer is not None
            inbox._writer.cancel()

    failpoints.install(fail_then_cancel)
    try:
        waiting = [asyncio.create_task(inbox.accept(request_of(name))) for name in ("a", "b")]
        async with asyncio.timeout(30):
            await asyncio.wait(waiting)
    finally:
        failpoints.install(None)

    assert [task.cancelled() for task in waiting] == [True, True]


async def test_an_inbox_whose_writer_has_ended_says_so_and_takes_no_more(
    database: DatabaseManager, leading: Leading
) -> None:
    await leading.open()
    inbox = UpdateInbox(database)
    await inbox.ended()
    await inbox.start()
    ended = asyncio.create_task(inbox.ended())
    assert inbox._writer is not None

    inbox._writer.cancel()
    await asyncio.wait({ended})

    assert ended.cancelled()
    with pytest.raises(StorageError, match="after its end"):
        await inbox.accept(request_of("a"))
    await inbox.close()


def test_an_empty_batch_is_refused(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="batch_limit must be at least 1"):
        UpdateInbox(DatabaseManager(f"sqlite:///{tmp_path}/a.db"), batch_limit=0)


async def test_what_is_acknowledged_is_in_the_sum(
    database: DatabaseManager, database_url: str, leading: Leading
) -> None:
    """Two replicas accept while the leader closes: the acknowledged are exactly the closed."""
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    clients = [f"c{n:02}" for n in range(24)]
    other = DatabaseManager(database_url)
    await other.connect()
    inboxes = [UpdateInbox(each, batch_limit=4) for each in (database, other)]
    for inbox in inboxes:
        await inbox.start()
    seen: list[int] = []
    for number in range(1, 9):
        await leading.open(number, clients=clients)
        enough = int(generator.integers(0, len(clients)))
        acknowledged: list[str] = []
        closing = asyncio.Event()

        async def deliver(
            client: str, number: int, acknowledged: list[str], closing: asyncio.Event, enough: int
        ) -> None:
            # Each update is delivered twice, to both replicas, as after a lost acknowledgement.
            outcomes = await asyncio.gather(
                *(inbox.accept(request_of(client, round_=number)) for inbox in inboxes)
            )
            if ACCEPTED in outcomes:
                acknowledged.append(client)
            assert outcomes.count(ACCEPTED) <= 1
            if len(acknowledged) >= enough:
                closing.set()

        deliveries = [
            asyncio.create_task(deliver(client, number, acknowledged, closing, enough))
            for client in generator.permutation(clients).tolist()
        ]
        await closing.wait()
        updates = await leading.runs.close_round(leading.lease, number, "enough")
        await asyncio.gather(*deliveries)

        assert sorted(acknowledged) == [update.client_id for update in updates]
        assert updates == await leading.runs.updates("run-a", number)
        seen.append(len(updates))
        await leading.publish(number)
    for inbox in inboxes:
        await inbox.close()
    await other.close()

    assert max(seen) > 0


async def test_two_deliveries_of_one_update_to_two_replicas_follow_one_another(
    database: DatabaseManager, database_url: str, leading: Leading
) -> None:
    await leading.open()
    other = DatabaseManager(database_url)
    await other.connect()

    async def deliver_again() -> list[AcceptOutcome]:
        async with other.transaction() as connection:
            return await accept_updates(connection, [request_of("a")])

    async with database.transaction() as connection:
        first = await accept_updates(connection, [request_of("a")])
        again = asyncio.create_task(deliver_again())
        done, _ = await asyncio.wait([again], timeout=0.2)
        assert not done

    assert (first, await again) == ([ACCEPTED], [DUPLICATE])
    await other.close()


@pytest.mark.parametrize("has_failed", [False, True])
async def test_closing_waits_for_an_acceptance_that_has_begun(
    database: DatabaseManager, database_url: str, leading: Leading, has_failed: bool
) -> None:
    await leading.open()
    if has_failed:
        # Then closing has nothing to do with the client's assignment, only with the round.
        await leading.runs.fail_assignment("run-a", 1, "a", "train", state="failed", reason="lost")
    other = DatabaseManager(database_url)
    await other.connect()
    replica = RunRepository(other)

    async with database.transaction() as connection:
        await accept_updates(connection, [request_of("a")])
        closing = asyncio.create_task(replica.close_round(leading.lease, 1, "why"))
        done, _ = await asyncio.wait([closing], timeout=0.2)
        assert not done

    assert [update.client_id for update in await closing] == ["a"]
    await other.close()


async def test_five_hundred_at_once_are_two_commits_at_most(
    leading: Leading, inbox: UpdateInbox, reached: list[str]
) -> None:
    clients = [f"c{n}" for n in range(500)]
    await leading.open(clients=clients)
    reached.clear()

    outcomes = await asyncio.gather(*(inbox.accept(request_of(client)) for client in clients))

    assert set(outcomes) == {ACCEPTED}
    assert reached.count("storage.inbox.commit.after") <= 2


async def test_a_foreign_run_in_the_same_batch_is_locked_for_itself(
    leading: Leading, inbox: UpdateInbox, database: DatabaseManager
) -> None:
    await leading.open()
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE rounds SET stage = 'closed' WHERE round = 1"))

    assert await inbox.accept(request_of("a")) is LATE
