import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager
from tests.node.http.api import (
    Certificates,
    Message,
    RunningApi,
    error_of,
    messages_of,
    running_api,
)


@contextlib.asynccontextmanager
async def following(
    api: RunningApi, run_id: str, *, query: str = "", last_event_id: str | None = None
) -> AsyncIterator[AsyncIterator[Message]]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with asyncio.timeout(30):
        async with api.operator.stream(
            "GET", f"/api/v1/runs/{run_id}/stream{query}", headers=headers
        ) as answer:
            assert answer.status_code == 200
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            yield messages_of(answer.aiter_lines())


async def next_of(messages: AsyncIterator[Message], kind: str) -> Message:
    async for message in messages:
        if message.kind == kind:
            return message
    raise AssertionError(f"the stream ended without {kind}")


async def test_a_stream_tells_every_event_as_it_comes_and_ends_with_the_run(
    api: RunningApi,
) -> None:
    run_id = await api.submit()

    async with following(api, run_id) as messages:
        first = await next_of(messages, "event")
        lease = await api.lead(run_id)
        await api.open_round(lease, 1, ["a"])
        await api.runs.finish(lease, "failed", "the quorum was lost", end_kind="quorum_lost")
        rest = [message async for message in messages]

    assert first.data["kind"] == "run_submitted"
    kinds = [message.data["kind"] for message in rest if message.kind == "event"]
    assert kinds == ["leader_changed", "run_started", "round_opened", "run_failed"]
    end = {"state": "failed", "reason": "the quorum was lost", "end_kind": "quorum_lost"}
    assert rest[-1] == Message("end", end, None)
    numbers = [int(message.number) for message in rest if message.number is not None]
    assert numbers == sorted(set(numbers))


async def test_a_stream_that_broke_goes_on_after_the_last_event_seen(api: RunningApi) -> None:
    run_id = await api.submit()
    lease = await api.lead(run_id)
    async with following(api, run_id) as messages:
        seen = await next_of(messages, "event")
    await api.runs.finish(lease, "finished", "done")

    async with following(api, run_id, last_event_id=seen.number) as messages:
        again = [message async for message in messages]
    async with following(api, run_id, query=f"?after={seen.number}") as messages:
        asked = [message async for message in messages]
    async with following(api, run_id, query="?after=0", last_event_id=seen.number) as messages:
        both = [message async for message in messages]

    kinds = [message.data["kind"] for message in again if message.kind == "event"]
    assert kinds == ["leader_changed", "run_started", "run_finished"]
    assert again == asked == both


async def test_many_events_come_in_one_go(api: RunningApi) -> None:
    run_id = await api.submit()
    lease = await api.lead(run_id)
    for number in range(510):
        await api.runs.add_event(run_id, kind="note", text=str(number))
    await api.runs.finish(lease, "finished", "done")

    async with following(api, run_id) as messages:
        texts = [
            message.data["text"] async for message in messages if message.data.get("kind") == "note"
        ]

    assert texts == [str(number) for number in range(510)]


async def test_progress_is_told_when_it_changes_and_only_then(api: RunningApi) -> None:
    run_id = await api.submit()
    lease = await api.lead(run_id)
    session = api.attach("a", phase="round 1: computing")
    api.attach("b", apps=("other",))
    await api.open_round(lease, 1, ["a", "b"])

    async with following(api, run_id) as messages:
        first = await next_of(messages, "progress")
        session.phase = "round 1: uploading"
        second = await next_of(messages, "progress")
        await api.runs.fail_assignment(run_id, 1, "b", "train", state="failed", reason="no data")
        third = await next_of(messages, "progress")
        await api.runs.finish(lease, "stopped", "enough")
        rest = [message async for message in messages]

    assert first.data["round"] == 1
    assert first.data["rounds_total"] == 3
    assert first.data["stage"] == "collecting"
    assert first.data["counts"]["assigned"] == 2
    assert first.data["phases"] == {"a": "round 1: computing"}
    assert second.data["phases"] == {"a": "round 1: uploading"}
    assert third.data["counts"] == {
        "assigned": 1, "reported": 0, "failed": 1, "refused": 0, "late": 0,
    }  # fmt: skip
    assert len([message for message in rest if message.kind == "progress"]) == 1
    assert first.number is None


async def test_a_silent_stream_shows_that_it_lives(api: RunningApi) -> None:
    run_id = await api.submit()

    async with api.operator.stream("GET", f"/api/v1/runs/{run_id}/stream") as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(30):
            async for line in lines:
                if line.startswith("event: progress"):
                    break
            api.clock.shift = 11.0
            comments = [line async for line in _until_comment(lines)]

    assert comments[-1].startswith(":")
    assert not any(line.startswith("event:") for line in comments)


async def _until_comment(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if line.startswith(":"):
            return


async def test_a_stream_ends_when_its_readers_certificate_no_longer_holds(
    api: RunningApi,
) -> None:
    run_id = await api.submit()

    async with following(api, run_id) as messages:
        await next_of(messages, "progress")
        api.clock.shift = 400 * 86_400.0
        rest = [message async for message in messages]

    assert [message for message in rest if message.kind == "end"] == []


async def test_a_stream_whose_database_fails_is_cut_off_without_an_end(
    api: RunningApi, database: DatabaseManager
) -> None:
    run_id = await api.submit()

    async with following(api, run_id) as messages:
        await next_of(messages, "progress")
        await database.close()
        rest = [message async for message in messages]

    assert [message for message in rest if message.kind == "end"] == []
    with pytest.raises(StorageError):
        await database.check()


async def test_streams_are_limited_and_a_closed_one_makes_room(
    certificates: Certificates, database: DatabaseManager, tmp_path: Path
) -> None:
    async with running_api(certificates, database, tmp_path, stream_count_max=1) as api:
        run_id = await api.submit()
        async with following(api, run_id) as messages:
            await next_of(messages, "progress")
            refused = await api.operator.get(f"/api/v1/runs/{run_id}/stream")
        async with asyncio.timeout(30):
            while api.app.state.streams.count:
                await asyncio.sleep(0.005)
        async with following(api, run_id) as messages:
            again = await next_of(messages, "event")

    assert error_of(refused)[:2] == (409, "conflict")
    assert again.data["kind"] == "run_submitted"


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 30])
async def test_an_odd_last_event_id_is_refused(api: RunningApi, number: str) -> None:
    run_id = await api.submit()

    answer = await api.operator.get(
        f"/api/v1/runs/{run_id}/stream", headers={"Last-Event-ID": number}
    )

    assert error_of(answer)[:2] == (422, "config")
