from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import IntegrityError
from kumiai.identity import CertificateManager, Role, TrustBundle
from kumiai.identity.audit import Act, Actor, AuditScribe, Checkpoint, NewEntry
from kumiai.node.auditing.export import exported_lines, verify_export
from kumiai.node.auditing.kept import KEPT_FILE, KeptCheckpoint
from kumiai.node.auditing.signer_files import load_signer
from kumiai.node.coordinator.auditing import CheckpointKeeper
from kumiai.storage import AuditLog, DatabaseManager

Lines = list[bytes]


@pytest.fixture
async def exported(
    tmp_path: Path, sqlite_template: object
) -> tuple[Lines, TrustBundle, KeptCheckpoint]:
    """Twelve entries, signed at six and at twelve."""
    database = DatabaseManager(sqlite_template.copy_to(tmp_path / "kumiai.db"))  # type: ignore[attr-defined]
    await database.connect()
    manager = CertificateManager(tmp_path / "ca", clock=SystemClock())
    manager.create("hospitals")
    own = manager.issue(Role.COORDINATOR, "c", hosts=["localhost"], out_dir=tmp_path / "own")
    log = AuditLog(database, AuditScribe())
    signer = load_signer(tmp_path, own.cert, own.key)
    keeper = CheckpointKeeper(log, lambda: signer, SystemClock(), tmp_path)
    for start in (0, 6):
        actor = Actor("operator", "ann")
        await log.record([NewEntry(Act.RUN_CREATED, actor, f"run/{start + n}") for n in range(6)])
        await keeper.sign()
    lines = [line async for line in exported_lines(log)]
    await database.close()
    kept = KeptCheckpoint.find(tmp_path)
    assert kept is not None
    return lines, TrustBundle.load(manager.certificate_path), kept


Exported = tuple[Lines, TrustBundle, KeptCheckpoint]


def test_an_export_is_checked_by_itself(exported: Exported) -> None:
    lines, trust, kept = exported

    found = verify_export(lines, trust, kept.checkpoint)

    assert (found.size, found.signed_size, found.checkpoint_count) == (12, 12, 2)
    assert len(lines) == 1 + 12 + 2 + 1


def changed(lines: Lines) -> Lines:
    return [line.replace(b'"run/3"', b'"run/x"') for line in lines]


def moved(lines: Lines) -> Lines:
    return [*lines[:4], lines[5], lines[4], *lines[6:]]


def foreign(lines: Lines) -> Lines:
    return [orjson.dumps({"format": "kumiai audit export 2", "keys": []}), *lines[1:]]


def early(lines: Lines) -> Lines:
    """The first checkpoint before its entries."""
    return [lines[0], lines[7], *lines[1:7], *lines[8:]]


def late(lines: Lines) -> Lines:
    return [*lines[:7], lines[8], lines[7], *lines[9:]]


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (changed, "entry 3 of the audit log must have the hash"),
        (moved, "entry 3 of the audit log must exist, got 4"),
        (lambda lines: lines[:4] + lines[5:], "entry 3 of the audit log must exist, got 4"),
        (lambda lines: [*lines[:4], *lines[3:]], "entry 2 of the audit log must stand once"),
        (lambda lines: lines[:6], "entry 5 of the audit log or the end .* was cut off"),
        (lambda lines: [*lines[:6], b'{"end":5}\n'], "entry 5 .* trusted checkpoint"),
        (lambda lines: [*lines, lines[-1]], "must end with its last line, got line 17"),
        (lambda lines: [*lines[:3], b"{}\n"], "line 4 of the export must be an entry"),
        (lambda lines: [*lines[:3], b"{\n"], "line 4 of the export must be an entry"),
        (lambda lines: [*lines[:3], b" " * (1 << 21)], "line 4 of the export must be an entry"),
        (lambda lines: [*lines[:3], b'{"entry":{},"chain":""}'], "line 4 of the export must be"),
        (lambda lines: [*lines[:3], lines[3].replace(b'"chain":"', b'"chain":"!')], "line 4 of"),
        (foreign, "export must begin as a file of"),
        (lambda lines: [], "line 1 of the export"),
        (early, "entry 0 .* got none: .* by a signed checkpoint"),
        (late, "checkpoint of 6 entries must stand behind them, got it behind 7"),
        (lambda lines: [orjson.dumps({"format": "kumiai audit export 1", "keys": []}), *lines[1:]],
         "must be signed by a known key"),
    ],
)  # fmt: skip
def test_the_first_wrong_line_is_named(
    exported: Exported, forge: Callable[[Lines], Lines], words: str
) -> None:
    lines, trust, kept = exported

    with pytest.raises(IntegrityError, match=words):
        verify_export(forge(lines), trust, kept.checkpoint)


def test_another_history_than_the_trusted_one_is_told(exported: Exported) -> None:
    lines, trust, kept = exported
    point = kept.checkpoint
    other = Checkpoint(point.origin, 5, bytes(32), bytes(32), point.at_us)

    with pytest.raises(IntegrityError, match="entries 0 to 4 of the audit log must be what was"):
        verify_export(lines, trust, other)


def test_a_kept_checkpoint_reads_back_and_a_damaged_one_is_told(
    exported: Exported, tmp_path: Path
) -> None:
    _, _, kept = exported
    assert KeptCheckpoint.find(tmp_path) == kept
    assert KeptCheckpoint.find(tmp_path / "ca") is None
    (tmp_path / KEPT_FILE).write_bytes(b"{")

    with pytest.raises(IntegrityError, match=f"{KEPT_FILE} must hold the newest checkpoint"):
        KeptCheckpoint.find(tmp_path)
