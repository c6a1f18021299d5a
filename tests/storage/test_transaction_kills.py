"""kill -9 at each commit that belongs to no round: all of the transaction stands, or nothing."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import inspect, text

from kumiai.storage import DatabaseManager
from kumiai.testing.crash import KILL_AT
from tests.meta.repository import ROOT
from tests.storage.programs.actor import ACTS, prepare

POINTS = {f"storage.{act}.commit.{side}" for act in ACTS for side in ("before", "after")}
LEASES = "cache_drains"
TABLES = {
    "audit_record": {"audit_entries", "audit_head", "audit_persons"},
    "audit_redact": {"audit_entries", "audit_head", "audit_persons"},
    "renew_lease": {"runs"},
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


def act(url: str, name: str, *, kill_at: str = "") -> int:
    """Let a process do it; return its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.storage.programs.actor", url, name],
        cwd=ROOT,
        env={**os.environ, KILL_AT: kill_at},
        check=False,
    )
    return done.returncode


async def rows_of(url: str, name: str) -> dict[str, list[Any]]:
    """Return every row that the transaction is about: a drain takes its lease in one of its own."""
    database = DatabaseManager(url)
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
    database_url: str, name: str
) -> None:
    await prepare(database_url)
    rows = await rows_of(database_url, name)

    killed_before = act(database_url, name, kill_at=f"storage.{name}.commit.before")
    rows_before = await rows_of(database_url, name)
    killed_after = act(database_url, name, kill_at=f"storage.{name}.commit.after")
    rows_after = await rows_of(database_url, name)

    assert (killed_before, killed_after) == (-signal.SIGKILL, -signal.SIGKILL)
    assert changed(rows, rows_before) == set()
    assert changed(rows, rows_after) == TABLES[name]
