import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import IntegrityError, StorageError
from kumiai.identity import CertificateManager, Role, TrustBundle
from kumiai.identity.audit import (
    Act,
    Actor,
    AuditScribe,
    CheckpointSigner,
    NewEntry,
    Outcome,
    decode_entry,
)
from kumiai.node.auditing.evidence import AuditEvidence, TrustedKeys
from kumiai.node.auditing.kept import KEPT_FILE, KeptCheckpoint
from kumiai.node.auditing.signer_files import load_signer
from kumiai.node.coordinator.auditing import (
    AuditRecorder,
    AuditTimes,
    CheckpointKeeper,
    RefusalCounter,
    host_of,
)
from kumiai.storage import AuditLog, AuditRecord, DatabaseManager

ANN = Actor("operator", "ann", 7, "10.0.0.1")
FAST = AuditTimes(
    checkpoint_seconds=0.01, look_seconds=0.01, refusals_seconds=0.05, retry_seconds=0.01
)


@pytest.fixture
def log(database: DatabaseManager) -> AuditLog:
    return AuditLog(database, AuditScribe())


async def all_of(log: AuditLog) -> list[AuditRecord]:
    return [record async for record in log.read(0, 2**40)]


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # type: ignore[misc]
            await asyncio.sleep(0.01)


def admits(counter: RefusalCounter, address: str, now: float) -> bool:
    return counter.admits(address, Actor("nobody", address=address), now)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_an_address_is_told_without_its_port(peer: str, host: str) -> None:
    assert host_of(peer) == host


# --------------------------------------------------------------------------------- refusals


def test_of_an_address_the_first_refusal_is_told_and_the_others_counted() -> None:
    counter = RefusalCounter(60.0, 32, 1)

    admitted = [admits(counter, "10.0.0.1", 1.0) for _ in range(1000)]

    assert admitted == [True] + [False] * 999
    assert counter.summaries(60.9) == []
    (summary,) = counter.summaries(61.0)
    assert summary.detail == {"repeated": 999, "seconds": 60}
    assert summary.actor == Actor("nobody", address="10.0.0.1")
    assert counter.summaries(200.0) == []
    assert admits(counter, "10.0.0.1", 201.0)


def test_a_flood_from_many_addresses_fills_no_disk() -> None:
    counter = RefusalCounter(60.0, 32, 1)

    admitted = [admits(counter, f"10.0.{n // 250}.{n % 250}", 1.0) for n in range(10_000)]

    assert sum(admitted) == 32
    assert len(counter.callers) == 33
    (summary,) = counter.summaries(0.0, is_last=True)
    assert summary.detail["repeated"] == 10_000 - 32
    assert summary.actor.person is None


# --------------------------------------------------------------------------------- recording


async def test_what_is_recorded_is_on_disk_a_moment_later(log: AuditLog) -> None:
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1", FAST)
    writing = asyncio.create_task(recorder.serve())
    recorder.record_own(Act.COORDINATOR_STARTED, detail={"settings": "abc"})
    recorder.record(Act.CLIENT_ATTACHED, "", Outcome.DONE, Actor("client", "site-1"), {})
    for _ in range(50):
        nobody = Actor("nobody", address="ipv4:1.2.3.4:9")
        recorder.record_refusal(Act.AUTHENTICATION_REFUSED, "", nobody, {"kind": "none"})

    async def is_told() -> bool:
        return len(await all_of(log)) == 4

    await eventually(is_told)

    entries = [decode_entry(record.body.encode()) for record in await all_of(log)]
    assert [(entry.act, entry.outcome) for entry in entries] == [
        ("coordinator.started", "done"),
        ("client.attached", "done"),
        ("authentication.refused", "refused"),
        ("authentication.refused", "refused"),
    ]
    assert entries[0].actor == "coordinator-1"
    assert entries[3].detail == {"repeated": 49, "seconds": 0}
    assert len(await log.persons_named("1.2.3.4", "address")) == 1
    writing.cancel()


async def test_a_database_that_fails_for_a_while_loses_nothing(database_url: str) -> None:
    database = DatabaseManager(database_url)
    log = AuditLog(database, AuditScribe())
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1", FAST)
    recorder.record_own(Act.COORDINATOR_STARTED)
    with pytest.raises(StorageError):
        await recorder.flush()
    writing = asyncio.create_task(recorder.serve())
    await asyncio.sleep(0)  # it begins, and fails

    await database.connect()

    async def is_told() -> bool:
        return len(await all_of(log)) == 1

    await eventually(is_told)
    writing.cancel()
    await database.close()


async def test_what_does_not_fit_is_counted(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kumiai.node.coordinator.auditing._WAITING_MAX", 2)
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1", FAST)
    for _ in range(5):
        recorder.record_own(Act.COORDINATOR_STARTED)

    await recorder.flush()

    entries = [decode_entry(record.body.encode()) for record in await all_of(log)]
    assert [entry.act for entry in entries] == ["coordinator.started"] * 2 + ["audit.entries_lost"]
    assert entries[2].detail == {"count": 3}


async def test_what_comes_while_others_are_written_is_written_too(log: AuditLog) -> None:
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1", FAST)
    recorder.record_own(Act.COORDINATOR_STARTED)
    writing = asyncio.create_task(recorder.flush())
    while not recorder._writing.locked():
        await asyncio.sleep(0)

    recorder.record_own(Act.COORDINATOR_STOPPED)
    await writing

    entries = [decode_entry(record.body.encode()) for record in await all_of(log)]
    assert [entry.act for entry in entries] == ["coordinator.started", "coordinator.stopped"]


async def test_at_the_end_the_counted_refusals_are_written(log: AuditLog) -> None:
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1")
    for _ in range(3):
        recorder.record_refusal(
            Act.AUTHENTICATION_REFUSED, "", Actor("nobody", address="1.2.3.4"), {}
        )

    await recorder.flush(is_last=True)

    entries = [decode_entry(record.body.encode()) for record in await all_of(log)]
    assert [entry.detail for entry in entries] == [{}, {"repeated": 2, "seconds": 60}]


async def test_a_refusal_of_somebody_who_is_known_is_on_disk_before_the_answer(
    log: AuditLog,
) -> None:
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1")
    writing = asyncio.create_task(recorder.serve())
    for number in range(20):
        recorder.record_refusal(
            Act.PERMISSION_DENIED, "", ANN, {"call": number}, caller="operator/ann"
        )
    await recorder.written()
    writing.cancel()

    entries = [decode_entry(record.body.encode()) for record in await all_of(log)]
    assert [entry.detail["call"] for entry in entries] == list(range(8))
    await recorder.flush(is_last=True)
    last = decode_entry((await all_of(log))[-1].body.encode())
    assert last.detail == {"repeated": 12, "seconds": 60}
    assert last.person == entries[0].person


async def test_strangers_take_no_room_from_those_who_are_known(log: AuditLog) -> None:
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1")
    for number in range(1000):
        stranger = Actor("client", f"site-{number}", address=f"10.0.{number // 250}.{number % 250}")
        recorder.record_refusal(Act.AUTHENTICATION_REFUSED, "", stranger, {})

    recorder.record_refusal(Act.PERMISSION_DENIED, "", ANN, {}, caller="operator/ann")

    await recorder.flush()
    acts = [record.act for record in await all_of(log)]
    assert acts == ["authentication.refused"] * 32 + ["permission.denied"]


async def test_a_database_that_is_away_does_not_hold_up_answers(database_url: str) -> None:
    recorder = AuditRecorder(
        AuditLog(DatabaseManager(database_url), AuditScribe()),
        SystemClock(),
        "coordinator-1",
        replace(FAST, written_seconds=0.01),
    )
    writing = asyncio.create_task(recorder.serve())
    recorder.record_refusal(Act.PERMISSION_DENIED, "", ANN, {}, caller="operator/ann")

    async with asyncio.timeout(30):
        await recorder.written()

    writing.cancel()
    with pytest.raises(StorageError):  # it waits still
        await recorder.flush()


async def test_with_nothing_to_write_nothing_is_waited_for(log: AuditLog) -> None:
    recorder = AuditRecorder(log, SystemClock(), "coordinator-1")

    async with asyncio.timeout(30):
        await recorder.written()


# ---------------------------------------------------------------------------------- signing


@pytest.fixture
def authority(tmp_path: Path) -> CertificateManager:
    manager = CertificateManager(tmp_path / "ca", clock=SystemClock())
    manager.create("hospitals")
    return manager


@pytest.fixture
def signer(authority: CertificateManager, tmp_path: Path) -> CheckpointSigner:
    mine = authority.issue(
        Role.COORDINATOR, "coordinator", hosts=["localhost"], out_dir=tmp_path / "mine"
    )
    return load_signer(tmp_path, mine.cert, mine.key)


async def fill(log: AuditLog, count: int) -> None:
    await log.record([NewEntry(Act.RUN_CREATED, ANN, f"run/{n}") for n in range(count)])


async def test_the_log_is_signed_now_and_then_and_only_when_it_grew(
    log: AuditLog, signer: CheckpointSigner, authority: CertificateManager, tmp_path: Path
) -> None:
    told: list[int] = []
    keeper = CheckpointKeeper(
        log,
        lambda: signer,
        SystemClock(),
        tmp_path,
        times=FAST,
        on_checkpoint=lambda: told.append(1),
    )
    await keeper.sign()
    signing = asyncio.create_task(keeper.serve())
    for expected in (3, 6):
        await fill(log, 3)

        async def is_signed(size: int = expected) -> bool:
            newest = await log.find_newest_checkpoint()
            return newest is not None and newest.size == size

        await eventually(is_signed)
    signing.cancel()
    await keeper.sign()

    keys = TrustedKeys(await log.signers(), TrustBundle.load(authority.certificate_path))
    assert (await AuditEvidence(log).verify(keys)).signed_size == 6
    assert len(told) == 2
    kept = KeptCheckpoint.find(tmp_path)
    assert kept is not None
    assert kept.checkpoint.size == 6


async def test_a_thousand_entries_are_signed_at_once(
    log: AuditLog, signer: CheckpointSigner, tmp_path: Path
) -> None:
    times = AuditTimes(checkpoint_entries=5, checkpoint_seconds=3600, look_seconds=0.01)
    keeper = CheckpointKeeper(log, lambda: signer, SystemClock(), tmp_path, times=times)
    await fill(log, 4)
    await keeper._look()
    assert await log.find_newest_checkpoint() is None

    await fill(log, 1)
    await keeper._look()

    assert await log.find_newest_checkpoint() is not None


async def test_another_history_is_not_signed(
    database_url: str,
    log: AuditLog,
    signer: CheckpointSigner,
    tmp_path: Path,
) -> None:
    keeper = CheckpointKeeper(log, lambda: signer, SystemClock(), tmp_path)
    await fill(log, 5)
    await keeper.sign()
    other = DatabaseManager(f"sqlite:///{tmp_path}/other.db")
    await other.connect()
    await other.migrate()
    rewritten = AuditLog(other, AuditScribe())
    swapped = CheckpointKeeper(rewritten, lambda: signer, SystemClock(), tmp_path)

    for count in (3, 4):
        await fill(rewritten, count)
        with pytest.raises(IntegrityError, match="must continue what was signed at 5 entries"):
            await swapped.sign()

    assert await rewritten.find_newest_checkpoint() is None
    await other.close()


async def test_a_signer_that_may_not_sign_says_so_and_goes_on(
    log: AuditLog, signer: CheckpointSigner, tmp_path: Path
) -> None:
    (tmp_path / KEPT_FILE).write_text("{}")
    await fill(log, 1)

    with capture_logs() as logged:
        keeper = CheckpointKeeper(log, lambda: signer, SystemClock(), tmp_path, times=FAST)
        signing = asyncio.create_task(keeper.serve())

        async def is_said() -> bool:
            return any(each["event"] == "audit log not signed" for each in logged)

        await eventually(is_said)
    assert not signing.done()
    signing.cancel()
