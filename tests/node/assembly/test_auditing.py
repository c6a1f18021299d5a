import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, Role
from kumiai.node.assembly.auditing import CoordinatorAudit
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.settings import Settings
from kumiai.storage import DatabaseManager
from kumiai.testing.databases import SQLiteTemplate


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


@pytest.fixture
async def audit(tmp_path: Path, database: DatabaseManager) -> AsyncIterator[CoordinatorAudit]:
    clock = SystemClock()
    authority = CertificateManager(tmp_path / "ca", clock=clock)
    authority.create("test")
    own = authority.issue(
        Role.COORDINATOR, "coordinator", hosts=["localhost"], out_dir=tmp_path / "own"
    )
    settings = Settings.model_validate(
        {
            "identity": {"certificate": own.cert, "key": own.key, "ca": own.ca},
            "coordinator": {"data_dir": tmp_path},
        }
    )
    audit = CoordinatorAudit(settings, database, clock, "coordinator-1", SessionHub(clock))
    yield audit
    await audit.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_signer_that_dies_is_told_of_and_signs_again(
    audit: CoordinatorAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def broken_once() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(audit.keeper, "_look", broken_once)
    with capture_logs() as logged:
        await audit.open([])
        well_at_first = audit.unwell()
        await until(lambda: looks > 1)
    ends = [each for each in logged if each["event"].startswith("background work ended")]

    assert well_at_first == []
    assert audit.unwell() == ["audit signer"]
    assert [(each["work"], each["log_level"]) for each in ends] == [("audit signer", "error")]


async def test_what_waits_is_written_and_signed_at_the_end(audit: CoordinatorAudit) -> None:
    await audit.open([])

    await audit.close()
    await audit.close()

    newest = await audit.log.find_newest_checkpoint()
    assert newest is not None
    assert newest.size == 2  # the start and the stop


async def test_what_never_was_opened_writes_nothing(audit: CoordinatorAudit) -> None:
    await audit.close()

    assert await audit.log.end() is None
