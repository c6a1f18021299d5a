"""The budget ledger on both databases: charged once, sealed once, released once, or nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import (
    BudgetExhaustedError,
    ConfigError,
    ConflictError,
    FencedError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from kumiai.identity.audit import Act, Actor, AuditScribe, NewEntry
from kumiai.privacy.ledger import Charge, EntryKind, LedgerHead
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy, charges_in
from kumiai.storage import (
    AuditLog,
    BudgetRepository,
    ChargeRecord,
    DatabaseManager,
    SealedCharge,
)
from tests.storage.leading import Leading
from tests.storage.spending import (
    CLIENT_LEVEL,
    DATA,
    EVENT,
    MODEL,
    RECORD_LEVEL,
    SITE,
    budget_for,
    charge_of,
    key_of,
    newest_charge,
    sealed_release,
)


@pytest.fixture
def budgets(database: DatabaseManager) -> BudgetRepository:
    return BudgetRepository(database)


async def kinds(budgets: BudgetRepository) -> list[EntryKind]:
    return [entry.kind for entry in await budgets.entries()]


async def spent(budgets: BudgetRepository) -> dict[str, int]:
    return {
        str(record.scope): sum(paid.count for paid in record.paid)
        for record in await budgets.scopes()
        if record.paid
    }


# ---------------------------------------------------------------------------- charging


async def test_all_scopes_of_a_charge_pay(leading: Leading, budgets: BudgetRepository) -> None:
    record = await budgets.charge(leading.lease, key_of(), charge_of(count=3))

    assert (record.key, record.charge, record.sealed) == (key_of(), charge_of(count=3), None)
    assert await spent(budgets) == {"client/a": 3, "dataset/a/heart": 3, "model/heart-net": 3}
    assert await newest_charge(budgets, 1) == record
    assert await newest_charge(budgets, 2) is None


async def test_a_charge_that_is_asked_for_again_is_paid_once(
    leading: Leading, budgets: BudgetRepository
) -> None:
    first = await budgets.charge(leading.lease, key_of(), charge_of())
    again = await budgets.charge(leading.lease, key_of(), charge_of())

    assert again == first
    assert set((await spent(budgets)).values()) == {1}


async def test_a_key_stands_for_one_charge(leading: Leading, budgets: BudgetRepository) -> None:
    await budgets.charge(leading.lease, key_of(), charge_of())

    with pytest.raises(ConflictError, match="run-a/1/1 must stay what it is"):
        await budgets.charge(leading.lease, key_of(), charge_of(count=2))

    assert set((await spent(budgets)).values()) == {1}


@pytest.mark.parametrize("scope", [SITE, DATA, MODEL])
async def test_when_one_scope_can_not_pay_nobody_does(
    leading: Leading, budgets: BudgetRepository, scope: object
) -> None:
    await budgets.set_limit(budget_for(2, scope), by="ann")  # type: ignore[arg-type]
    for attempt in (1, 2):
        await budgets.charge(leading.lease, key_of(attempt), charge_of())
    before = await budgets.entries()

    with pytest.raises(BudgetExhaustedError, match=rf"budget of {scope} \(lifetime\) must allow"):
        await budgets.charge(leading.lease, key_of(3), charge_of())

    assert await budgets.entries() == before
    assert set((await spent(budgets)).values()) == {2}


async def test_a_window_forgets_what_is_older_and_the_lifetime_does_not(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager
) -> None:
    await budgets.set_limit(budget_for(1, window_days=30), by="ann")
    await budgets.set_limit(budget_for(3), by="ann")
    await budgets.charge(leading.lease, key_of(1), charge_of())
    await turn_back(database, days=31)
    await budgets.charge(leading.lease, key_of(2), charge_of())

    with pytest.raises(BudgetExhaustedError, match=r"\(30 days\)"):
        await budgets.charge(leading.lease, key_of(3), charge_of())
    await turn_back(database, days=30)
    with pytest.raises(BudgetExhaustedError, match=r"\(30 days\)"):
        await budgets.charge(leading.lease, key_of(3), charge_of())
    await turn_back(database, days=1)
    await budgets.charge(leading.lease, key_of(3), charge_of())
    await turn_back(database, days=31)
    with pytest.raises(BudgetExhaustedError, match=r"\(lifetime\)"):
        await budgets.charge(leading.lease, key_of(4), charge_of())


async def turn_back(database: DatabaseManager, *, days: int) -> None:
    """Let what was paid have been paid so much earlier."""
    async with database.transaction() as connection:
        await connection.execute(text(f"UPDATE budget_counts SET day = day - {days}"))


async def test_a_record_level_release_does_not_count_for_a_budget_of_clients(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.set_limit(budget_for(5), by="ann")

    with pytest.raises(BudgetExhaustedError, match="got one that protects record/zero-out"):
        await budgets.charge(leading.lease, key_of(), charge_of(guarantee=RECORD_LEVEL))


async def test_a_client_level_release_counts_for_a_budget_of_records(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.set_limit(budget_for(2, guarantee=RECORD_LEVEL), by="ann")
    await budgets.charge(leading.lease, key_of(1), charge_of(guarantee=CLIENT_LEVEL))
    await budgets.charge(leading.lease, key_of(2), charge_of(guarantee=RECORD_LEVEL))

    with pytest.raises(BudgetExhaustedError):
        await budgets.charge(leading.lease, key_of(3), charge_of(guarantee=RECORD_LEVEL))


async def test_a_budget_of_clients_set_after_record_level_releases_is_spent(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.charge(leading.lease, key_of(1), charge_of(guarantee=RECORD_LEVEL))
    await budgets.set_limit(budget_for(100), by="ann")

    with pytest.raises(BudgetExhaustedError, match="with inf spent"):
        await budgets.charge(leading.lease, key_of(2), charge_of())


@pytest.mark.parametrize(
    "event", ['{"kind":"gaussian"}', "", EVENT + " ", EVENT.replace("zero-out", "replace-one")]
)
async def test_what_is_no_event_of_the_charge_is_refused(
    leading: Leading, budgets: BudgetRepository, event: str
) -> None:
    charge = Charge.alike(CLIENT_LEVEL, [SITE], {event: 1})

    with pytest.raises(ConfigError, match="event"):
        await budgets.charge(leading.lease, key_of(), charge)

    assert await budgets.entries() == []


async def test_whoever_does_not_lead_spends_nothing(
    leading: Leading, budgets: BudgetRepository
) -> None:
    old = replace(leading.lease, epoch=leading.lease.epoch - 1)
    await budgets.charge(leading.lease, key_of(), charge_of())

    with pytest.raises(FencedError):
        await budgets.charge(old, key_of(2), charge_of())
    with pytest.raises(FencedError):
        await budgets.seal(old, key_of(), "noised")
    with pytest.raises(ValueError, match="must be of the led run run-a, got run-b/1/1"):
        await budgets.charge(leading.lease, key_of(run_id="run-b"), charge_of())

    assert await kinds(budgets) == [EntryKind.CHARGED]


async def test_of_two_coordinators_that_race_for_the_last_release_one_pays(
    leading: Leading, database: DatabaseManager, database_url: str
) -> None:
    other = DatabaseManager(database_url)
    await other.connect()
    first, second = BudgetRepository(database), BudgetRepository(other)
    await first.set_limit(budget_for(5), by="ann")

    outcomes = await asyncio.gather(
        *(
            budgets.charge(leading.lease, key_of(attempt), charge_of())
            for attempt in range(1, 21)
            for budgets in (first, second)
        ),
        return_exceptions=True,
    )

    await other.close()
    assert (await spent(first))["dataset/a/heart"] == 5
    assert {type(each) for each in outcomes} == {ChargeRecord, BudgetExhaustedError}
    assert (await first.check()).mended == []


# ---------------------------------------------------------------------------- seal and release


async def test_a_charge_is_sealed_with_one_set_of_bytes(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.charge(leading.lease, key_of(), charge_of())

    sealed = await budgets.seal(leading.lease, key_of(), "noised")
    again = await budgets.seal(leading.lease, key_of(), "noised")

    assert sealed == again == SealedCharge(key_of(), "noised")
    with pytest.raises(ConflictError, match="sealed once, got other bytes after noised"):
        await budgets.seal(leading.lease, key_of(), "noised-again")
    record = await budgets.charge(leading.lease, key_of(), charge_of())
    assert record.sealed == sealed


async def test_what_was_not_charged_is_not_sealed(
    leading: Leading, budgets: BudgetRepository
) -> None:
    with pytest.raises(NotFoundError, match="got none for run-a/1/1"):
        await budgets.seal(leading.lease, key_of(), "noised")


async def published(leading: Leading, charge: SealedCharge | None, number: int = 1) -> None:
    await leading.runs.publish_round(
        leading.lease,
        round=number,
        model_digest=f"d{number}",
        model_size_bytes=11,
        state_digest=None,
        reports=2,
        examples=14,
        metrics={},
        charge=charge,
    )


async def closed(leading: Leading, number: int = 1) -> None:
    await leading.open(number)
    await leading.runs.close_round(leading.lease, number, "all reported")


async def test_a_model_and_its_release_are_published_together(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await closed(leading)
    sealed = await sealed_release(budgets, leading)

    await published(leading, sealed)
    await published(leading, sealed)

    record = await newest_charge(budgets, 1)
    assert record is not None
    assert (record.digest, record.model) == ("noised-1.1", "d1")
    assert await kinds(budgets) == [EntryKind.CHARGED, EntryKind.SEALED, EntryKind.RELEASED]


@pytest.mark.parametrize(
    ("charge", "words"),
    [
        (SealedCharge(key_of(), "others"), "sealed with the released bytes, got one with others"),
        (SealedCharge(key_of(2), "noised-1.1"), "sealed with the released bytes, got none"),
        (SealedCharge(key_of(round_=2), "noised-1.1"), "must be of that round"),
        (SealedCharge(key_of(run_id="run-b"), "noised-1.1"), "must be of that round"),
        (None, "must publish with a charge, got none"),
    ],
)
async def test_nothing_is_published_without_its_own_sealed_charge(
    leading: Leading, budgets: BudgetRepository, charge: SealedCharge | None, words: str
) -> None:
    await closed(leading)
    await sealed_release(budgets, leading)

    with pytest.raises(ConflictError, match=words):
        await published(leading, charge)

    assert (await leading.runs.round("run-a", 1)).stage == "closed"
    assert [model.round for model in await leading.runs.models("run-a")] == [0]


async def test_a_charge_has_one_release(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager
) -> None:
    await closed(leading)
    sealed = await sealed_release(budgets, leading)
    await published(leading, sealed)
    # As after a restore of the run alone: its round is open again, the ledger knows better.
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE rounds SET stage = 'closed' WHERE round = 1"))
        await connection.execute(text("DELETE FROM models WHERE round = 1"))

    with pytest.raises(ConflictError, match="must be released once, got a second release"):
        await published(leading, sealed)


async def test_a_run_without_privacy_publishes_as_ever(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await leading.play(1)

    assert await budgets.entries() == []


async def test_what_a_run_has_spent_stays_spent_when_it_is_deleted(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager
) -> None:
    await budgets.charge(leading.lease, key_of(), charge_of())

    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM runs"))

    assert set((await spent(budgets)).values()) == {1}
    assert (await budgets.check()).head.size == 1


# ---------------------------------------------------------------------------- budgets


async def test_a_budget_may_be_set_again_and_taken_away(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.set_limit(budget_for(1), by="ann")
    await budgets.set_limit(budget_for(2), by="ann")
    (before,) = await budgets.scopes()

    await budgets.drop_limit(DATA, 0, by="ann")

    assert [each.limit for each in before.standings] == [budget_for(2)]
    assert await budgets.scopes() == []
    with pytest.raises(NotFoundError, match="budget of dataset/a/heart over 0 days must exist"):
        await budgets.drop_limit(DATA, 0, by="ann")
    await budgets.charge(leading.lease, key_of(), charge_of(count=9))
    assert await kinds(budgets) == [*[EntryKind.LIMITED] * 3, EntryKind.CHARGED]


async def test_scopes_stand_with_what_is_spent_and_left(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.set_limit(budget_for(4), by="ann")
    await budgets.charge(leading.lease, key_of(), charge_of(count=4))

    records = {str(record.scope): record for record in await budgets.scopes()}
    (one,) = await budgets.scopes([DATA])

    assert list(records) == ["client/a", "dataset/a/heart", "model/heart-net"]
    assert records["dataset/a/heart"] == one
    (now,) = one.standings
    assert (now.spent, now.left) == (budget_for(4).epsilon, 0.0)


async def test_acts_are_recorded_with_what_they_do(
    leading: Leading, database: DatabaseManager
) -> None:
    log = AuditLog(database, AuditScribe())
    budgets = BudgetRepository(database, trail=log)

    def entry(act: Act) -> NewEntry:
        return NewEntry(act, Actor("operator", "ann"), "budget/x")

    await budgets.set_limit(budget_for(4), by="ann", entry=entry(Act.BUDGET_SET))
    await budgets.charge(leading.lease, key_of(), charge_of(), entry=entry(Act.BUDGET_CHARGED))
    await budgets.freeze("why", by="ann", entry=entry(Act.BUDGETS_FROZEN))
    await budgets.reconcile([SiteCopy("a", [])], {}, by="ann", entry=entry(Act.BUDGETS_RECONCILED))
    await budgets.drop_limit(DATA, 0, by="ann", entry=entry(Act.BUDGET_SET))

    assert [record.act async for record in log.read(0, 10)] == [
        "budget.set",
        "budget.charged",
        "budgets.frozen",
        "budgets.reconciled",
        "budget.set",
    ]


# ---------------------------------------------------------------------------- the ledger


async def test_the_caches_are_rebuilt_from_the_entries(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager
) -> None:
    await budgets.set_limit(budget_for(9), by="ann")
    await budgets.set_limit(budget_for(9, SITE, window_days=7), by="ann")
    await budgets.drop_limit(SITE, 7, by="ann")
    for attempt in (1, 2):
        await budgets.charge(leading.lease, key_of(attempt), charge_of())
    before = await budgets.scopes()
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE budget_counts SET times = 1"))
        await connection.execute(text("DELETE FROM budget_limits"))

    first, second = await budgets.check(), await budgets.check()

    assert (list(first.mended), list(second.mended)) == (["counts", "limits"], [])
    assert await budgets.scopes() == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE budget_entries SET body = replace(body, 'client/a', 'client/b') WHERE sequence = 0",
        "DELETE FROM budget_entries WHERE sequence = 1",
        "DELETE FROM budget_entries WHERE sequence = 2",
        "UPDATE budget_entries SET chain = :other WHERE sequence = 2",
        "UPDATE budget_entries SET body = 'nothing' WHERE sequence = 2",
    ],
)
async def test_a_ledger_that_was_rewritten_is_found_out(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager, damage: str
) -> None:
    for attempt in (1, 2, 3):
        await budgets.charge(leading.lease, key_of(attempt), charge_of())
    async with unguarded(database) as connection:
        binds = {"other": b"\x01" * 32} if ":other" in damage else {}
        await connection.execute(text(damage), binds)

    with pytest.raises(IntegrityError, match="budget ledger"):
        await budgets.check()


@asynccontextmanager
async def unguarded(database: DatabaseManager) -> AsyncIterator[AsyncConnection]:
    """Lend a transaction past the ledger's triggers, as whoever owns the database can."""
    async with database.transaction() as connection:
        guards: list[str] = []
        if connection.dialect.name == "sqlite":
            found = await connection.execute(
                text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            )
            for name, sql in [row for row in found if row.name.startswith("budget_")]:
                await connection.execute(text(f"DROP TRIGGER {name}"))
                guards.append(sql)
        else:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
        yield connection
        for sql in guards:
            await connection.execute(text(sql))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE budget_entries SET body = ''",
        "DELETE FROM budget_entries",
        "UPDATE budget_head SET size = size",
        "UPDATE budget_head SET size = size - 1",
        "DELETE FROM budget_head",
    ],
)
async def test_the_database_itself_refuses_to_rewrite_the_ledger(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager, statement: str
) -> None:
    await budgets.charge(leading.lease, key_of(), charge_of())

    with pytest.raises(StorageError, match="budget ledger can only be added to"):
        async with database.transaction() as connection:
            await connection.execute(text(statement))


# ---------------------------------------------------------------------------- after a restore


async def test_a_frozen_ledger_charges_seals_and_releases_nothing(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await closed(leading)
    sealed = await sealed_release(budgets, leading)
    await budgets.freeze("restored from the backup of Monday", by="ann")

    for act in (
        budgets.charge(leading.lease, key_of(2), charge_of()),
        budgets.seal(leading.lease, key_of(1), "noised-1.1"),
        published(leading, sealed),
    ):
        with pytest.raises(ConflictError, match="got one that is: restored from the backup"):
            await act

    assert (await budgets.state()).frozen == "restored from the backup of Monday"


async def test_a_ledger_that_continues_what_was_seen_is_not_frozen(
    leading: Leading, budgets: BudgetRepository
) -> None:
    assert await budgets.freeze_unless_continued(None, by="c-1") is None
    await budgets.charge(leading.lease, key_of(1), charge_of())
    seen = (await budgets.state()).head
    await budgets.charge(leading.lease, key_of(2), charge_of())

    for witness in (LedgerHead(), seen, (await budgets.state()).head):
        assert await budgets.freeze_unless_continued(witness, by="c-1") is None


async def test_a_ledger_of_which_nothing_was_seen_starts_frozen(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.charge(leading.lease, key_of(1), charge_of())

    reason = await budgets.freeze_unless_continued(None, by="c-2")

    assert reason == "it has 1 entries, of which this coordinator has seen none"
    assert (await budgets.state()).frozen == reason


async def test_a_ledger_from_an_old_backup_is_frozen_until_it_has_what_the_sites_know(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager
) -> None:
    await budgets.set_limit(budget_for(5), by="ann")
    await budgets.charge(leading.lease, key_of(1), charge_of())
    backup = await dump(database)
    for attempt in (2, 3, 4):
        await budgets.charge(leading.lease, key_of(attempt), charge_of())
    witness, at_site = (await budgets.state()).head, await charges(budgets)
    await restore(database, backup)

    restarted = BudgetRepository(database)
    assert "put back to an older state" in str(
        await restarted.freeze_unless_continued(witness, by="c-1")
    )
    with pytest.raises(ConfigError, match="got none of client/a, dataset/a/heart; export"):
        await restarted.reconcile([], {}, by="ann")
    added = await restarted.reconcile([SiteCopy("a", at_site)], {}, by="ann")

    assert [str(each.key) for each in added] == ["run-a/1/2"]
    assert (await spent(restarted))["dataset/a/heart"] == 4
    await restarted.charge(leading.lease, key_of(5), charge_of())
    with pytest.raises(BudgetExhaustedError):
        await restarted.charge(leading.lease, key_of(6), charge_of())
    assert await restarted.freeze_unless_continued(witness, by="c-1") is None
    assert (await restarted.check()).mended == []


async def test_rounds_that_nobody_can_tell_of_are_assumed_at_the_last_price(
    leading: Leading, budgets: BudgetRepository
) -> None:
    await budgets.charge(leading.lease, key_of(1), charge_of(DATA))
    await budgets.charge(leading.lease, key_of(2), charge_of(DATA, count=2))
    await budgets.freeze("why", by="ann")

    added = await budgets.reconcile([], {DATA: 3}, by="ann")

    assert [str(each.key) for each in added] == ["run-a/2/1", "run-a/3/1", "run-a/4/1"]
    assert await spent(budgets) == {"dataset/a/heart": 9}
    assert (await budgets.state()).frozen is None


async def test_a_charge_that_a_site_told_of_pays_for_no_release_of_ours(
    leading: Leading, budgets: BudgetRepository
) -> None:
    told = SiteCopy("a", [KeyedCharge(key_of(1), charge_of())])
    await budgets.reconcile([told], {}, by="ann")

    with pytest.raises(ConflictError, match="must be fresh, got run-a/1/1"):
        await budgets.charge(leading.lease, key_of(1), charge_of())
    with pytest.raises(NotFoundError):
        await budgets.seal(leading.lease, key_of(1), "noised")

    record = await newest_charge(budgets, 1)
    assert record is not None
    assert record.is_adopted


async def test_a_database_that_is_put_back_under_a_running_coordinator_is_noticed(
    leading: Leading, budgets: BudgetRepository, database: DatabaseManager
) -> None:
    backup = await dump(database)
    await budgets.charge(leading.lease, key_of(1), charge_of())
    await restore(database, backup)

    with pytest.raises(IntegrityError, match="the database was put back"):
        await budgets.charge(leading.lease, key_of(2), charge_of())


TABLES = ("budget_entries", "budget_head", "budget_counts", "budget_limits")


async def dump(database: DatabaseManager) -> dict[str, list[dict[str, object]]]:
    async with database.reading() as connection:
        return {
            table: [
                dict(row._mapping)
                for row in await connection.execute(text(f"SELECT * FROM {table}"))
            ]
            for table in TABLES
        }


async def restore(database: DatabaseManager, backup: dict[str, list[dict[str, object]]]) -> None:
    """Bring the ledger's tables back to how they were, past the triggers."""
    async with unguarded(database) as connection:
        for table, rows in backup.items():
            await connection.execute(text(f"DELETE FROM {table}"))
            for row in rows:
                names = ", ".join(row)
                binds = ", ".join(f":{name}" for name in row)
                await connection.execute(
                    text(f"INSERT INTO {table} ({names}) VALUES ({binds})"), row
                )


async def charges(budgets: BudgetRepository) -> list[KeyedCharge]:
    return charges_in(await budgets.entries())
