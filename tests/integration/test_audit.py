"""A whole federation is in its audit log, and its clients notice when that is rewritten."""

import sqlite3
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from kumiai.core.errors import IntegrityError
from kumiai.identity import TrustBundle
from kumiai.identity.audit import LogHead
from kumiai.node.auditing.export import verify_export
from kumiai.node.auditing.kept import KEPT_FILE, KeptCheckpoint
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job
from tests.integration.study import app

PLANTED = "planted-secret-71f3"


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, f"sqlite:///{tmp_path}/kumiai.db")
    await federation.start()
    yield federation
    await federation.stop()


async def entries_of(federation: Federation, query: str = "") -> list[dict[str, Any]]:
    async with federation.http() as http:
        answer = await http.get(f"/api/v1/audit?order=oldest&limit=500{query}")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["entries"]
        return found


async def restart(federation: Federation) -> None:
    """Stop the coordinator, which signs, and start it again."""
    assert federation.server is not None
    await federation.server.stop()
    await federation.start()


async def kept_by(federation: Federation, client: str, size: int = 1) -> KeptCheckpoint:
    folder = federation.folder / "clients" / client

    async def look() -> KeptCheckpoint | None:
        return KeptCheckpoint.find(folder)

    found = await eventually(look, lambda kept: kept and kept.checkpoint.size >= size)
    assert isinstance(found, KeptCheckpoint)
    return found


async def test_a_run_is_told_from_its_beginning_to_its_end(federation: Federation) -> None:
    await federation.start_clients(2)
    run_id = await federation.submit(job(run={"rounds": 2}), app)
    await federation.wait_for(run_id)
    await federation.stop_client("site-1")

    async def acts() -> list[str]:
        return [entry["act"] for entry in await entries_of(federation)]

    found = await eventually(acts, lambda acts: "client.detached" in acts)

    assert found[0] == "schema.migrated"
    assert found.index("coordinator.started") < found.index("client.attached")
    assert found.count("client.attached") == 2
    assert [act for act in found if act.startswith(("run.", "model."))] == [
        "run.created",
        "model.published",
        "model.published",
        "run.finished",
    ]
    submitted = (await entries_of(federation, "&act=run.created"))[0]
    assert (submitted["actor"]["name"], submitted["subject"]) == ("operator", f"run/{run_id}")


async def test_who_is_refused_is_told_once_and_then_counted(federation: Federation) -> None:
    assert federation.server is not None
    stranger = ssl.create_default_context(cafile=federation.certificates["coordinator"].ca)
    url = f"https://localhost:{federation.server.http_port}"
    async with httpx.AsyncClient(base_url=url, verify=stranger, timeout=60) as http:
        for _ in range(5):
            assert (await http.get("/api/v1/runs")).status_code == 403

    async def refused() -> list[dict[str, Any]]:
        return await entries_of(federation, "&act=authentication.refused")

    (first,) = await eventually(refused, lambda found: found)

    assert first["actor"]["role"] == "nobody"
    assert first["actor"]["address"] == "127.0.0.1"
    assert first["detail"]["call"].startswith("GET /api/v1/runs")


async def test_the_log_holds_no_secret_and_no_name(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    await federation.start_clients(2)
    run_id = await federation.submit(job(run={"rounds": 1}, train={"password": PLANTED}), app)
    await federation.wait_for(run_id)
    async with federation.http() as http:
        await http.patch(f"/api/v1/runs/{run_id}", json={"description": PLANTED})
        await http.post(f"/api/v1/runs/{run_id}/stop", json={"reason": PLANTED})
        text = (await http.get("/api/v1/audit/export")).text
    await restart(federation)

    trust = TrustBundle.load(federation.certificates["coordinator"].ca)
    assert verify_export(text.encode().splitlines(keepends=True), trust).size > 6
    said = capfd.readouterr()
    secrets = [PLANTED]
    secrets += [
        line
        for path in federation.folder.rglob("*.key")
        for line in path.read_bytes().decode("latin-1").splitlines()
        if "PRIVATE" not in line and len(line) > 16
    ]
    with sqlite3.connect(federation.folder / "kumiai.db") as database:
        rows = database.execute("SELECT secret FROM audit_persons").fetchall()
    secrets += [row[0].hex() for row in rows]
    assert len(secrets) > 6
    for secret in secrets:
        assert secret not in text
        assert secret not in said.out + said.err
    assert '"operator"' in text  # the role
    assert "site-1" not in text


async def test_clients_keep_what_was_signed_and_follow_it(federation: Federation) -> None:
    await federation.start_clients(2)
    await restart(federation)
    first = await kept_by(federation, "site-1")

    await restart(federation)
    second = await kept_by(federation, "site-1", first.checkpoint.size + 1)

    assert second.checkpoint.origin == "kumiai/test/audit"
    run_id = await federation.submit(job(run={"rounds": 1}), app)
    await federation.wait_for(run_id)


def rewrite(folder: Path) -> None:
    """Change the first entry, make all hashes anew, and take the signatures away."""
    with sqlite3.connect(folder / "kumiai.db", isolation_level=None) as database:
        named = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit%'"
        for (name,) in database.execute(named).fetchall():
            database.execute(f"DROP TRIGGER {name}")
        head = LogHead()
        entries = database.execute("SELECT sequence, body FROM audit_entries ORDER BY sequence")
        for sequence, body in entries.fetchall():
            told = orjson.loads(body)
            told["detail"] = {"direction": "down"} if sequence == 0 else told["detail"]
            body = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)  # noqa: PLW2901
            head, _ = head.appended(body)
            database.execute(
                "UPDATE audit_entries SET body = ?, chain = ? WHERE sequence = ?",
                (body.decode(), head.chain, sequence),
            )
        database.execute(
            "UPDATE audit_head SET chain = ?, frontier = ?", (head.chain, head.frontier)
        )
        database.execute("DELETE FROM audit_checkpoints")


async def test_a_client_does_not_work_for_who_rewrote_the_history(
    federation: Federation,
) -> None:
    await federation.start_clients(1)
    await restart(federation)
    await kept_by(federation, "site-1")
    await federation.stop()
    rewrite(federation.folder)
    # Whoever owns the machine takes the coordinator's own memory away, and has it sign.
    (federation.folder / "data" / KEPT_FILE).unlink()
    await federation.start()
    await restart(federation)

    running = federation.start_client("site-1")

    with pytest.raises(IntegrityError, match=r"must continue what this client has seen .* rewrit"):
        await running


async def test_a_client_does_not_work_for_who_threw_the_history_away(
    federation: Federation,
) -> None:
    await federation.start_clients(1)
    await restart(federation)
    await kept_by(federation, "site-1")
    await federation.stop()
    for path in federation.folder.glob("kumiai.db*"):
        path.unlink()
    (federation.folder / "data" / KEPT_FILE).unlink()
    await federation.start()

    running = federation.start_client("site-1")

    with pytest.raises(IntegrityError, match=r"got none; do not work for this coordinator"):
        await running


async def test_a_coordinator_does_not_sign_what_was_rewritten(
    federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    await federation.start_clients(1)
    await restart(federation)
    await federation.stop()
    rewrite(federation.folder)

    await federation.start()
    await federation.stop()

    assert "must continue what was signed" in capfd.readouterr().out
    with sqlite3.connect(federation.folder / "kumiai.db") as database:
        assert database.execute("SELECT count(*) FROM audit_checkpoints").fetchone() == (0,)
