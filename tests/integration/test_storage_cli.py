"""``kumiai storage`` and what a coordinator does by itself, on a local folder and on a bucket."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError, StorageError
from kumiai.node.assembly.blobs import blob_place, new_blob_store
from kumiai.node.cli.storage import seconds_of
from kumiai.node.coordinator.sweeping import BackgroundSweep
from kumiai.node.settings import Settings, StorageSettings
from kumiai.storage import (
    BlobSweeper,
    LocalBlobStore,
    S3BlobStore,
    SweepReport,
)
from kumiai.testing.databases import SQLiteTemplate
from kumiai.testing.s3_server import S3Server
from tests.integration import study
from tests.integration.federation import Federation, job
from tests.node.cli.program import Outcome, invoke

HOUR = 3600.0


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    """Lend a coordinator on a local folder that is not started yet."""
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    yield federation
    await federation.stop()


def storage(federation: Federation, *arguments: str) -> Outcome:
    return invoke(
        "--set", f"coordinator.data_dir={federation.folder / 'data'}",
        "--set", f"storage.database={federation.database_url}",
        "-o", "json", "storage", *arguments,
    )  # fmt: skip


async def finished_run(federation: Federation) -> str:
    await federation.start()
    await federation.start_clients(2)
    run_id = await federation.submit(job(cohort={"size": 2, "min_reports": 2}), study.app)
    await federation.wait_for(run_id)
    return run_id


def make_old(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (SystemClock().now() - 25 * HOUR,) * 2)


async def test_garbage_is_told_and_deleted_and_what_is_needed_stays(
    federation: Federation,
) -> None:
    run_id = await finished_run(federation)
    blobs = LocalBlobStore(federation.folder / "data" / "blobs")
    await blobs.put(f"updates/{run_id}/3/site-1", [b"left by a kill"])
    await blobs.close()
    make_old(federation.folder / "data" / "blobs")

    usage, dry, swept, again, checked = [
        await asyncio.to_thread(storage, federation, *arguments)
        for arguments in (
            ("usage",), ("gc", "--dry-run"), ("gc", "--grace", "1d"), ("gc",),
            ("check", "--read-data"),
        )
    ]  # fmt: skip

    assert usage.data["reclaimable_bytes"] == 14
    assert [each["run_id"] for each in usage.data["runs"]] == [run_id]
    assert usage.data["runs"][0]["counts"] == {"models": 4, "updates": 1}
    assert [each.data["count"] for each in (dry, swept, again)] == [1, 1, 0]
    assert swept.data["examples"][0]["namespace"] == f"updates/{run_id}/3/site-1"
    assert (checked.code, checked.data["count"], checked.data["problems"]) == (0, 4, [])


async def test_a_missing_model_is_named_with_exit_code_7(federation: Federation) -> None:
    run_id = await finished_run(federation)
    lost = next((federation.folder / "data" / "blobs" / "models" / run_id).iterdir())
    lost.unlink()

    outcome = await asyncio.to_thread(storage, federation, "check")

    assert outcome.code == 7
    assert outcome.data["problem_count"] == 1
    assert outcome.data["problems"][0]["digest"] == lost.name
    assert f"of run {run_id} (models/{run_id}/{lost.name}): missing" in outcome.err


async def test_people_are_told_the_same_in_tables(federation: Federation) -> None:
    run_id = await finished_run(federation)
    lost = min((federation.folder / "data" / "blobs" / "models" / run_id).iterdir())
    lost.write_bytes(b"x" * lost.stat().st_size)

    outcomes = [
        await asyncio.to_thread(storage, federation, *arguments, "-o", "table")
        for arguments in (("usage",), ("gc",), ("check",), ("check", "--read-data"))
    ]

    assert [each.code for each in outcomes] == [0, 0, 0, 7]
    assert "reclaimable by `kumiai storage gc`" in outcomes[0].out
    assert "deleted 0 of 4 blobs and uploads" in outcomes[1].out
    assert "4 needed blobs" in outcomes[2].out
    assert "wrong bytes" in outcomes[3].out


async def test_a_coordinator_sweeps_at_its_start(federation: Federation) -> None:
    await finished_run(federation)
    assert federation.server is not None
    for name in list(federation.clients):
        await federation.stop_client(name)
    await federation.server.stop()
    blobs = LocalBlobStore(federation.folder / "data" / "blobs")
    orphan = await blobs.put("models/run-never-submitted", [b"orphan"])
    make_old(federation.folder / "data" / "blobs")
    young = await blobs.put("models/run-being-submitted", [b"young"])

    await federation.start()

    async with asyncio.timeout(30):
        while await blobs.find_size("models/run-never-submitted", orphan) is not None:
            await asyncio.sleep(0.01)
    assert await blobs.find_size("models/run-being-submitted", young) == 5
    assert (await asyncio.to_thread(storage, federation, "check")).code == 0
    await blobs.close()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("gc", "--grace", "soon"), 2, "duration must be a number and s, m, h or d"),
        (("gc", "--grace", "14m"), 2, "--grace must be at least 15m"),
    ],
)
async def test_a_grace_that_protects_nothing_is_refused(
    federation: Federation, arguments: tuple[str, ...], code: int, words: str
) -> None:
    outcome = await asyncio.to_thread(storage, federation, *arguments)

    assert outcome.code == code
    assert words in outcome.err


async def test_without_its_database_nothing_is_swept(federation: Federation) -> None:
    (federation.folder / "kumiai.db").unlink()

    outcome = await asyncio.to_thread(storage, federation, "gc")

    assert outcome.code == 3
    assert "database must exist, got no file" in outcome.err
    assert not (federation.folder / "kumiai.db").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), (" 2d ", 172_800)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


async def test_a_bucket_is_checked_counted_and_swept_as_a_folder_is(
    tmp_path: Path, s3_server: S3Server, sqlite_template: SQLiteTemplate
) -> None:
    url = sqlite_template.copy_to(tmp_path / "kumiai.db")
    environ = {
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "KUMIAI_STORAGE__BLOBS": f"s3://{s3_server.bucket}/{tmp_path.name}",
        "KUMIAI_STORAGE__S3_ENDPOINT": s3_server.endpoint,
        "KUMIAI_STORAGE__DATABASE": url,
        "KUMIAI_COORDINATOR__DATA_DIR": str(tmp_path / "data"),
    }
    settings = Settings.model_validate(
        {
            "storage": {
                "blobs": environ["KUMIAI_STORAGE__BLOBS"],
                "s3_endpoint": s3_server.endpoint,
            },
            "coordinator": {"data_dir": tmp_path / "data"},
        }
    )
    store = new_blob_store(settings, environ=environ)
    await store.put("models/run-1", [b"orphan"])
    await store.close()

    def storage(*arguments: str, **more: str) -> Outcome:
        return invoke("-o", "json", "storage", *arguments, environ={**environ, **more})

    usage = await asyncio.to_thread(storage, "usage")
    check = await asyncio.to_thread(storage, "check")
    gc = await asyncio.to_thread(storage, "gc")
    denied = await asyncio.to_thread(
        lambda: storage("usage", AWS_SECRET_ACCESS_KEY="another-secret")
    )

    assert isinstance(store, S3BlobStore)
    assert (usage.data["count"], usage.data["runs"][0]["is_known"]) == (1, False)
    assert check.data["count"] == gc.data["count"] == 0
    assert denied.code == 1
    assert "see that the access key is right" in denied.err
    assert "another-secret" not in denied.err + denied.out


# ---------------------------------------------------------------------------------- settings


def place(environ: dict[str, str] | None = None, **storage: Any) -> Any:
    settings = StorageSettings.model_validate({"blobs": "s3://bucket/prefix", **storage})
    return blob_place(settings, environ or {})


def test_what_is_set_wins_over_the_environment(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = %b%\naws_session_token = c\n"
    )
    (tmp_path / "ca.pem").write_text("PEM")
    environ = {
        "AWS_ACCESS_KEY_ID": "X", "AWS_SECRET_ACCESS_KEY": "y", "AWS_SESSION_TOKEN": "z",
        "AWS_REGION": "eu-north-1", "AWS_ENDPOINT_URL": "https://s3.example.org",
    }  # fmt: skip

    taken = place(environ)
    given = place(
        environ, s3_credentials=keys, s3_ca=tmp_path / "ca.pem", s3_region="r",
        s3_endpoint="https://h:9000/",
    )  # fmt: skip

    assert (taken.access_key_id, taken.secret_access_key, taken.session_token) == ("X", "y", "z")
    assert (taken.region, taken.endpoint) == ("eu-north-1", "https://s3.example.org")
    assert (given.access_key_id, given.secret_access_key, given.session_token) == ("A", "%b%", "c")
    assert (given.region, given.endpoint, given.ca_pem) == ("r", "https://h:9000", b"PEM")
    assert place().access_key_id is None
    assert place().region == "us-east-1"


@pytest.mark.parametrize(
    "content", ["", "[other]\na = b", "[default]\naws_access_key_id = A", "hush", "\udcff"]
)
def test_a_file_without_keys_is_a_config_error_that_quotes_nothing(
    tmp_path: Path, content: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(ConfigError, match=r"storage\.s3_credentials must hold") as told:
        place(s3_credentials=keys)

    assert "hush" not in str(told.value)
    assert told.value.__cause__ is None


def test_a_file_that_can_not_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage\.s3_ca must be a file"):
        place(s3_ca=tmp_path / "none")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("blobs", "gs://bucket", "must be s3://bucket"),
        ("blobs", "s3://Bucket", "must be s3://bucket"),
        ("blobs", "s3://bucket/../other", "must be s3://bucket"),
        ("s3_endpoint", "localhost:9000", "must be https://host:port"),
        ("s3_endpoint", "https://user:hush@host", "must not hold a user or a password"),
        ("grace_hours", 0.1, "greater than or equal to 0.25"),
        ("cache_bytes", -1, "greater than or equal to 0"),
    ],
)
def test_settings_of_no_bucket_are_refused(key: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        StorageSettings.model_validate({key: value})


def test_files_of_the_bucket_are_taken_from_the_settings_folder(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"storage": {"blobs": None, "s3_credentials": "keys", "s3_endpoint": None}}
    )

    resolved = settings.resolved(tmp_path).storage

    assert (resolved.s3_credentials, resolved.s3_ca) == (tmp_path / "keys", None)


# ---------------------------------------------------------------------------- in the background


class Sweeps(BlobSweeper):
    """Fails first, then tells that it has deleted something."""

    def __init__(self) -> None:
        self.graces: list[float] = []
        self.is_enough = asyncio.Event()

    async def sweep(self, *, grace_seconds: float = 0, is_dry_run: bool = False) -> SweepReport:
        self.graces.append(grace_seconds)
        if len(self.graces) == 1:
            raise StorageError("the server is away")
        if len(self.graces) == 2:
            raise RuntimeError("a mistake")
        if len(self.graces) > 3:
            self.is_enough.set()
        report = SweepReport(seen=3, count=2, size_bytes=10)
        report.by_root.update(["models", "updates"])
        return report


async def test_a_sweep_that_fails_is_made_again() -> None:
    sweeps = Sweeps()
    background = BackgroundSweep(sweeps, grace_seconds=7.0, every_seconds=0.0)
    background.start()
    async with asyncio.timeout(30):
        await sweeps.is_enough.wait()
    await background.stop()
    await background.stop()

    assert set(sweeps.graces) == {7.0}
