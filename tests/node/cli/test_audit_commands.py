"""``kumiai audit`` against a coordinator with two clients."""

import signal
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, Role
from kumiai.node.local.folder import Member
from tests.node.cli.program import Federation, Outcome, invoke

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation of these tests' own whose coordinator was stopped once, and so has signed."""
    running = Federation(tmp_path_factory.mktemp("audited"))
    running.do(running.processes.kill_coordinator(signal.SIGTERM))
    running.do(running.processes.start_coordinator())
    yield running
    running.close()


def as_coordinator(federation: Federation, *arguments: object) -> Outcome:
    """Run ``kumiai`` where the coordinator's settings are."""
    return invoke("--config", config_of(federation), *arguments)


def config_of(federation: Federation) -> Path:
    return federation.processes.folder.config(Member(Role.COORDINATOR, "coordinator"))


def ca_of(federation: Federation) -> Path:
    return federation.processes.folder.identity(Member(Role.COORDINATOR, "coordinator"))[2]


def test_entries_are_shown_the_newest_first(audited: Federation) -> None:
    shown = audited.invoke("audit", "show", "--act", "coordinator.started")
    told = audited.invoke("audit", "show", "--oldest", "--limit", "1", "-o", "json")
    none = audited.invoke("audit", "show", "--subject", "run/none")

    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[0].split() == [
        "SEQ", "TIME", "ACT", "OUTCOME", "ACTOR", "SUBJECT", "DETAIL"
    ]  # fmt: skip
    assert "coordinator/coordinator-" in shown.out
    assert told.data[0]["act"] == "schema.migrated"
    assert "go on with --cursor" in told.err
    assert none.out == "no entries\n"


def test_the_database_an_export_and_a_proof_are_checked(audited: Federation) -> None:
    kept = audited.invoke("audit", "checkpoint", "--out", "kept.json")
    exported = audited.invoke("audit", "export", "-o", "json")
    proved = audited.invoke("audit", "prove", "0")
    assert (kept.code, exported.code, proved.code) == (0, 0, 0), kept.err + exported.err
    ca = ca_of(audited)

    database = as_coordinator(audited, "audit", "verify", "--trusted", "kept.json")
    offline = ("audit", "verify", "--ca", ca, "--trusted", "kept.json")
    file = invoke(*offline, "--file", "audit.jsonl", "-o", "json")
    entry = invoke(*offline, "--proof", "audit-0.proof.json")

    assert database.code == 0, database.err
    assert "entries are as they were written" in database.out
    assert file.data["size"] == exported.data["size"]
    assert file.data["signed_size"] > 0
    assert "entry 0 stands in the log as it was signed" in entry.out
    assert Path("audit-0.proof.json").stat().st_size < 2048


def test_a_changed_export_and_a_changed_proof_are_refused(audited: Federation) -> None:
    for name in ("checkpoint", "export"):
        audited.invoke("audit", name)
    audited.invoke("audit", "prove", "3")
    offline = ("audit", "verify", "--ca", ca_of(audited), "--trusted", "audit-checkpoint.json")
    for name in ("audit.jsonl", "audit-3.proof.json"):
        path = Path(name)
        path.write_text(path.read_text().replace('"up"', '"down"'))

    file = invoke(*offline, "--file", "audit.jsonl")
    proof = invoke(*offline, "--proof", "audit-3.proof.json")

    assert (file.code, proof.code) == (7, 7)
    assert "entry 0 of the audit log must have the hash" in file.err
    assert "proof must lead from entry 3 to the root of " in proof.err


def test_a_changed_database_is_told_with_the_entry(audited: Federation, folder: Path) -> None:
    settings = tomllib.loads(config_of(audited).read_text())
    data = config_of(audited).parent / settings["coordinator"]["data_dir"]
    with (
        sqlite3.connect(data / "kumiai.db") as database,
        sqlite3.connect(folder / "copy.db") as copy,
    ):
        database.backup(copy)
        copy.execute("DROP TRIGGER audit_entries_update")
        copy.execute("UPDATE audit_entries SET body = replace(body, 'up', 'UP') WHERE sequence = 2")

    told = as_coordinator(
        audited, "audit", "verify", "--set", f"storage.database=sqlite:///{folder}/copy.db"
    )

    assert told.code == 7
    assert "entry 2 of the audit log must have the hash" in told.err


def test_mistakes_are_told_with_their_mend(audited: Federation, folder: Path) -> None:
    ca = ca_of(audited)
    verify = ("audit", "verify", "--ca", ca)
    (folder / "taken").write_text("")
    outcomes = {
        "--yes must be given": audited.invoke("audit", "redact", "operator/ann"),
        "PERSON must be role/name": audited.invoke("audit", "redact", "ann", "--yes"),
        "audit.redact": audited.invoke("audit", "redact", "operator/ann", "--yes"),
        "file must not exist yet": audited.invoke("audit", "export", "--out", "taken"),
        "--trusted must be given": invoke(*verify, "--proof", "taken"),
        "must be given alone": invoke(*verify, "--proof", "taken", "--file", "taken"),
        "no file at": invoke(*verify, "--file", "none"),
        "cannot read": invoke(*verify, "--file", folder),
        "got no file": invoke(*verify, "--set", f"storage.database=sqlite:///{folder}/none.db"),
        "checkpoint's file must be": invoke(*verify, "--file", "taken", "--trusted", "taken"),
        "cannot write": audited.invoke("audit", "export", "--out", "none/file"),
    }

    assert {words: words in outcome.err for words, outcome in outcomes.items()} == dict.fromkeys(
        outcomes, True
    )
    assert all(outcome.code != 0 for outcome in outcomes.values())
    assert not list(folder.glob("*.part"))


def test_an_auditor_makes_a_person_unreadable(audited: Federation, folder: Path) -> None:
    manager = CertificateManager(audited.processes.folder.path / "ca", clock=SystemClock())
    aude = manager.issue(Role.AUDITOR, "aude", out_dir=folder / "aude")
    files = {"certificate": aude.cert, "key": aude.key, "ca": aude.ca}
    options = [word for key, path in files.items() for word in ("--set", f"identity.{key}={path}")]
    before = audited.invoke("audit", "show", "--actor", "client/site-1", "-o", "json").data
    assert before != []

    told = audited.invoke(
        *options, "audit", "redact", "client/site-1", "--yes", "--reason", "asked"
    )

    assert told.code == 0, told.err
    assert "client/site-1 is redacted" in told.out
    after = audited.invoke("audit", "show", "--actor", "client/site-1", "-o", "json").data
    # What the person does from now on has a key of its own.
    assert not {each["sequence"] for each in before} & {each["sequence"] for each in after}
    assert "client/redacted" in audited.invoke("audit", "show", "--act", "client.attached").out
    assert as_coordinator(audited, "audit", "verify").code == 0
