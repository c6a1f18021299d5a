"""``kumiai db`` against real databases: what it tells, and its exit codes."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from kumiai.storage.schema import head, revisions
from kumiai.testing.databases import PostgresServer
from tests.node.cli.program import Outcome, invoke

HEAD = head()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        (folder / "empty.db").touch(mode=0o600)
        return f"sqlite:///{folder}/empty.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(migrated=False)


def db(url: str, *arguments: str) -> Outcome:
    return invoke("db", *arguments, environ={"KUMIAI_STORAGE__DATABASE": url})


def test_the_tables_are_made_and_then_there_is_nothing_to_do(url: str) -> None:
    before = db(url, "status", "-o", "json")
    planned = db(url, "migrate", "--dry-run", "-o", "json")
    first = db(url, "migrate")
    second = db(url, "migrate")
    after = db(url, "status", "-o", "json")

    assert (before.code, before.data["schema_revision"]) == (1, None)
    assert [step["revision"] for step in planned.data] == revisions()
    assert all(step["dry_run"] for step in planned.data)
    assert first.code == 0
    assert "went up  0001" in first.out
    assert (second.code, second.out) == (0, "nothing to do\n")
    assert (after.code, after.data["is_schema_current"]) == (0, True)


def test_going_down_must_be_meant(url: str) -> None:
    db(url, "migrate")

    refused = db(url, "migrate", "--to", "0001")
    planned = db(url, "migrate", "--to", "0001", "--dry-run")
    done = db(url, "migrate", "--to", "0001", "--yes")
    told = db(url, "status")

    assert refused.code == 2
    assert "--yes must be given" in refused.err
    assert planned.out.startswith(f"would go down  {HEAD}")
    assert done.out.startswith(f"went down  {HEAD}")
    assert told.code == 1
    assert f"this version needs {HEAD}" in told.out


def test_an_unknown_revision_is_a_usage_error(url: str) -> None:
    outcome = db(url, "migrate", "--to", "0099")

    assert outcome.code == 2
    assert "revision must be one of 0001, 0002" in outcome.err


def test_a_healthy_database_has_nothing_wrong(url: str) -> None:
    db(url, "migrate")

    outcome = db(url, "check", "-o", "json")

    assert outcome.code == 0, outcome.out
    assert {"connection", "schema", "integrity"} <= {each["check"] for each in outcome.data}
    assert not [each for each in outcome.data if each["state"] == "wrong"]


def test_a_schema_that_is_too_old_is_found_with_its_mend(url: str) -> None:
    outcome = db(url, "check")

    assert outcome.code == 1
    assert "kumiai db migrate" in outcome.out


def test_a_status_for_people_says_what_a_status_for_programs_says(url: str) -> None:
    db(url, "migrate")

    told = db(url, "status").out

    assert f"{HEAD}, that of this version" in told
    assert "takes writes  yes" in told


@pytest.mark.parametrize("command", ["status", "check"])
def test_a_file_that_is_not_there_is_not_created(folder: Path, command: str) -> None:
    outcome = db(f"sqlite:///{folder}/none.db", command)

    assert outcome.code == 3
    assert not (folder / "none.db").exists()


def test_migrating_creates_the_file(folder: Path) -> None:
    assert db(f"sqlite:///{folder}/new.db", "migrate").code == 0
    assert db(f"sqlite:///{folder}/new.db", "status").code == 0


@pytest.mark.parametrize("command", ["status", "check", "migrate"])
def test_a_wrong_url_is_a_configuration_error(command: str) -> None:
    outcome = db("mysql://user:hunter2@host/name", command)

    assert outcome.code == 2
    assert "database.url must begin with" in outcome.err
    assert "hunter2" not in outcome.err


def test_a_transaction_may_not_stand_idle_for_longer_than_a_lease(folder: Path) -> None:
    outcome = invoke(
        "db", "migrate", "--set", "storage.idle_in_transaction_timeout_seconds=5",
        "--set", "coordinator.lease_seconds=5",
        environ={"KUMIAI_STORAGE__DATABASE": f"sqlite:///{folder}/a.db"},
    )  # fmt: skip

    assert outcome.code == 2
    assert "must be below coordinator.lease_seconds (5), got 5" in outcome.err


def test_a_newer_schema_is_refused(folder: Path) -> None:
    url = f"sqlite:///{folder}/a.db"
    db(url, "migrate")
    with contextlib.closing(sqlite3.connect(folder / "a.db")) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.commit()

    for command in ("migrate", "check"):
        outcome = db(url, command)
        assert outcome.code == 1
        assert "upgrade this one" in outcome.out + outcome.err
    assert db(url, "status").code == 1


def test_a_damaged_file_is_found(folder: Path) -> None:
    url = f"sqlite:///{folder}/a.db"
    db(url, "migrate")
    with contextlib.closing(sqlite3.connect(folder / "a.db")) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("PRAGMA journal_mode = DELETE")
        (root,) = other.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_runs_state'"
        ).fetchone()
        (size,) = other.execute("PRAGMA page_size").fetchone()
    with (folder / "a.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 64)

    outcome = db(url, "check")

    assert outcome.code == 1
    assert "restore" in outcome.out


def test_rows_that_lost_what_they_refer_to_are_found(folder: Path) -> None:
    url = f"sqlite:///{folder}/a.db"
    db(url, "migrate")
    with contextlib.closing(sqlite3.connect(folder / "a.db")) as other:
        other.execute(
            "INSERT INTO events (run_id, at, level, kind, text) VALUES ('x', 0, 'info', 'k', 't')"
        )
        other.commit()

    outcome = db(url, "check")

    assert outcome.code == 1
    assert "events to runs" in outcome.out


def test_a_server_that_is_not_there_is_a_finding_with_its_mend() -> None:
    url = "postgresql://user:hunter2@127.0.0.1:1/name"

    found, told = db(url, "check"), db(url, "status")

    assert (found.code, told.code) == (1, 1)
    assert "see that the server runs" in found.out
    assert "hunter2" not in found.out + told.err


def test_a_file_that_is_no_database_says_so(folder: Path) -> None:
    (folder / "a.db").write_bytes(b"not a database, but long enough to be read" * 100)

    outcome = db(f"sqlite:///{folder}/a.db", "check")

    assert outcome.code == 1
    assert "not a database" in outcome.out
    assert "give the path of a database file" in outcome.out
