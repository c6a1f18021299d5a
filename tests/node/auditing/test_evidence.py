"""All of a stored log is checked, and whatever was done to its tables is named."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError, IntegrityError, NotFoundError
from kumiai.identity import CertificateManager, Role, TrustBundle
from kumiai.identity.audit import (
    Act,
    Actor,
    AuditScribe,
    CheckpointSigner,
    EntryProof,
    LogHead,
    NewEntry,
    chained,
    leaf_hash,
    verify_consistency,
)
from kumiai.node.auditing.evidence import AuditEvidence, TrustedKeys
from kumiai.node.auditing.signer_files import load_signer
from kumiai.storage import AuditLog, DatabaseManager

SIZE = 20
FIXED = ("audit_entries", "audit_nodes", "audit_checkpoints", "audit_signers", "audit_head")


@dataclass
class Kept:
    """A log of twenty entries, signed at ten and at twenty."""

    database: DatabaseManager
    log: AuditLog
    signer: CheckpointSigner
    trust: TrustBundle

    async def fill(self, count: int) -> None:
        actors = [Actor("operator", "ann"), Actor("coordinator", "c-1")]
        await self.log.record(
            [NewEntry(Act.RUN_CREATED, actors[n % 2], f"run/{n}") for n in range(count)]
        )

    async def sign(self) -> None:
        end = await self.log.end()
        assert end is not None
        head = LogHead(end.size, end.chain, end.frontier)
        now = SystemClock().now()
        key = self.signer.certified
        note = self.signer.sign(head.checkpoint(key.origin, int(now * 1e6)))
        await self.log.add_signer(key.key_id, key.to_json())
        await self.log.add_checkpoint(size=end.size, key_id=key.key_id, at=now, note=note)

    async def keys(self) -> TrustedKeys:
        return TrustedKeys(await self.log.signers(), self.trust)

    async def verify(self) -> tuple[int, int, int]:
        found = await AuditEvidence(self.log).verify(await self.keys())
        return found.size, found.signed_size, found.checkpoint_count

    async def forge(self, *statements: str, **values: object) -> None:
        """Do to the tables what their owner can do."""
        async with self.database.transaction() as connection:
            if self.database.dialect == "sqlite":
                rows = await connection.execute(
                    text(
                        "SELECT name FROM sqlite_master WHERE type='trigger' AND name LIKE 'audit%'"
                    )
                )
                for (name,) in rows.all():
                    await connection.execute(text(f"DROP TRIGGER {name}"))
            else:
                await connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                await connection.execute(text(statement), values)


def manager_of(folder: Path) -> tuple[CertificateManager, Path, Path]:
    manager = CertificateManager(folder / "ca", clock=SystemClock())
    manager.create("hospitals")
    mine = manager.issue(
        Role.COORDINATOR, "coordinator", hosts=["localhost"], out_dir=folder / "mine"
    )
    return manager, mine.cert, mine.key


@pytest.fixture
async def kept(database: DatabaseManager, tmp_path: Path) -> AsyncIterator[Kept]:
    manager, cert, key = manager_of(tmp_path)
    signer = load_signer(tmp_path, cert, key)
    trust = TrustBundle.load(manager.certificate_path)
    kept = Kept(database, AuditLog(database, AuditScribe()), signer, trust)
    for _ in range(2):
        await kept.fill(SIZE // 2)
        await kept.sign()
    yield kept
    # The next test gets this database again, with its triggers.
    if database.dialect == "postgresql":
        await kept.forge(*(f"DELETE FROM {table}" for table in FIXED))


async def test_a_log_that_nobody_touched_is_right(kept: Kept) -> None:
    assert await kept.verify() == (SIZE, SIZE, 2)

    await kept.fill(3)
    assert await kept.verify() == (SIZE + 3, SIZE, 2)


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["UPDATE audit_entries SET body = replace(body, 'run/7', 'run/8') WHERE sequence = 7"],
         "entry 7 of the audit log must have the hash"),
        (["UPDATE audit_entries SET chain = :noise WHERE sequence = 7"],
         "entry 7 of the audit log must have the hash"),
        (["UPDATE audit_entries SET subject = 'run/x' WHERE sequence = 7"],
         "entry 7 of the audit log must be found by what it says"),
        (["DELETE FROM audit_entries WHERE sequence = 7"],
         "entry 7 of the audit log must exist, got 8"),
        (["DELETE FROM audit_entries WHERE sequence >= 15"],
         "entry 15 of the audit log must exist, got none: .* by the log's own count"),
        (["UPDATE audit_entries SET sequence = 99 WHERE sequence = 7",
          "UPDATE audit_entries SET sequence = 7 WHERE sequence = 8",
          "UPDATE audit_entries SET sequence = 8 WHERE sequence = 99"],
         "entry 7 of the audit log must be the one that was written there, got the one of place 8"),
        (["UPDATE audit_entries SET sequence = sequence + 100 WHERE sequence >= 7",
          "UPDATE audit_entries SET sequence = sequence - 99 WHERE sequence >= 100",
          "UPDATE audit_head SET size = 21",
          ("INSERT INTO audit_entries SELECT 7, at, act, outcome, subject, person, body, chain "
           "FROM audit_entries WHERE sequence = 8")],
         "entry 8 of the audit log must be the one that was written there, got the one of place 7"),
        (["UPDATE audit_head SET chain = :noise"], "end of the audit log must be that of entry 19"),
        (["UPDATE audit_checkpoints SET size = 5 WHERE size = 10"],
         "checkpoint of 5 entries must be signed for them"),
        (["UPDATE audit_checkpoints SET note = replace(note, 'hospitals', 'others')"],
         "must be signed by a known key"),
        (["DELETE FROM audit_signers"], "must be signed by a known key"),
    ],
)  # fmt: skip
async def test_the_first_wrong_entry_is_named(
    kept: Kept, statements: list[str], words: str
) -> None:
    for statement in statements:
        values = {"noise": bytes(32)} if ":noise" in statement else {}
        await kept.forge(statement, **values)

    with pytest.raises(IntegrityError, match=words):
        await kept.verify()


async def test_a_truncation_that_hides_its_traces_is_told_by_a_signature(kept: Kept) -> None:
    record = await kept.log.get(14)
    frontier = await frontier_of(kept, 15)
    await kept.forge(
        "DELETE FROM audit_entries WHERE sequence >= 15",
        "UPDATE audit_head SET size = 15, chain = :chain, frontier = :frontier",
        chain=record.chain,
        frontier=frontier,
    )

    with pytest.raises(IntegrityError, match=r"entry 15 .* got none: .* by a signed checkpoint"):
        await kept.verify()


async def frontier_of(kept: Kept, size: int) -> bytes:
    head = LogHead()
    async for record in kept.log.read(0, size):
        head, _ = head.appended(record.body.encode())
    return head.frontier


async def test_a_history_with_all_hashes_made_anew_is_told_by_a_signature(kept: Kept) -> None:
    await rewrite(kept, 13)

    with pytest.raises(IntegrityError, match=r"one of the entries 10 to 19 .* rewritten with all"):
        await kept.verify()


async def rewrite(kept: Kept, at: int) -> None:
    """Change an entry, and every hash that follows from it."""
    head = LogHead()
    records = [record async for record in kept.log.read(0, SIZE)]
    for record in records:
        body = record.body
        if record.sequence == at:
            body = body.replace(f'"run/{at - 10}"', '"run/x"')
            assert body != record.body
        head, _ = head.appended(body.encode())
        await kept.forge(
            "UPDATE audit_entries SET body = :body, chain = :chain WHERE sequence = :at",
            body=body,
            chain=head.chain,
            at=record.sequence,
        )
    await kept.forge("UPDATE audit_entries SET subject = 'run/x' WHERE sequence = :at", at=at)
    await kept.forge(
        "UPDATE audit_head SET chain = :chain, frontier = :frontier",
        chain=head.chain,
        frontier=head.frontier,
    )
    assert chained(b"", leaf_hash(b"")) != head.chain


async def test_a_checkpoint_of_another_federation_counts_for_nothing(
    kept: Kept, tmp_path: Path
) -> None:
    _, cert, key = manager_of(tmp_path / "other")
    stranger = load_signer(tmp_path / "other", cert, key)
    await kept.fill(1)
    kept.signer = stranger
    await kept.sign()

    with pytest.raises(CertificateError, match=r"checkpoint of 21 entries: .*signed by the auth"):
        await kept.verify()


# ------------------------------------------------------------------------------------- proofs


@pytest.mark.parametrize("sequence", [0, 9, 13, 19])
async def test_each_entry_is_proved(kept: Kept, sequence: int) -> None:
    proof = await AuditEvidence(kept.log).prove(sequence)

    entry, checkpoint = (await kept.keys()).prove(EntryProof.from_json(proof.to_json()))
    assert (entry.sequence, checkpoint.size) == (sequence, SIZE)


async def test_an_entry_that_is_not_signed_yet_is_not_proved(kept: Kept) -> None:
    await kept.fill(1)

    with pytest.raises(NotFoundError, match=r"entry 20 .* more than 20 entries; .* try again"):
        await AuditEvidence(kept.log).prove(20)


async def test_proofs_of_a_long_log_use_the_kept_nodes(kept: Kept) -> None:
    while (end := await kept.log.end()) is None or end.size < 1300:
        await kept.fill(160)
    await kept.sign()
    evidence = AuditEvidence(kept.log)
    old, new = [point async for point in kept.log.checkpoints(above=10)]
    keys = await kept.keys()

    path = await evidence.consistency(old.size, new.size)
    verify_consistency(old.size, new.size, path, keys.open(old.note).root, keys.open(new.note).root)
    for sequence in (0, 255, 256, 1299):
        keys.prove(await evidence.prove(sequence))
    assert (await kept.verify())[0] == 1300

    await kept.forge("UPDATE audit_nodes SET hash = :noise WHERE position = 2", noise=bytes(32))
    with pytest.raises(IntegrityError, match="audit_nodes must hold the hash over the entries 512"):
        await kept.verify()
    await kept.forge("DELETE FROM audit_nodes")
    with pytest.raises(IntegrityError, match="must have all entries from"):
        await evidence.prove(3)


# ------------------------------------------------------------------------- the signer's files


def test_a_signer_is_made_once_and_again_with_a_new_certificate(tmp_path: Path) -> None:
    manager, cert, key = manager_of(tmp_path)

    first = load_signer(tmp_path, cert, key)
    again = load_signer(tmp_path, cert, key)
    other = manager.issue(Role.COORDINATOR, "two", hosts=["localhost"], out_dir=tmp_path / "two")
    renewed = load_signer(tmp_path, other.cert, other.key)

    assert first.certified == again.certified
    assert renewed.certified.key_id != first.certified.key_id
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_of_the_signer_is_replaced_and_an_open_one_refused(tmp_path: Path) -> None:
    _, cert, key = manager_of(tmp_path)
    first = load_signer(tmp_path, cert, key)
    (tmp_path / "audit-key.json").write_text("{}")

    second = load_signer(tmp_path, cert, key)

    assert first.certified.key_id != second.certified.key_id
    (tmp_path / "audit.key").chmod(0o644)
    with pytest.raises(CertificateError, match="signing key of the audit log must be readable by"):
        load_signer(tmp_path, cert, key)
