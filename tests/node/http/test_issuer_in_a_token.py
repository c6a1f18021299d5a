"""A coordinator whose issuer's key lies in a token."""

import asyncio
from pathlib import Path
from typing import Any

import pkcs11
import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError, ConfigError, KumiaiError
from kumiai.identity import CertificateManager, Role, verify_own_certificate
from kumiai.node.assembly.sites import new_site_issuer, new_site_office
from kumiai.node.client import joining
from kumiai.node.client.joining import JoinToken
from kumiai.node.settings import Settings
from kumiai.storage import DatabaseManager, SiteDenials
from kumiai.testing.fake_tokens import FakeTokenLibrary
from tests.identity.conftest import AdjustableClock
from tests.identity.tokens import FakePlace
from tests.node.http.api import FEDERATION, Certificates, running_api

pytestmark = pytest.mark.integration


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> FakePlace:
    made = FakePlace()
    monkeypatch.setattr(pkcs11, "lib", FakeTokenLibrary([made.token]))
    return made


@pytest.fixture
def sites(certificates: Certificates, place: FakePlace, tmp_path: Path) -> dict[str, Any]:
    """The settings of an issuer whose key lies in the token."""
    manager = CertificateManager(
        certificates.authority.certificate_path.parent, clock=SystemClock(), tokens=place.tokens
    )
    made = manager.delegate(
        out_dir=tmp_path / "sites", issuer_key=place.tokens.key(place.new_key("sites"))
    )
    return {
        "issuer_certificate": made.cert,
        "issuer_key": made.key,
        "pkcs11_module": "/opt/vendor/pkcs11.so",
    }


def test_the_pin_comes_from_the_settings_or_a_file(
    certificates: Certificates, sites: dict[str, Any], place: FakePlace, tmp_path: Path
) -> None:
    (tmp_path / "pin").write_text(f"{place.token.pin}\n")
    (tmp_path / "pin").chmod(0o600)

    issuers = [
        new_site_issuer(certificates.settings(**sites, **way), SystemClock(), federation=FEDERATION)
        for way in ({"pkcs11_pin": place.token.pin}, {"pkcs11_pin_file": tmp_path / "pin"})
    ]

    assert all(issuers)
    assert place.token.wrong_pins == 0


@pytest.mark.parametrize(
    ("change", "kind", "problem"),
    [
        ({}, ConfigError, r"must be given, got none.*sites\.pkcs11_pin_file"),
        ({"pkcs11_pin": "planted"}, ConfigError, "must be right, got one that it refuses"),
        ({"pkcs11_pin_file": "open"}, CertificateError, "must be readable by its owner alone"),
        ({"pkcs11_module": None}, ConfigError, r"must be named, got none.*sites\.pkcs11_module"),
    ],
)
def test_what_is_wrong_shows_itself_at_the_start(  # noqa: PLR0917 - fixtures
    certificates: Certificates,
    sites: dict[str, Any],
    tmp_path: Path,
    change: dict[str, Any],
    kind: type[KumiaiError],
    problem: str,
) -> None:
    (tmp_path / "open").write_text("planted")
    (tmp_path / "open").chmod(0o644)
    settings = certificates.settings(**{**sites, **change}).resolved(tmp_path)

    with pytest.raises(kind, match=problem) as caught:
        new_site_issuer(settings, SystemClock(), federation=FEDERATION)
    assert "planted" not in str(caught.value)


def test_a_wrong_pin_is_not_tried_again_and_again_while_the_coordinator_runs(
    certificates: Certificates, sites: dict[str, Any], place: FakePlace, tmp_path: Path
) -> None:
    clock = AdjustableClock(SystemClock().now())
    (tmp_path / "pin").write_text(place.token.pin)
    (tmp_path / "pin").chmod(0o600)
    settings = certificates.settings(**sites, pkcs11_pin_file=tmp_path / "pin")
    issuer = new_site_issuer(settings, clock, federation=FEDERATION)
    place.token.pin = "the next pin"

    sites["issuer_key"].touch()
    wrong_pins = []
    for _ in range(5):
        issuer.current()
        clock.advance(3600)
        wrong_pins.append(place.token.wrong_pins)
    (tmp_path / "pin").write_text(place.token.pin)
    issuer.current()

    assert wrong_pins == [1] * 5
    assert issuer.error is None


def test_the_settings_show_no_pin(certificates: Certificates, sites: dict[str, Any]) -> None:
    settings = certificates.settings(**sites, pkcs11_pin="planted")

    assert "planted" not in repr(settings) + str(settings.model_dump())


def test_paths_are_taken_from_the_files_folder(certificates: Certificates) -> None:
    settings = certificates.settings(pkcs11_module="hsm.so", pkcs11_pin_file="pin")

    resolved = settings.resolved(Path("/etc/kumiai"))

    assert resolved.sites.pkcs11_module == Path("/etc/kumiai/hsm.so")
    assert resolved.sites.pkcs11_pin_file == Path("/etc/kumiai/pin")


async def test_a_site_comes_again_when_the_token_was_away(
    certificates: Certificates,
    database: DatabaseManager,
    sites: dict[str, Any],
    place: FakePlace,
    tmp_path: Path,
) -> None:
    office = _office(
        certificates.settings(**sites, pkcs11_pin=place.token.pin), certificates, database
    )
    async with running_api(certificates, database, tmp_path, sites=office) as api:
        made = (await api.operator.post("/api/v1/sites/site-1/invite", json={})).json()
        token = JoinToken(
            api.url.removeprefix("https://"), bytes.fromhex(made["fingerprint"]), made["secret"]
        )
        place.token.is_present = False
        with pytest.raises(KumiaiError, match="token 'authority' must be there"):
            await asyncio.to_thread(joining.join, token, tmp_path / "site")
        place.token.is_present = True

        files = await asyncio.to_thread(joining.join, token, tmp_path / "site")

    own = verify_own_certificate(files.cert, files.key, files.ca, SystemClock(), role=Role.CLIENT)
    assert own.name == "site-1"


def _office(settings: Settings, certificates: Certificates, database: DatabaseManager) -> Any:
    return new_site_office(
        settings,
        database=database,
        denials=SiteDenials(database),
        issuer=new_site_issuer(settings, SystemClock(), federation=FEDERATION),
        own=certificates.coordinator.identity,
    )
