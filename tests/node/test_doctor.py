"""The doctor, and that it finds what is wrong and says what to do."""

import asyncio
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError
from kumiai.identity import CertificateManager, Role
from kumiai.node.coordinator.server import DataDirectory
from kumiai.node.doctor import Finding, State, examine
from kumiai.node.settings import (
    ClientSettings,
    CoordinatorSettings,
    IdentitySettings,
    OperatorSettings,
    Settings,
    StorageSettings,
)
from kumiai.storage import DatabaseManager
from kumiai.testing.redis_server import RedisServer
from kumiai.testing.s3_server import S3Server

DAY = 86_400.0


class LaterClock(SystemClock):
    """The machine's clock, some days ahead."""

    def __init__(self, days: float) -> None:
        self._seconds = days * DAY

    def now(self) -> float:
        return super().now() + self._seconds


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateManager:
    manager = CertificateManager(tmp_path_factory.mktemp("a") / "ca", clock=SystemClock())
    manager.create("hospitals")
    return manager


@pytest.fixture
def identities(authority: CertificateManager, tmp_path: Path) -> dict[str, IdentitySettings]:
    found = {}
    for role in Role:
        hosts = ["localhost", "127.0.0.1"] if role is Role.COORDINATOR else []
        issued = authority.issue(role, "me", hosts=hosts, out_dir=tmp_path / role)
        found[role.value] = IdentitySettings(certificate=issued.cert, key=issued.key, ca=issued.ca)
    return found


@pytest.fixture
def coordinator(identities: dict[str, IdentitySettings], tmp_path: Path) -> Settings:
    return Settings(
        identity=identities["coordinator"],
        coordinator=CoordinatorSettings(
            listen="127.0.0.1:0", http_listen="127.0.0.1:0", data_dir=tmp_path / "data"
        ),
    )


def look(settings: Settings, *, days: float = 0.0, role: str | None = None) -> list[Finding]:
    return examine(settings, clock=LaterClock(days), role=role)


def states(findings: list[Finding]) -> dict[str, State]:
    return {each.check: each.state for each in findings}


def the(findings: list[Finding], check: str) -> Finding:
    return next(each for each in findings if each.check == check)


def changed(settings: Settings, table: str, **values: object) -> Settings:
    inner = getattr(settings, table).model_copy(update=values)
    return settings.model_copy(update={table: inner})


# -------------------------------------------------------------------------------- certificates


def test_a_coordinator_in_order_has_nothing_wrong(coordinator: Settings) -> None:
    findings = look(coordinator)

    assert {each.check for each in findings} == {"certificate", "port", "disk", "database"}
    assert not any(each.is_wrong for each in findings)
    assert "kumiai://hospitals/coordinator/me" in the(findings, "certificate").text


def test_looking_changes_nothing(coordinator: Settings, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))

    look(coordinator)

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("days", "state"), [(340, State.WARNING), (366, State.WRONG)])
def test_a_certificate_that_ends_is_told_in_time(
    coordinator: Settings, days: float, state: State
) -> None:
    finding = the(look(coordinator, days=days), "certificate")

    assert finding.state is state
    assert "kumiai ca issue" in finding.mend


def test_without_a_certificate_there_is_no_role_to_look_for(tmp_path: Path) -> None:
    findings = look(Settings().resolved(tmp_path))

    assert states(findings) == {"certificate": State.WRONG, "role": State.SKIPPED}
    assert all(each.mend for each in findings)


def test_a_role_can_be_named(tmp_path: Path) -> None:
    findings = look(Settings().resolved(tmp_path), role="coordinator")

    assert {"port", "disk", "database"} <= set(states(findings))
    with pytest.raises(ConfigError, match="coordinator, client, operator"):
        look(Settings(), role="boss")


def test_a_certificate_of_another_role_is_wrong(coordinator: Settings) -> None:
    finding = the(look(coordinator, role="operator"), "certificate")

    assert finding.is_wrong
    assert "kumiai ca issue operator" in finding.mend


@pytest.mark.parametrize(
    ("days", "state"), [(0, State.OK), (350, State.WARNING), (400, State.WRONG)]
)
def test_a_revocation_list_is_looked_at(
    coordinator: Settings, authority: CertificateManager, days: float, state: State
) -> None:
    settings = changed(coordinator, "identity", crl=authority.revocation_list_path)

    finding = the(look(settings, days=days), "revocation list")

    assert finding.state is state
    assert ("kumiai ca crl" in finding.mend) == (state is not State.OK)


# --------------------------------------------------------------------------------------- ports


def test_a_port_that_another_program_holds_is_wrong(coordinator: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        finding = the(look(changed(coordinator, "coordinator", listen=address)), "port")

    assert finding.is_wrong
    assert "set coordinator.listen" in finding.mend


def test_a_port_that_our_coordinator_holds_is_fine(coordinator: Settings) -> None:
    directory = DataDirectory(coordinator.coordinator.data_dir)
    directory.lock()
    with socket.create_server(("127.0.0.1", 0)) as own:
        address = f"127.0.0.1:{own.getsockname()[1]}"
        finding = the(look(changed(coordinator, "coordinator", listen=address)), "port")
    directory.release()

    assert finding.state is State.OK
    assert "the coordinator that runs here" in finding.text


def test_a_port_is_not_ours_when_no_coordinator_runs(coordinator: Settings) -> None:
    directory = DataDirectory(coordinator.coordinator.data_dir)
    directory.lock()
    directory.release()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        finding = the(look(changed(coordinator, "coordinator", listen=address)), "port")

    assert finding.is_wrong


def test_an_address_of_another_machine_is_wrong(coordinator: Settings) -> None:
    finding = the(look(changed(coordinator, "coordinator", listen="192.0.2.1:8421")), "port")

    assert finding.is_wrong
    assert "of this machine" in finding.mend


# ----------------------------------------------------------------------- disk, database, studies


@pytest.mark.parametrize(
    ("free", "state"), [(10**12, State.OK), (10**9, State.WARNING), (10**6, State.WRONG)]
)
def test_free_space_is_judged(
    coordinator: Settings, monkeypatch: pytest.MonkeyPatch, free: int, state: State
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    finding = the(look(coordinator), "disk")

    assert finding.state is state
    assert ("coordinator.data_dir" in finding.mend) == (state is not State.OK)


def test_a_folder_that_is_a_file_is_wrong(coordinator: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    finding = the(
        look(changed(coordinator, "coordinator", data_dir=tmp_path / "file" / "data")), "disk"
    )

    assert finding.is_wrong


def test_a_database_is_asked(coordinator: Settings, database_url: str) -> None:
    settings = coordinator.model_copy(
        update={"storage": StorageSettings.model_validate({"database": database_url})}
    )

    finding = the(look(settings), "database")

    assert finding.state is State.OK
    assert "its schema fits" in finding.text


def test_an_empty_database_is_brought_up_at_the_start(
    coordinator: Settings, tmp_path: Path
) -> None:
    (tmp_path / "empty.db").touch()
    settings = coordinator.model_copy(
        update={
            "storage": StorageSettings.model_validate(
                {"database": f"sqlite:///{tmp_path}/empty.db"}
            )
        }
    )

    finding = the(look(settings), "database")

    assert finding.state is State.OK
    assert "brought up at the coordinator's start" in finding.text


def test_a_database_of_a_newer_version_is_wrong(coordinator: Settings, database_url: str) -> None:
    asyncio.run(_age(database_url))
    settings = coordinator.model_copy(
        update={"storage": StorageSettings.model_validate({"database": database_url})}
    )

    finding = the(look(settings), "database")

    assert finding.is_wrong
    assert "upgrade this one" in finding.mend


async def _age(url: str) -> None:
    database = DatabaseManager(url)
    await database.connect()
    async with database.transaction() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    await database.close()


def test_a_database_that_does_not_answer_is_wrong(coordinator: Settings) -> None:
    settings = coordinator.model_copy(
        update={
            "storage": StorageSettings.model_validate(
                {"database": "postgresql://u:hunter2@127.0.0.1:9/d"}
            )
        }
    )

    finding = the(look(settings), "database")

    assert finding.is_wrong
    assert "see that the server runs" in finding.mend
    assert "hunter2" not in finding.text + finding.mend


def test_a_coordinators_studies_are_loaded(coordinator: Settings) -> None:
    apps = ("kumiai.node.studies.digits", "none.py")
    findings = look(changed(coordinator, "coordinator", apps=apps))

    found = [each.state for each in findings if each.check == "study"]
    assert found == [State.OK, State.WRONG]


def test_a_site_without_a_study_is_wrong(identities: dict[str, IdentitySettings]) -> None:
    settings = Settings(identity=identities["client"])

    assert the(look(settings), "studies").is_wrong


def test_a_site_with_a_study_is_fine(
    identities: dict[str, IdentitySettings], tmp_path: Path
) -> None:
    settings = Settings(
        identity=identities["client"],
        client=ClientSettings(apps=("kumiai.node.studies.digits",), state_dir=tmp_path),
    )

    findings = look(settings)

    assert states(findings)["study"] is State.OK
    assert states(findings)["connection"] is State.WRONG


# ----------------------------------------------------------------------------------- connection


@pytest.fixture
def no_server() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


def test_a_coordinator_that_is_not_there_is_wrong(
    identities: dict[str, IdentitySettings], no_server: int
) -> None:
    settings = Settings(
        identity=identities["operator"],
        operator=OperatorSettings(url=f"https://127.0.0.1:{no_server}"),
    )

    findings = look(settings)

    assert states(findings) == {"certificate": State.OK, "connection": State.WRONG}
    assert "start the coordinator" in the(findings, "connection").mend


def test_a_url_that_is_none_is_wrong(identities: dict[str, IdentitySettings]) -> None:
    settings = Settings(
        identity=identities["operator"], operator=OperatorSettings(url="https://a:port")
    )

    finding = the(look(settings), "connection")

    assert finding.is_wrong
    assert finding.mend == "set operator.url"


def with_storage(settings: Settings, **storage: str) -> Settings:
    return settings.model_copy(update={"storage": StorageSettings.model_validate(storage)})


def test_redis_and_a_bucket_are_asked_where_they_are_set(coordinator: Settings) -> None:
    assert not {"redis", "bucket"} & {each.check for each in look(coordinator)}


def test_redis_that_does_not_answer_is_a_warning_without_its_password(
    coordinator: Settings,
) -> None:
    settings = with_storage(coordinator, redis="redis://:hunter2@127.0.0.1:9/0")

    finding = the(look(settings), "redis")

    assert finding.state is State.WARNING
    assert "hunter2" not in finding.text + finding.mend


def test_a_url_that_is_none_of_redis_is_wrong(coordinator: Settings) -> None:
    assert the(look(with_storage(coordinator, redis="http://cache")), "redis").is_wrong


@pytest.mark.integration
def test_redis_that_answers_is_well(coordinator: Settings) -> None:
    server = RedisServer()
    try:
        finding = the(look(with_storage(coordinator, redis=server.url)), "redis")
    finally:
        server.remove()

    assert finding.state is State.OK


@pytest.mark.integration
def test_a_bucket_is_well_when_it_may_be_listed(
    coordinator: Settings, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    here = {"s3_endpoint": s3_server.endpoint, "blobs": f"s3://{s3_server.bucket}/x"}

    assert the(look(with_storage(coordinator, **here)), "bucket").state is State.OK
    away = with_storage(coordinator, **(here | {"blobs": "s3://no-such-bucket/x"}))
    assert the(look(away), "bucket").is_wrong
