"""The desk that pays for rounds: each once, and none from a ledger that was put back."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kumiai.core.errors import BudgetExhaustedError, ConflictError, IntegrityError
from kumiai.identity.audit import Act, Actor, Detail, Outcome
from kumiai.node.coordinator.budgets import (
    WITNESS_FILE,
    BudgetDesk,
    charge_of_round,
    limit_of_run,
)
from kumiai.privacy import PrivacyUnit, SkellamEvent, event_to_json
from kumiai.privacy.budget import BudgetLimit, epsilon_spent
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import BudgetScope, Charge, Guarantee, LedgerHead
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy
from kumiai.storage import BudgetRepository, DatabaseManager, Lease, RunRecord, RunRepository
from kumiai.testing.databases import SQLiteTemplate
from tests.storage.leading import TTL_SECONDS, new_run

EVENT = SkellamEvent(variance=1e6, l2_norm_max=100.0, l1_norm_max=1000.0)
DATA = BudgetScope.parse("dataset/site-1/digits-app")
CLIENT_LEVEL = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)


class Noted:
    """An audit sink that only remembers."""

    def __init__(self) -> None:
        self.acts: list[tuple[Act, Outcome]] = []

    def record(
        self, act: Act, subject: str, outcome: Outcome, actor: Actor, detail: Detail
    ) -> None:
        self.acts.append((act, outcome))

    def record_refusal(
        self, act: Act, subject: str, actor: Actor, detail: Detail, *, caller: str = ""
    ) -> None:
        raise AssertionError


@pytest.fixture
async def database(
    sqlite_template: SQLiteTemplate, tmp_path: Path
) -> AsyncIterator[DatabaseManager]:
    database = DatabaseManager(sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await database.connect()
    yield database
    await database.close()


@pytest.fixture
async def lease(database: DatabaseManager) -> Lease:
    runs = RunRepository(database)
    await runs.create(new_run())
    lease = await runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    return lease


def desk_at(database: DatabaseManager, folder: Path, audit: Noted | None = None) -> BudgetDesk:
    return BudgetDesk(BudgetRepository(database), folder, "c-1", audit or Noted())


async def charge_for(database: DatabaseManager, *clients: str) -> Charge:
    run = await RunRepository(database).get("run-a")
    return charge_of_round(run, "client", EVENT, clients or ("site-1", "site-2"))


async def test_each_client_its_data_and_the_model_pay(
    database: DatabaseManager, lease: Lease
) -> None:
    charge = await charge_for(database)

    assert [str(scope) for scope in charge.scopes] == [
        "client/site-1",
        "client/site-2",
        "dataset/site-1/digits-app",
        "dataset/site-2/digits-app",
        "model/digits",
    ]
    assert charge.guarantee == CLIENT_LEVEL


async def test_a_round_is_paid_and_sealed_once_however_often_it_is_led(
    database: DatabaseManager, lease: Lease, tmp_path: Path
) -> None:
    charge = await charge_for(database)
    first = desk_at(database, tmp_path)
    await first.open()
    paid = await first.charge(lease, round=1, attempt=1, charge=charge)
    key = paid.key
    sealed = await first.seal(lease, key, b"noised")

    second = desk_at(database, tmp_path)
    assert await second.open() is None
    again = await second.charge(lease, round=1, attempt=1, charge=charge)
    assert (paid.sealed, again.key, again.sealed) == (None, key, sealed)
    assert await second.seal(lease, key, b"noised") == sealed
    with pytest.raises(ConflictError, match="sealed once"):
        await second.seal(lease, key, b"noised otherwise")

    assert (await BudgetRepository(database).state()).head.size == 2


async def test_a_round_that_can_not_be_paid_is_told_before_and_recorded(
    database: DatabaseManager, lease: Lease, tmp_path: Path
) -> None:
    budgets, charge, noted = BudgetRepository(database), await charge_for(database), Noted()
    epsilon = epsilon_spent({event_to_json(EVENT): 1}, 1e-5)
    await budgets.set_limit(BudgetLimit(DATA, CLIENT_LEVEL, epsilon, 1e-5), by="ann")
    desk = desk_at(database, tmp_path, noted)
    await desk.verify_affordable(charge)
    await desk.charge(lease, round=1, attempt=1, charge=charge)

    with pytest.raises(BudgetExhaustedError):
        await desk.verify_affordable(charge)
    with pytest.raises(BudgetExhaustedError):
        await desk.charge(lease, round=2, attempt=1, charge=charge)

    assert noted.acts == [(Act.BUDGET_CHARGED, Outcome.REFUSED)]


async def private_run(database: DatabaseManager, **privacy: object) -> tuple[Lease, RunRecord]:
    """Return a run that is led, whose job names an epsilon for two rounds."""
    runs = RunRepository(database)
    epsilon = epsilon_spent({event_to_json(EVENT): 2}, 1e-5)
    table = {"unit": "client", "epsilon": epsilon, "delta": 1e-5, **privacy}
    await runs.create(new_run("run-b", job={"privacy": table}))
    lease = await runs.acquire_lease("run-b", "leader-1", TTL_SECONDS)
    assert lease is not None
    return lease, await runs.start(lease)


async def test_a_run_stops_before_a_lost_attempt_lets_it_exceed_its_epsilon(
    database: DatabaseManager, tmp_path: Path
) -> None:
    lease, run = await private_run(database)
    desk, charge = desk_at(database, tmp_path), charge_of_round(run, "client", EVENT, ["site-1"])
    await desk.open_run(run)

    await desk.charge(lease, round=1, attempt=1, charge=charge)
    await desk.charge(lease, round=1, attempt=2, charge=charge)

    told = r"model/digits/run-b .* attempts that were lost have cost as much .* another run"
    with pytest.raises(BudgetExhaustedError, match=told):
        await desk.verify_affordable(charge)
    with pytest.raises(BudgetExhaustedError, match=told):
        await desk.charge(lease, round=2, attempt=1, charge=charge)
    # What was paid for is not asked for again.
    await desk.charge(lease, round=1, attempt=2, charge=charge)


async def test_a_runs_budget_is_opened_once_and_kept_as_an_operator_set_it(
    database: DatabaseManager, tmp_path: Path
) -> None:
    _, run = await private_run(database)
    desk, budgets = desk_at(database, tmp_path), BudgetRepository(database)
    own = limit_of_run(run)
    assert own is not None
    await desk.open_run(run)
    await desk.open_run(run)
    assert (await budgets.state()).head.size == 1

    await budgets.set_limit(replace(own, epsilon=9.0), by="ann")
    await desk_at(database, tmp_path).open_run(run)

    (scope,) = await budgets.scopes([own.scope])
    assert [each.limit.epsilon for each in scope.standings] == [9.0]


async def test_a_run_whose_job_names_no_epsilon_has_no_budget_of_its_own(
    database: DatabaseManager, tmp_path: Path
) -> None:
    _, run = await private_run(database, epsilon=None)

    await desk_at(database, tmp_path).open_run(run)

    assert (await BudgetRepository(database).state()).head.size == 0
    assert not any(each.is_of_run for each in charge_of_round(run, "client", EVENT, []).scopes)


async def test_an_attempt_that_a_site_told_of_is_not_paid_for_by_its_charge(
    database: DatabaseManager, lease: Lease, tmp_path: Path
) -> None:
    budgets, charge = BudgetRepository(database), await charge_for(database, "site-1")
    desk = desk_at(database, tmp_path)
    paid = await desk.charge(lease, round=1, attempt=1, charge=charge)
    lost = KeyedCharge(paid.key, charge)
    told = SiteCopy("site-1", [lost, KeyedCharge(replace(lost.key, attempt=2), charge)])
    await budgets.reconcile([told], {}, by="ann")

    again = await desk.charge(lease, round=1, attempt=1, charge=charge)

    assert str(again.key) == "run-a/1/3"


async def test_a_ledger_that_was_put_back_is_frozen_at_the_next_start(
    database: DatabaseManager, lease: Lease, tmp_path: Path
) -> None:
    charge = await charge_for(database)
    desk = desk_at(database, tmp_path)
    await desk.charge(lease, round=1, attempt=1, charge=charge)
    (tmp_path / WITNESS_FILE).write_text('{"size": 7, "chain": "00"}', encoding="utf-8")

    restarted = desk_at(database, tmp_path)

    assert "do not continue the 7 which this coordinator has seen" in str(await restarted.open())
    with pytest.raises(ConflictError, match="must not be frozen"):
        await restarted.verify_affordable(charge)
    with pytest.raises(ConflictError, match="must not be frozen"):
        await restarted.charge(lease, round=2, attempt=1, charge=charge)


async def test_a_coordinator_without_a_memory_does_not_trust_a_ledger_with_entries(
    database: DatabaseManager, lease: Lease, tmp_path: Path
) -> None:
    desk = desk_at(database, tmp_path)
    assert await desk.open() is None
    assert await desk.open() is None
    await desk.charge(lease, round=1, attempt=1, charge=await charge_for(database))
    (tmp_path / WITNESS_FILE).unlink()

    assert "has seen none" in str(await desk_at(database, tmp_path).open())


@pytest.mark.parametrize(
    "content", ["", "[]", '{"size": -1, "chain": ""}', '{"size":1,"chain":"x"}']
)
async def test_a_damaged_witness_is_told(
    database: DatabaseManager, tmp_path: Path, content: str
) -> None:
    (tmp_path / WITNESS_FILE).write_text(content, encoding="utf-8")

    with pytest.raises(IntegrityError, match="got a damaged file"):
        await desk_at(database, tmp_path).open()

    assert (await BudgetRepository(database).state()).head == LedgerHead()
