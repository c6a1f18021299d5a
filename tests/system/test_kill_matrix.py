"""The kill matrix: whoever is killed, wherever, the run ends as if nobody had been.

Each case kills one process with SIGKILL at a named point and starts it again, as a service manager
does. Afterwards the rows and the disk must be the same as after a run in which nobody was killed:
the same rounds on the same models, the same updates counted once, the same bits, nothing left
lying about. The run's numbers are such that each mistake changes the bits (see ``study``).
"""

import asyncio
import importlib
import re
import signal
from collections.abc import Callable, Iterable

import pytest
from _pytest.mark import ParameterSet

from kumiai.testing.crash import parse
from tests.meta.repository import ROOT
from tests.system import study
from tests.system.conftest import JOB, Undisturbed
from tests.system.federation import SITES, Federation, Mortal, attempts_of, trace_of

# Others cover what it repeats, and to be watched would double its time.
pytestmark = pytest.mark.no_cover

Note = Callable[[str, Mortal], None]

SECONDS = 90.0
"""How long a case may take; most need two."""

OPENING = "coordinator.round.published:1"
ROUND = "coordinator.round.opened:2"
CLOSED = "coordinator.round.closed:2"
LAST = "coordinator.evaluation.opened"

COORDINATOR_DEATHS = [
    # A client registers; the initial model and the run are taken in; the run gets its leader.
    "storage.attach.commit.before",
    "storage.attach.commit.after",
    "storage.blob.rename.before",
    "storage.blob.rename.after",
    "storage.create.commit.before",
    "storage.create.commit.after",
    "storage.acquire_lease.commit.before",
    "storage.acquire_lease.commit.after",
    "storage.start.commit.before",
    "storage.start.commit.after",
    # Round 2 opens: the cohort is written down, then told.
    f"{OPENING}>storage.open_round.commit.before",
    f"{OPENING}>storage.open_round.commit.after",
    f"{ROUND}",
    f"{ROUND}>coordinator.round.delivered",
    f"{ROUND}>coordinator.model.get:2",
    # An update arrives, is made durable, is checked, is counted, is acknowledged.
    f"{ROUND}>storage.blob.write.before",
    f"{ROUND}>storage.blob.write.after",
    f"{ROUND}>storage.blob.sync.before",
    f"{ROUND}>storage.blob.sync.after",
    f"{ROUND}>storage.blob.rename.before",
    f"{ROUND}>storage.blob.rename.after",
    f"{ROUND}>coordinator.update.spooled",
    f"{ROUND}>coordinator.update.checked",
    f"{ROUND}>coordinator.update.checked>storage.inbox.commit.before",
    f"{ROUND}>coordinator.update.checked>storage.inbox.commit.after",
    f"{ROUND}>coordinator.update.accepted",
    f"{ROUND}>coordinator.update.before_ack",
    f"{ROUND}>coordinator.update.before_ack:3",
    # The round closes.
    "coordinator.round.before_close:2",
    "storage.close_round.commit.before:2",
    "storage.close_round.commit.after:2",
    f"{CLOSED}",
    # The next model is made: its blob first, then that of the strategy's state.
    f"{CLOSED}>storage.blob.write.before",
    f"{CLOSED}>storage.blob.write.after",
    f"{CLOSED}>storage.blob.sync.before",
    f"{CLOSED}>storage.blob.sync.after",
    f"{CLOSED}>storage.blob.rename.before",
    f"{CLOSED}>storage.blob.rename.after",
    f"{CLOSED}>storage.blob.rename.before:2",
    f"{CLOSED}>storage.blob.rename.after:2",
    "coordinator.round.aggregated:2",
    # What the clients found for the model before is averaged; the new model is published.
    "storage.close_evaluation.commit.before:2",
    "storage.close_evaluation.commit.after:2",
    "storage.record_evaluation.commit.before:2",
    "storage.record_evaluation.commit.after:2",
    "coordinator.evaluation.recorded:2",
    "storage.publish_round.commit.before:2",
    "storage.publish_round.commit.after:2",
    "coordinator.round.published:2",
    # The last model is measured, and the run ends.
    "coordinator.round.published:3",
    "storage.open_evaluation.commit.before",
    "storage.open_evaluation.commit.after",
    f"{LAST}",
    f"{LAST}>storage.inbox.commit.before",
    f"{LAST}>storage.inbox.commit.after",
    f"{LAST}>storage.close_evaluation.commit.before",
    f"{LAST}>storage.close_evaluation.commit.after",
    f"{LAST}>storage.record_evaluation.commit.before",
    f"{LAST}>storage.record_evaluation.commit.after",
    "coordinator.run.before_finish",
    "storage.finish.commit.before",
    "storage.finish.commit.after",
    "coordinator.run.finished",
]

WITH_A_SLOW_CLIENT = {
    "storage.mark_quorum.commit.before": {"min_reports": 2},
    "storage.mark_quorum.commit.after": {"min_reports": 2},
    "storage.extend_round.commit.before": {"deadline_seconds": 1.0, "max_attempts": 100},
    "storage.extend_round.commit.after": {"deadline_seconds": 1.0, "max_attempts": 100},
}

WITH_A_LEAVING_CLIENT = ["storage.detach.commit.before", "storage.detach.commit.after"]

CLIENT_DEATHS = [
    # In round 2: the first round's acknowledgement lies behind.
    "client.hello.sent",
    "client.update.acknowledged>client.task.received",
    "client.update.acknowledged>client.task.received:2",
    "client.update.acknowledged>client.task.begun",
    "client.update.acknowledged>client.model.fetched",
    "client.update.acknowledged>client.evaluation.done",
    "client.update.acknowledged>client.train.done",
    "client.update.acknowledged>client.update.header_sent",
    "client.update.acknowledged>client.update.sent",
    "client.update.acknowledged:2",
]

OUTSIDE_OF_A_ROUND = {
    "tests/storage/test_transaction_kills.py": {
        # A leader stays leader, and tells whose sum was wrong.
        "storage.renew_lease.commit",
        "storage.blame_groups.commit",
        # People describe, enter and delete; each is one transaction.
        "storage.update_run.commit",
        "storage.delete_run.commit",
        "storage.add_evaluations.commit",
        "storage.add_models.commit",
        "storage.update_model.commit",
        "storage.delete_model.commit",
        "storage.register_clients.commit",
        "storage.update_client.commit",
        "storage.delete_client.commit",
        # What is written late is led, applied together with its deletion, put off and taken up.
        "storage.outbox.lease.commit",
        "storage.outbox.apply.commit",
        "storage.outbox.failure.commit",
        "storage.outbox.parked.commit",
        # All that a cache holds is given up; a lock is taken.
        "storage.cache.claim.commit",
        "storage.cache.bump.commit",
        "storage.lock.acquire.commit",
        # What happened is recorded, signed, and made unreadable.
        "storage.audit_record.commit",
        "storage.audit_checkpoint.commit",
        "storage.audit_signer.commit",
        "storage.audit_redact.commit",
        # Sites are invited, join, and are let in or not.
        "storage.invite_site.commit",
        "storage.claim_enrolment.commit",
        "storage.approve_site.commit",
        "storage.keep_certificate.commit",
        "storage.change_site.commit",
        "storage.remove_site.commit",
        # Budgets are set, spent, frozen, brought in line and counted anew.
        "storage.charge_budget.commit",
        "storage.seal_budget.commit",
        "storage.set_budget.commit",
        "storage.freeze_budgets.commit",
        "storage.reconcile_budgets.commit",
        "storage.rebuild_budgets.commit",
        # Automation gets tokens.
        "storage.create_token.commit",
        "storage.revoke_token.commit",
        "storage.note_token_use.commit",
    },
    "tests/system/test_hidden_kills.py": {
        # Updates are hidden: each step of both sides is written down before it is told.
        "storage.open_secure_round.commit",
        "coordinator.secure.opened",
        "storage.append_secure_records.commit",
        "coordinator.secure.recorded",
        "storage.end_secure_round.commit",
        "storage.restart_round.commit",
        "client.secure.recorded",
        "client.secure.counted",
        "client.secure.before_send",
    },
    "tests/system/test_private_kills.py": {
        # Noise is added where the sum or the training is, and paid for once.
        "coordinator.central.noised",
        "client.central.paid",
        "client.private.kept",
        "client.private.charged",
    },
    "tests/system/test_asynchronous_kills.py": {
        # Clients train ahead, wait with what they made, and are taken in.
        "storage.prepare.commit",
        "coordinator.training.asked",
        "storage.report_prepared.commit",
        "storage.fail_overdue.commit",
        "storage.withdraw_prepared.commit",
        "client.update.held",
    },
    "tests/node/http/test_enrolment.py": {"client.join.answered", "client.join.saved"},
    "tests/storage/cache/test_outbox_kill.py": {
        "storage.outbox.append.commit",
        "storage.outbox.apply",
        "storage.outbox.settle.commit",
    },
    "tests/storage/test_s3_blobs.py": {
        "storage.blob.upload",
        "storage.blob.part.before",
        "storage.blob.cached.after",
    },
}
"""Which test kills at the points that no round reaches; without a side both of them are meant."""

_DATABASES = ("sqlite", "postgresql")


def on_databases(deaths: Iterable[str]) -> list[ParameterSet]:
    """Return each death with the databases to die on.

    Within a transaction it matters which; anywhere else one of them is enough from day to day, by
    turns, and `make chaos` takes the other.
    """
    return [
        pytest.param(
            death,
            database,
            marks=[] if ".commit." in death or (turn + place) % 2 else [pytest.mark.chaos],
            id=f"{database}-{death}",
        )
        for turn, death in enumerate(deaths)
        for place, database in enumerate(_DATABASES)
    ]


TWO_DEATHS = [
    (f"{ROUND}>storage.blob.write.after", "storage.acquire_lease.commit.after"),
    (f"{ROUND}>coordinator.update.before_ack", "coordinator.update.checked"),
    ("storage.close_round.commit.after:2", "coordinator.round.aggregated"),
    ("coordinator.round.aggregated:2", "storage.publish_round.commit.after"),
]


@pytest.mark.parametrize(
    ("death", "database_url"), on_databases(COORDINATOR_DEATHS), indirect=["database_url"]
)
async def test_a_killed_coordinator_goes_on_with_the_same_round(
    federation: Federation, undisturbed: Undisturbed, note_recovery: Note, death: str
) -> None:
    await federation.start_coordinator(death)
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(JOB)
        await federation.wait_for_end(run_id)

    died_at(federation.coordinator, death)
    assert await trace_of(federation, run_id) == undisturbed.trace
    assert set(await attempts_of(federation, run_id)) == {1}
    note_recovery(death, federation.coordinator)


@pytest.mark.parametrize("deaths", TWO_DEATHS, ids=" then ".join)
async def test_a_coordinator_killed_twice_in_a_row_goes_on_with_the_same_round(
    federation: Federation, undisturbed: Undisturbed, deaths: tuple[str, str]
) -> None:
    await federation.start_coordinator(*deaths)
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(JOB)
        await federation.wait_for_end(run_id)

    died_at(federation.coordinator, *deaths)
    assert await trace_of(federation, run_id) == undisturbed.trace
    assert set(await attempts_of(federation, run_id)) == {1}


@pytest.mark.parametrize("death", WITH_A_SLOW_CLIENT)
async def test_a_coordinator_killed_while_it_waits_for_a_slow_client_waits_on(
    federation: Federation, undisturbed: Undisturbed, death: str
) -> None:
    study.hold_back("site-3", 2)
    await federation.start_coordinator(f"{ROUND}>{death}")
    federation.coordinator.on_death = study.release_all
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(
            {**JOB, "cohort": {**JOB["cohort"], **WITH_A_SLOW_CLIENT[death]}}
        )
        await federation.wait_for_end(run_id)

    died_at(federation.coordinator, death)
    assert await trace_of(federation, run_id) == undisturbed.trace


@pytest.mark.parametrize("death", WITH_A_LEAVING_CLIENT)
async def test_a_coordinator_killed_while_a_client_leaves_takes_it_in_again(
    federation: Federation, undisturbed: Undisturbed, death: str
) -> None:
    held = study.hold_back("site-3", 2)
    await federation.start_coordinator(f"{ROUND}>{death}")
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(JOB)
        await asyncio.to_thread(held.wait, SECONDS)
        await federation.stop_living_client("site-3")
        study.release_all()
        await federation.coordinator.died.wait()
        federation.start_living_clients("site-3")
        await federation.wait_for_end(run_id)

    died_at(federation.coordinator, death)
    assert await trace_of(federation, run_id) == undisturbed.trace


@pytest.mark.parametrize(
    ("death", "database_url"), on_databases(CLIENT_DEATHS), indirect=["database_url"]
)
async def test_a_killed_client_takes_part_in_the_same_round(
    federation: Federation, undisturbed: Undisturbed, death: str
) -> None:
    await federation.start_coordinator()
    client = await federation.start_mortal_client("site-3", death)
    federation.start_living_clients("site-1", "site-2")
    async with federation.within(SECONDS):
        run_id = await federation.submit(JOB)
        await federation.wait_for_end(run_id)

    died_at(client, death)
    assert await trace_of(federation, run_id) == undisturbed.trace
    assert set(await attempts_of(federation, run_id)) == {1}


async def test_a_client_that_never_returns_costs_the_grace_when_the_quorum_stands(
    federation: Federation,
) -> None:
    client = await _start_with_a_client_that_never_returns(federation)
    cohort = {"size": 3, "min_reports": 2, "grace_seconds": 1.0}
    async with federation.within(SECONDS):
        run_id = await federation.submit({**JOB, "cohort": cohort})
        await client.died.wait()
        await federation.wait_for_end(run_id)

    first = await federation.runs.round(run_id, 1)
    assert first.close_reason == "grace after the quorum is over, 1 clients silent"
    assert first.reports == 2
    assert 1.0 <= first.closed_at - first.quorum_at < 3.0


async def test_a_client_that_never_returns_costs_the_deadline_at_most(
    federation: Federation,
) -> None:
    client = await _start_with_a_client_that_never_returns(federation)
    cohort = {"size": 3, "min_reports": 2, "grace_seconds": 4.0, "deadline_seconds": 2.0}
    async with federation.within(SECONDS):
        run_id = await federation.submit(
            {**JOB, "run": {**JOB["run"], "rounds": 1}, "cohort": cohort}
        )
        await client.died.wait()
        await federation.wait_for_end(run_id)

    first = await federation.runs.round(run_id, 1)
    assert first.reports == 2
    assert 2.0 <= first.closed_at - first.opened_at < 4.0


async def test_a_coordinator_that_is_gone_for_longer_than_the_deadline_asks_again(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    cohort = {**JOB["cohort"], "deadline_seconds": 2.0, "max_attempts": 20}
    await federation.start_coordinator(f"{ROUND}>coordinator.model.get")
    federation.coordinator.pause_seconds = 3.0
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit({**JOB, "cohort": cohort})
        await federation.wait_for_end(run_id)

    assert await trace_of(federation, run_id) == undisturbed.trace


async def test_the_last_model_is_measured_by_clients_that_come_back_late(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    await federation.start_coordinator("coordinator.round.published:3")
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(JOB)
        await federation.coordinator.died.wait()
        for name in SITES:
            await federation.stop_living_client(name)
        await federation.wait_until(run_id, lambda run: run.epoch == 2)
        federation.start_living_clients(*SITES)
        await federation.wait_for_end(run_id)

    assert await trace_of(federation, run_id) == undisturbed.trace


async def test_a_stopped_run_leaves_no_update_behind(federation: Federation) -> None:
    held = study.hold_back("site-3", 2)
    await federation.start_coordinator()
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(JOB)
        await asyncio.to_thread(held.wait, SECONDS)
        while (await federation.runs.progress(run_id, 2)).reported < 2:
            await asyncio.sleep(0.02)
        async with federation.http() as http:
            await http.post(f"/api/v1/runs/{run_id}/stop", json={"reason": "enough"})
        await federation.wait_until(run_id, lambda run: run.state == "stopped")
        while files := (await trace_of(federation, run_id)).files_left:
            await asyncio.sleep(0.02)

    assert files == ()


async def test_a_coordinator_halted_for_longer_than_its_lease_goes_on_when_it_wakes(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    held = study.hold_back("site-3", 2)
    await federation.start_coordinator(lease_seconds=1.0)
    federation.start_living_clients(*SITES)
    async with federation.within(SECONDS):
        run_id = await federation.submit(JOB)
        await asyncio.to_thread(held.wait, SECONDS)
        federation.coordinator.child.send(signal.SIGSTOP)
        await asyncio.sleep(2.5)  # leases end by the database's clock, which no test can turn
        federation.coordinator.child.send(signal.SIGCONT)
        study.release_all()
        await federation.wait_for_end(run_id)

    assert len(federation.coordinator.lives) == 1
    assert await trace_of(federation, run_id) == undisturbed.trace
    assert set(await attempts_of(federation, run_id)) == {1}


def test_the_matrix_holds_every_point_of_the_code() -> None:
    code = "\n".join(
        path.read_text()
        for room in ("node", "storage")
        for path in (ROOT / "src" / "kumiai" / room).rglob("*.py")
    )
    in_code = set(re.findall(r'\breach\(\s*"([a-z_.]+)"', code))
    for name in re.findall(r'\b(?:transaction|SingleWrite)\(\s*"([a-z_.]+)"', code):
        in_code |= {f"storage.{name}.commit.before", f"storage.{name}.commit.after"}

    assert points_of_the_matrix() | points_outside() == in_code
    assert not points_of_the_matrix() & points_outside()


@pytest.mark.parametrize(
    ("path", "point"),
    [(path, point) for path, points in OUTSIDE_OF_A_ROUND.items() for point in sorted(points)],
)
def test_a_point_outside_of_a_round_has_a_test_that_kills_there(path: str, point: str) -> None:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))

    assert both_sides(point) <= set(module.POINTS)


def test_the_page_tells_every_point_of_the_matrix() -> None:
    page = ROOT / "docs" / "explanation" / "crash-safety.md"
    table = [line for line in page.read_text().splitlines() if line.startswith("|")]

    told = set(re.findall(r"`([a-z_.]+)`", "\n".join(table)))

    assert told == points_of_the_matrix() | points_outside()


def points_outside() -> set[str]:
    return {
        side
        for points in OUTSIDE_OF_A_ROUND.values()
        for point in points
        for side in both_sides(point)
    }


def both_sides(point: str) -> set[str]:
    is_one = point.endswith((".before", ".after")) or point.startswith(("client.", "coordinator."))
    return {point} if is_one else {f"{point}.before", f"{point}.after"}


def points_of_the_matrix() -> set[str]:
    deaths = [*COORDINATOR_DEATHS, *WITH_A_SLOW_CLIENT, *WITH_A_LEAVING_CLIENT, *CLIENT_DEATHS]
    return {parse(death)[-1].name for death in deaths}


def died_at(mortal: Mortal, *deaths: str) -> None:
    """Check that each life but the last ended where it should have."""
    ends = [life.names()[-1:] for life in mortal.lives[:-1]]
    assert ends == [[parse(death)[-1].name] for death in deaths], mortal.report()


async def _start_with_a_client_that_never_returns(federation: Federation) -> Mortal:
    await federation.start_coordinator()
    federation.start_living_clients("site-1", "site-2")
    client = await federation.start_mortal_client("site-3", "client.train.done")
    client.returns = False
    return client
