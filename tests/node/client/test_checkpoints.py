"""What a client keeps of the audit log, and whom it refuses."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError, IntegrityError
from kumiai.identity import CertificateManager, Role
from kumiai.identity.audit import Act, Actor, AuditScribe, NewEntry
from kumiai.node.auditing.kept import KEPT_FILE
from kumiai.node.auditing.signer_files import load_signer
from kumiai.node.client.checkpoints import CheckpointGuard
from kumiai.node.coordinator.auditing import CheckpointKeeper
from kumiai.node.coordinator.checkpoint_offers import CheckpointOffers
from kumiai.node.coordinator.sessions import ClientSession, SessionHub
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.storage import AuditLog, DatabaseManager
from kumiai.testing.databases import SQLiteTemplate


class Coordinator:
    """A log with its signer; each has an authority of its own unless one is given."""

    def __init__(self, folder: Path, database: DatabaseManager, federation: str = "h") -> None:
        authority = CertificateManager(folder / "ca", clock=SystemClock())
        authority.create(federation)
        own = authority.issue(Role.COORDINATOR, "c", hosts=["localhost"], out_dir=folder / "own")
        self.client = authority.issue(Role.CLIENT, "site-1", out_dir=folder / "client")
        self.log = AuditLog(database, AuditScribe())
        self._keeper = CheckpointKeeper(
            self.log, lambda: load_signer(folder, own.cert, own.key), SystemClock(), folder
        )
        self.hub = SessionHub(SystemClock())
        self.offers = CheckpointOffers(self.log, self.hub)

    async def grow(self, count: int) -> None:
        actor = Actor("coordinator", "c")
        await self.log.record([NewEntry(Act.RUN_CREATED, actor, f"run/{n}") for n in range(count)])
        await self._keeper.sign()

    async def offer(self, known: int = 0) -> pb.AuditCheckpoint | None:
        return await self.offers.offer(known)


@pytest.fixture
async def coordinators(
    tmp_path: Path, sqlite_template: SQLiteTemplate
) -> AsyncIterator[tuple[Coordinator, Coordinator]]:
    """Two that know nothing of each other."""
    found, databases = [], []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        url = sqlite_template.copy_to(tmp_path / name / "kumiai.db")
        databases.append(DatabaseManager(url))
        await databases[-1].connect()
        found.append(Coordinator(tmp_path / name, databases[-1]))
    yield found[0], found[1]
    for database in databases:
        await database.close()


def guard_of(coordinator: Coordinator, folder: Path) -> CheckpointGuard:
    files = coordinator.client
    return CheckpointGuard(folder / "state", ca=files.ca, certificate=files.cert)


async def test_each_checkpoint_follows_the_one_before_also_after_a_restart(
    coordinators: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    coordinator, _ = coordinators
    guard = guard_of(coordinator, tmp_path)
    assert await coordinator.offer() is None
    await guard.take(None)
    assert guard.known_size == 0

    for size in (3, 4, 300):
        await coordinator.grow(size - guard.known_size)
        await guard.take(await coordinator.offer(guard.known_size))
        assert guard.known_size == size
        guard = guard_of(coordinator, tmp_path)

    await guard.take(await coordinator.offer(guard.known_size))
    assert guard.known_size == 300


async def test_another_history_is_refused(
    coordinators: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    coordinator, _ = coordinators
    guard = guard_of(coordinator, tmp_path)
    await coordinator.grow(5)
    await guard.take(await coordinator.offer())
    await coordinator.grow(4)
    offered = await coordinator.offer(5)
    assert offered is not None

    forged = pb.AuditCheckpoint(note=offered.note, key=offered.key, from_size=5)
    with pytest.raises(IntegrityError, match=r"history was rewritten; do not work for this"):
        await guard.take(forged)
    with pytest.raises(IntegrityError, match="at least 5 signed entries, got none"):
        await guard.take(None)
    changed = pb.AuditCheckpoint(note=offered.note.replace("\n9\n", "\n8\n"), key=offered.key)
    with pytest.raises(IntegrityError, match="must be signed by a known key"):
        await guard.take(changed)
    assert guard.known_size == 5


async def test_a_checkpoint_of_a_stranger_is_refused(
    coordinators: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    mine, stranger = coordinators
    guard = guard_of(mine, tmp_path)
    await stranger.grow(3)

    with pytest.raises(CertificateError, match="must continue what this client has seen"):
        await guard.take(await stranger.offer())

    assert not (tmp_path / "state" / KEPT_FILE).exists()


async def test_a_log_of_another_federation_is_refused(
    tmp_path: Path, database: DatabaseManager, coordinators: tuple[Coordinator, Coordinator]
) -> None:
    other = Coordinator(tmp_path / "other", database, federation="other")
    await other.grow(1)

    with pytest.raises(IntegrityError, match="log must be kumiai/h/audit, got kumiai/other/audit"):
        await guard_of(coordinators[0], tmp_path).take(await other.offer())


async def test_a_damaged_file_ends_the_client_before_it_begins(
    coordinators: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / KEPT_FILE).write_text("{")

    with pytest.raises(IntegrityError, match="must hold the newest checkpoint"):
        guard_of(coordinators[0], tmp_path)


async def test_proofs_for_many_clients_are_made_once(
    coordinators: tuple[Coordinator, Coordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kumiai.node.coordinator.checkpoint_offers._PROOFS_MAX", 2)
    coordinator, _ = coordinators
    await coordinator.grow(5)
    first = await coordinator.offer(2)

    for known in (3, 4, 2, 2):
        assert await coordinator.offer(known) is not None

    assert await coordinator.offer(2) == first
    assert len(coordinator.offers._proofs) == 2
    unknown = await coordinator.offer(99)
    assert unknown is not None
    assert list(unknown.path) == []


def session_of(coordinator: Coordinator, name: str, *, known: int | None) -> ClientSession:
    session = ClientSession(
        client_id=name,
        instance_id=f"{name}-1",
        address="10.0.0.1",
        software_version="0.1.0",
        apps=("digits",),
        attached_at=0.0,
        last_heard=0.0,
        audit_size=known,
    )
    coordinator.hub.attach(session)
    return session


async def test_a_new_checkpoint_is_sent_to_everybody_who_is_welcome(
    coordinators: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    coordinator, _ = coordinators
    await coordinator.grow(5)
    guard = guard_of(coordinator, tmp_path)
    await guard.take(await coordinator.offer())
    welcome = session_of(coordinator, "site-1", known=5)
    waiting = session_of(coordinator, "site-2", known=None)
    serving = asyncio.create_task(coordinator.offers.serve())

    for size in (9, 300):
        await coordinator.grow(size - guard.known_size)
        coordinator.offers.announce()
        async with asyncio.timeout(30):
            message = await welcome.outgoing.get()
        await guard.take(message.audit)
        assert guard.known_size == welcome.audit_size == size

    assert waiting.outgoing.empty()
    serving.cancel()


async def test_before_the_first_checkpoint_nothing_is_sent(
    coordinators: tuple[Coordinator, Coordinator],
) -> None:
    coordinator, _ = coordinators
    session = session_of(coordinator, "site-1", known=0)

    await coordinator.offers._tell_all()

    assert session.outgoing.empty()
    assert session.audit_size == 0


async def test_a_database_that_is_away_is_told_of_and_the_next_checkpoint_reaches_everybody(
    tmp_path: Path, sqlite_template: SQLiteTemplate
) -> None:
    database = DatabaseManager(sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await database.connect()
    coordinator = Coordinator(tmp_path, database)
    await coordinator.grow(3)
    session = session_of(coordinator, "site-1", known=0)
    serving = asyncio.create_task(coordinator.offers.serve())

    with capture_logs() as logged:
        await database.close()
        coordinator.offers.announce()
        async with asyncio.timeout(30):
            while not logged:
                await asyncio.sleep(0.01)
    await database.connect()
    coordinator.offers.announce()
    async with asyncio.timeout(30):
        message = await session.outgoing.get()

    assert logged[0]["event"] == "checkpoint not sent to all clients"
    assert session.audit_size == 3
    assert message.audit.from_size == 0
    serving.cancel()
    await database.close()
