"""kill -9 at each commit that belongs to no round: all of the transaction stands, or nothing."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from kumiai.storage import DatabaseManager
from kumiai.testing.crash import KILL_AT
from tests.storage.programs.actor import ACTS, prepare
from tests.zygote import Child, Zygote

POINTS = {f"storage.{act}.commit.{side}" for act in ACTS for side in ("before", "after")}
LEASES = "cache_drains"
Act = Callable[..., Awaitable[Child]]
TABLES = {
    "audit_record": {"audit_entries", "audit_head", "audit_persons"},
    "audit_redact": {"audit_entries", "audit_head", "audit_persons"},
    "audit_checkpoint": {"audit_checkpoints"},
    "audit_signer": {"audit_signers"},
    "invite_site": {"enrolments", "sites"},
    "claim_enrolment": {"enrolments"},
    "approve_site": {"enrolments"},
    "keep_certificate": {"site_certificates"},
    "change_site": {"sites"},
    "remove_site": {"sites", "enrolments"},
    "create_token": {"api_tokens"},
    "revoke_token": {"api_tokens"},
    "note_token_use": {"api_tokens"},
    "renew_lease": {"runs"},
    "blame_groups": {"runs", "events"},
    "charge_budget": {"runs", "budget_entries", "budget_head", "budget_counts"},
    "seal_budget": {"runs", "budget_entries", "budget_head"},
    "set_budget": {"budget_entries", "budget_head", "budget_limits"},
    "freeze_budgets": {"budget_entries", "budget_head"},
    "reconcile_budgets": {"budget_entries", "budget_head", "budget_counts"},
    "rebuild_budgets": {"budget_counts"},
    "update_run": {"runs", "events"},
    "delete_run": {"runs", "rounds", "models", "events"},
    "add_evaluations": {"evaluations"},
    "add_models": {"models"},
    "update_model": {"models"},
    "delete_model": {"models"},
    "register_clients": {"clients"},
    "update_client": {"clients"},
    "delete_client": {"clients"},
    "outbox.lease": {LEASES},
    "outbox.failure": {"cache_outbox"},
    "outbox.apply": {"cache_outbox", "clients"},
    "outbox.parked": {"cache_outbox"},
    "cache.claim": {"cache_epoch"},
    "cache.bump": {"cache_epoch"},
    "lock.acquire": {"locks"},
}
"""What each act changes, beside the tables of the full-text search."""


@pytest.fixture
def act(zygote: Zygote, database_url: str, tmp_path: Path) -> Act:
    """Lend a way to let a process do an act, and die where it is told to."""

    async def act(name: str, *, kill_at: str) -> Child:
        child = await zygote.fork(
            [database_url, name],
            program="tests.storage.programs.actor",
            environment={KILL_AT: kill_at},
            log=tmp_path / "log",
        )
        await child.ended()
        return child

    return act


async def rows_of(url: str, name: str) -> dict[str, list[Any]]:
    """Return every row that the transaction is about: a drain takes its lease in one of its own."""
    database = DatabaseManager(url, idle_in_transaction_timeout_seconds=30.0)
    await database.connect()
    async with database.reading() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        wanted = [each for each in names if (each == LEASES) == (name == "outbox.lease")]
        # What SQLite's full-text search keeps is its own.
        found = {
            table: [tuple(row) for row in await connection.execute(text(f"SELECT * FROM {table}"))]
            for table in wanted
            if not table.startswith("search_")
        }
    await database.close()
    return {table: sorted(rows, key=repr) for table, rows in found.items()}


def changed(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> set[str]:
    return {table for table, rows in before.items() if rows != after[table]}


@pytest.mark.integration
@pytest.mark.parametrize("name", ACTS)
async def test_of_a_transaction_all_stands_or_nothing_wherever_the_process_is_killed(
    database_url: str, act: Act, name: str
) -> None:
    await prepare(database_url)
    rows = await rows_of(database_url, name)

    killed_before = await act(name, kill_at=f"storage.{name}.commit.before")
    rows_before = await rows_of(database_url, name)
    killed_after = await act(name, kill_at=f"storage.{name}.commit.after")
    rows_after = await rows_of(database_url, name)

    assert killed_before.was_killed, killed_before.last_lines()
    assert killed_after.was_killed, killed_after.last_lines()
    assert changed(rows, rows_before) == set()
    assert changed(rows, rows_after) == TABLES[name]
