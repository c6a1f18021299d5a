"""Updates that are on their way while their round begins another attempt, over real mutual TLS.

Each is brought whole, and its round goes on to the next attempt before it is counted.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import StorageError
from kumiai.identity import Role
from kumiai.node.client.budget import read_copy
from kumiai.node.coordinator.intake import FinishedUpdate, IntakeResult, UpdateIntake
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, PROTOCOL_VERSION
from kumiai.privacy.ledger import ChargeKey
from kumiai.storage import AcceptOutcome, RunRepository
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job
from tests.integration.test_refusals import channel, held_run, put, update

MODES = {
    "open": {"mode": "none"},
    "masked": {"mode": "masking", "value_bits": 5, "clip": 15.0},
    "encrypted": {"mode": "paillier", "key_bits": 2048, "value_bits": 20},
}
AHEAD: dict[str, Any] = {"asynchronous": {"group_size": 3}, "evaluation": {"every": 0}}
CENTRAL: dict[str, Any] = {
    "privacy": {
        "unit": "client",
        "noise": "central",
        "clip": 1.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
    },
    "evaluation": {"every": 0},
}
TOLD_OF_TROUBLE = {"train_failed", "train_refused", "prepare_failed", "prepare_late"}


@pytest.fixture
def site_settings() -> dict[str, Any]:
    return {"accepts_paillier": True}


async def until_overtaken(
    federation: Federation, runs: RunRepository, run_id: str, attempt: int
) -> None:
    """Return once the first round has begun the attempt after this one."""

    def let_deadline_pass() -> None:
        with closing(sqlite3.connect(federation.folder / "kumiai.db", timeout=30)) as database:
            database.execute(
                "UPDATE rounds SET deadline_at = 0 WHERE round = 1 AND attempt = ?", [attempt]
            )
            database.commit()

    await asyncio.to_thread(let_deadline_pass)
    await eventually(lambda: runs.round(run_id, 1), lambda now: now.attempt > attempt)


class Overtaking:
    """Holds every update of a first attempt, whole, until its round has begun the second."""

    def __init__(self, federation: Federation, runs: RunRepository) -> None:
        self._federation = federation
        self._runs = runs
        self._finish = UpdateIntake.finish
        self.became: list[tuple[str, AcceptOutcome | None]] = []
        self.on_overtaken: list[Exception] = []

    async def finish(self, intake: UpdateIntake, update: FinishedUpdate) -> IntakeResult:
        if update.attempt > 1:
            return await self._finish(intake, update)
        await until_overtaken(self._federation, self._runs, update.run_id, attempt=1)
        if self.on_overtaken:
            raise self.on_overtaken[0]
        result = await self._finish(intake, update)
        self.became.append((update.client_id, result.outcome))
        return result


@pytest.fixture
def overtaking(
    federation: Federation, runs: RunRepository, monkeypatch: pytest.MonkeyPatch
) -> Overtaking:
    made = Overtaking(federation, runs)

    async def finish(self: UpdateIntake, update: FinishedUpdate) -> IntakeResult:
        return await made.finish(self, update)

    monkeypatch.setattr(UpdateIntake, "finish", finish)
    return made


def one_round(mode: str, *, max_attempts: int = 2, **tables: Any) -> dict[str, Any]:
    cohort = {"min_reports": 3, "max_attempts": max_attempts, "grace_seconds": 60}
    if "asynchronous" not in tables:
        cohort["size"] = 3
    return job(run={"rounds": 1}, cohort=cohort, secure_aggregation=MODES[mode], **tables)


async def assert_nothing_was_lost(
    federation: Federation, runs: RunRepository, run_id: str, *, attempts_max: int = 2
) -> None:
    """Check that the second attempt made the model of all three, and nobody was blamed."""
    attempt = (await runs.round(run_id, 1)).attempt
    assert 2 <= attempt <= attempts_max
    rows = [each for each in await runs.assignments(run_id, 1) if each.kind == "train"]
    assert [(each.state, each.attempt) for each in rows] == [("reported", attempt)] * 3
    assert len(await runs.updates(run_id, 1)) == 3
    events = await runs.events(run_id, limit=1000)
    assert [each.text for each in events if each.kind in TOLD_OF_TROUBLE] == []
    async with federation.http() as http:
        excluded = await http.get("/api/v1/audit?act=client.excluded")
    assert excluded.json()["entries"] == []


@pytest.mark.parametrize(
    ("mode", "tables"),
    [("open", {}), ("masked", {}), ("encrypted", {}), ("open", AHEAD), ("masked", AHEAD)],
)
async def test_an_update_whose_round_begins_anew_before_it_counts_goes_into_the_new_attempt(
    federation: Federation,
    runs: RunRepository,
    overtaking: Overtaking,
    mode: str,
    tables: dict[str, Any],
) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(one_round(mode, **tables), study.app)
    await federation.wait_for(run_id, seconds=120)

    assert overtaking.became
    assert {outcome for _, outcome in overtaking.became} == {AcceptOutcome.OVERTAKEN}
    await assert_nothing_was_lost(federation, runs, run_id)
    np.testing.assert_allclose((await federation.model(run_id))["w"], np.full(8, 2.0), atol=1e-3)


async def test_a_clipped_update_is_paid_for_once_however_often_its_round_asks(
    federation: Federation, runs: RunRepository, overtaking: Overtaking
) -> None:
    await federation.start_clients(3)

    run_id = await federation.submit(one_round("open", **CENTRAL), study.app)
    await federation.wait_for(run_id, seconds=120)

    assert [outcome for _, outcome in overtaking.became] == [AcceptOutcome.OVERTAKEN] * 3
    await assert_nothing_was_lost(federation, runs, run_id)
    for agent in federation.agents.values():
        (charge,) = read_copy(agent._ledger.export()).charges
        assert charge.key == ChargeKey(run_id, 1, 1)


@pytest.mark.parametrize("tables", [{}, AHEAD], ids=["together", "ahead"])
@pytest.mark.parametrize("mode", ["open", "masked"])
async def test_an_update_that_comes_again_to_a_coordinator_that_has_gone_on_is_sent_anew(
    federation: Federation,
    runs: RunRepository,
    overtaking: Overtaking,
    mode: str,
    tables: dict[str, Any],
) -> None:
    overtaking.on_overtaken = [StorageError("the disk is full")]
    await federation.start_clients(3)

    run_id = await federation.submit(one_round(mode, **tables), study.app)
    await federation.wait_for(run_id, seconds=120)

    await assert_nothing_was_lost(federation, runs, run_id)
    np.testing.assert_allclose((await federation.model(run_id))["w"], np.full(8, 2.0), atol=1e-3)


@pytest.mark.parametrize("who", ["coordinator", "site-3"])
@pytest.mark.parametrize("mode", ["open", "masked"])
async def test_a_restart_amid_the_overtaken_upload_loses_nothing(
    federation: Federation,
    runs: RunRepository,
    overtaking: Overtaking,
    mode: str,
    who: str,
) -> None:
    await federation.start_clients(3)
    # Who goes as its keys are awaited costs an attempt.
    run_id = await federation.submit(one_round(mode, max_attempts=4), study.app)
    await eventually(lambda: overtaking.became)

    if who == "coordinator":
        assert federation.server is not None
        await federation.server.stop()
        await federation.start()
    else:
        await federation.stop_client(who)
        federation.start_client(who, data={"number": 3})
    await federation.wait_for(run_id, seconds=120)

    await assert_nothing_was_lost(federation, runs, run_id, attempts_max=4)
    np.testing.assert_allclose((await federation.model(run_id))["w"], np.full(8, 2.0), atol=1e-3)


async def test_who_asks_with_another_attempt_is_told_which_one_is_asked_for(
    federation: Federation,
) -> None:
    run_id = await held_run(federation)
    body, fields = update()
    issued = federation.certificates["site-1"]
    header = pb.PutHeader(run_id=run_id, round=1, **{**fields, "attempt": 2})

    told = await put(federation, issued, header, body)

    assert (told.outcome, told.attempt) == (pb.PUT_OUTCOME_OVERTAKEN, 1)
    assert told.reason == "attempt must be 1, got 2"


async def test_each_attempt_may_begin_as_many_updates_as_the_first(
    federation: Federation, runs: RunRepository
) -> None:
    run_id = await held_run(federation)
    issued, told = federation.certificates["site-1"], list[tuple[int, int]]()

    async def begin(value: float, attempt: int) -> int:
        body, fields = update(value)
        header = pb.PutHeader(run_id=run_id, round=1, **{**fields, "attempt": attempt})
        return (await put(federation, issued, header, body[:10])).outcome

    for attempt in (1, 2):
        told += [(attempt, await begin(attempt * 10 + value, attempt)) for value in range(5)]
        await until_overtaken(federation, runs, run_id, attempt)

    begun = [(attempt, pb.PUT_OUTCOME_RESUME) for attempt in (1, 2) for _ in range(4)]
    refused = [(attempt, pb.PUT_OUTCOME_REFUSED) for attempt in (1, 2)]
    assert told == [*begun[:4], refused[0], *begun[4:], refused[1]]


async def test_a_failure_of_another_attempt_leaves_the_site_its_task(
    federation: Federation, runs: RunRepository
) -> None:
    run_id = await held_run(federation)
    await federation.stop_client("site-1")
    key = pb.TaskKey(run_id=run_id, round=1, kind=pb.TASK_KIND_TRAIN)
    hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="one", apps=["counting"])

    async with channel(federation, federation.certificates["site-1"]) as wire:
        call = wire.stream_stream(ATTACH)()
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        failure = pb.TaskFailure(key=key, attempt=2, reason="overtaken")
        await call.write(pb.ClientMessage(failure=failure).SerializeToString())
        await _receipt(call)
        (row,) = await runs.assignments(run_id, 1)
        assert row.state == "assigned"
        failure = pb.TaskFailure(key=key, attempt=1, reason="no data")
        await call.write(pb.ClientMessage(failure=failure).SerializeToString())
        await _receipt(call)

    told = [each for each in await runs.events(run_id) if each.kind == "train_failed"]
    assert [each.text for each in told] == ["no data"]


@pytest.mark.parametrize("attempt", [0, 2**32 - 1])
async def test_an_attempt_that_cannot_be_is_no_trouble_of_the_database(
    tmp_path: Path, database_url: str, attempt: int
) -> None:
    federation = Federation(tmp_path, database_url)
    await federation.start()
    key = pb.TaskKey(run_id="run-a", round=1, kind=pb.TASK_KIND_TRAIN)
    hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="one", apps=["counting"])

    async with channel(federation, federation.issue(Role.CLIENT, "site-1")) as wire:
        call = wire.stream_stream(ATTACH)()
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        failure = pb.TaskFailure(key=key, attempt=attempt, reason="no reason")
        await call.write(pb.ClientMessage(failure=failure).SerializeToString())
        receipt = await _receipt(call)

    assert not receipt.accepted
    assert receipt.reason == f"attempt of round 1 of run run-a must exist, got {attempt}"
    await federation.stop()


async def _receipt(call: Any) -> pb.Receipt:
    async with asyncio.timeout(30):
        while True:
            message = pb.ServerMessage.FromString(await call.read())
            if message.HasField("receipt"):
                return message.receipt
