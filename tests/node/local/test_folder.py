"""The folder of a local federation: made once, used again, readable by its settings' reader."""

import stat
import tomllib
from pathlib import Path

import pytest

from kumiai.core.errors import StorageError
from kumiai.identity import Role, verify_own_certificate
from kumiai.node.local.folder import FederationFolder, Member
from kumiai.node.settings import Settings

CLIENT = Member(Role.CLIENT, "site-1")
COORDINATOR = Member(Role.COORDINATOR, "coordinator")
DAY_SECONDS = 86_400.0


class SetClock:
    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock() -> SetClock:
    return SetClock(1_800_000_000.0)


@pytest.fixture
def folder(tmp_path: Path, clock: SetClock) -> FederationFolder:
    return FederationFolder(tmp_path / "federation", clock=clock)


def test_every_member_gets_a_certificate_of_one_authority(
    folder: FederationFolder, clock: SetClock
) -> None:
    folder.ensure_authority()
    for member in (CLIENT, COORDINATOR):
        folder.ensure_identity(member)

    identities = [
        verify_own_certificate(*folder.identity(member), clock, role=member.role)
        for member in (CLIENT, COORDINATOR)
    ]

    assert [identity.name for identity in identities] == ["site-1", "coordinator"]
    assert len({identity.federation for identity in identities}) == 1


def test_nobody_else_may_look_into_the_folder(folder: FederationFolder) -> None:
    folder.ensure_authority()

    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_certificate_in_force_is_used_again(folder: FederationFolder) -> None:
    folder.ensure_authority()
    folder.ensure_identity(CLIENT)
    before = folder.identity(CLIENT)[0].read_bytes()

    folder.ensure_authority()
    folder.ensure_identity(CLIENT)

    assert folder.identity(CLIENT)[0].read_bytes() == before


def test_an_expired_certificate_is_replaced(folder: FederationFolder, clock: SetClock) -> None:
    folder.ensure_authority()
    folder.ensure_identity(CLIENT)
    before = folder.identity(CLIENT)[0].read_bytes()
    clock.time += 400 * DAY_SECONDS

    folder.ensure_identity(CLIENT)

    assert folder.identity(CLIENT)[0].read_bytes() != before
    verify_own_certificate(*folder.identity(CLIENT), clock, role=Role.CLIENT)


def test_settings_are_read_back_as_they_were_meant(folder: FederationFolder) -> None:
    folder.ensure_authority()
    folder.ensure_identity(CLIENT)
    data = {"path": 'C:\\a "b"\n\x7f', "size": 3, "share": 1e-05, "is_new": True, "name": "Zürich"}

    path = folder.write_config(
        CLIENT,
        {"client": {"coordinator": "127.0.0.1:1", "apps": ("a.py", "b"), "data": data}},
        {"client": {"coordinator": "127.0.0.1:2"}, "log": {"level": "debug"}},
    )

    settings = Settings.model_validate(tomllib.loads(path.read_text("utf-8")))
    resolved = settings.resolved(path.parent)
    assert settings.client.coordinator == "127.0.0.1:2"
    assert settings.client.apps == ("a.py", "b")
    assert settings.client.data == data
    assert settings.log.level == "debug"
    assert (resolved.identity.certificate, resolved.identity.key, resolved.identity.ca) == (
        folder.identity(CLIENT)
    )


def test_a_key_that_is_no_bare_word_is_quoted(folder: FederationFolder) -> None:
    folder.ensure_authority()
    folder.ensure_identity(CLIENT)

    path = folder.write_config(CLIENT, {"client": {"data": {"two words": 1}}})

    assert tomllib.loads(path.read_text())["client"]["data"] == {"two words": 1}


def test_settings_are_for_their_owner_alone(folder: FederationFolder) -> None:
    folder.ensure_authority()
    folder.ensure_identity(COORDINATOR)

    path = folder.write_config(COORDINATOR, {"storage": {"database": "postgresql://a:b@c/d"}})

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_client_called_like_the_coordinator_has_a_place_of_its_own(
    folder: FederationFolder,
) -> None:
    namesake = Member(Role.CLIENT, "coordinator")

    assert folder.home(namesake) != folder.home(COORDINATOR)
    assert folder.log(namesake) != folder.log(COORDINATOR)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, clock: SetClock) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="file/federation can not be made"):
        FederationFolder(tmp_path / "file" / "federation", clock=clock).ensure_authority()
