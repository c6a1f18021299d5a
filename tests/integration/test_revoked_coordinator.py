"""Clients refuse a coordinator whose certificate is revoked, as soon as they know it."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, IssuedCertificate, Role
from kumiai.node.client.revocations import KEPT_FILE
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


def stolen(federation: Federation) -> IssuedCertificate:
    """Return a copy of the coordinator's files, as a thief would have them."""
    own = federation.certificates["coordinator"]
    folder = federation.folder / "thief"
    folder.mkdir()
    for each in (own.cert, own.key, own.ca):
        shutil.copy2(each, folder / each.name)
    names = (folder / own.cert.name, folder / own.key.name, folder / own.ca.name)
    return IssuedCertificate(own.identity, *names)


def install(source: IssuedCertificate, target: IssuedCertificate) -> None:
    for fresh, old in ((source.key, target.key), (source.cert, target.cert)):
        waiting = old.with_suffix(".new")
        shutil.copy2(fresh, waiting)
        waiting.replace(old)


def new_certificate(federation: Federation) -> IssuedCertificate:
    return federation.authority.issue(
        Role.COORDINATOR,
        "coordinator",
        hosts=("localhost", "127.0.0.1"),
        out_dir=federation.folder / "fresh",
    )


def revoke(authority: CertificateManager, issued: IssuedCertificate) -> None:
    authority.revoke(issued.identity.serial, "key-compromise")


def kept_by(federation: Federation, name: str) -> Path:
    return federation.folder / "clients" / name / KEPT_FILE


async def test_a_coordinator_with_a_stolen_and_revoked_key_gets_no_session(
    federation: Federation,
) -> None:
    assert federation.server is not None
    old = stolen(federation)
    await federation.start_clients(1)
    agent = federation.agents["site-1"]
    install(new_certificate(federation), federation.certificates["coordinator"])
    revoke(federation.authority, old)
    newest = federation.authority.revocation_list_path.read_bytes()
    await eventually(
        lambda: (
            kept_by(federation, "site-1").is_file()
            and kept_by(federation, "site-1").read_bytes() == newest
        )
    )

    with capture_logs() as logged:
        # The thief answers at the coordinator's address from now on.
        await federation.server.stop()
        install(old, federation.certificates["coordinator"])
        await federation.start()
        refused = await eventually(
            lambda: [each for each in logged if each["event"] == "coordinator refused"], seconds=30
        )
        assert not agent.attached.is_set()

    assert "must not be revoked" in refused[0]["error"]
    assert not federation.clients["site-1"].done()
    await federation.server.stop()
    shutil.rmtree(federation.folder / "fresh")
    install(new_certificate(federation), federation.certificates["coordinator"])
    await federation.start()
    async with asyncio.timeout(30):
        await agent.attached.wait()


async def test_a_session_ends_when_its_coordinators_certificate_is_revoked(
    federation: Federation,
) -> None:
    await federation.start_clients(1)

    with capture_logs() as logged:
        revoke(federation.authority, federation.certificates["coordinator"])
        await eventually(
            lambda: [each for each in logged if each["event"] == "coordinator refused"], seconds=30
        )
        await eventually(lambda: not federation.agents["site-1"].attached.is_set())


async def test_an_update_is_not_sent_to_whoever_holds_a_revoked_certificate(
    federation: Federation,
) -> None:
    study.hold["site-1"] = threading.Event()
    await federation.start_clients(1)
    run_id = await federation.submit(job(run={"rounds": 1}, cohort={"size": 1}), study.app)
    await federation.until_round(run_id, 1)
    kept = kept_by(federation, "site-1")
    await eventually(kept.is_file)
    shutil.copytree(federation.authority.certificate_path.parent, federation.folder / "elsewhere")
    elsewhere = CertificateManager(federation.folder / "elsewhere", clock=SystemClock())
    revoke(elsewhere, federation.certificates["coordinator"])

    with capture_logs() as logged:
        # Only to the site: the session that is open, and the coordinator, know nothing of it.
        elsewhere.revocation_list_path.replace(kept)
        study.hold.pop("site-1").set()
        refused = await eventually(
            lambda: [each for each in logged if each["event"] == "coordinator refused"], seconds=30
        )

    assert "must not be revoked" in refused[0]["error"]
    assert federation.agents["site-1"].attached.is_set()
    async with federation.http() as http:
        rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
    assert not any(each["reports"] for each in rounds[1:])
