"""What is said to those whom a running coordinator does not let in, or not at this port."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError
from kumiai.identity import IssuedCertificate, Role
from kumiai.node.assembly.client import new_client
from kumiai.node.doctor import Finding, State, examine
from kumiai.node.operator.client import OperatorClient
from kumiai.node.settings import Settings
from tests.integration.eventually import eventually
from tests.integration.federation import STUDY, Federation


def settings_of(issued: IssuedCertificate, folder: Path, **tables: Any) -> Settings:
    identity = {"certificate": issued.cert, "key": issued.key, "ca": issued.ca}
    client = {"state_dir": folder / "state", "apps": [STUDY], **tables.pop("client", {})}
    return Settings.model_validate({"identity": identity, "client": client, **tables})


def client_settings(federation: Federation, *, port: int | None = None) -> Settings:
    assert federation.server is not None
    issued = federation.issue(Role.CLIENT, "site-1")
    address = f"localhost:{port or federation.server.port}"
    return settings_of(issued, federation.folder, client={"coordinator": address})


def operator_settings(federation: Federation, *, port: int | None = None) -> Settings:
    assert federation.server is not None
    url = f"https://localhost:{port or federation.server.http_port}"
    issued = federation.certificates["operator"]
    return settings_of(issued, federation.folder, operator={"url": url})


def revoke(federation: Federation, name: str) -> None:
    federation.authority.revoke(name, "key-compromise")
    federation.authority.revocation_list()


async def look(settings: Settings) -> dict[str, Finding]:
    findings = await asyncio.to_thread(examine, settings, clock=SystemClock())
    return {each.check: each for each in findings}


async def until_wrong(settings: Settings) -> Finding:
    """Return what the doctor says of the connection once the coordinator has seen a new list."""
    found = await eventually(lambda: look(settings), lambda found: found["connection"].is_wrong)
    connection: Finding = found["connection"]
    return connection


async def test_the_doctor_finds_nothing_wrong_with_who_is_let_in(federation: Federation) -> None:
    for settings in (client_settings(federation), operator_settings(federation)):
        found = await look(settings)

        assert found["connection"].state is State.OK, found
        assert "lets this certificate in" in found["connection"].text


async def test_the_doctor_at_a_site_sees_that_its_certificate_is_revoked(
    federation: Federation,
) -> None:
    settings = client_settings(federation)
    revoke(federation, "site-1")

    found = await until_wrong(settings)

    assert "kumiai://test/client/site-1 must not be revoked" in found.text
    assert found.mend == "ask the federation's operator"


async def test_the_doctor_of_an_operator_sees_that_its_certificate_is_revoked(
    federation: Federation,
) -> None:
    revoke(federation, "operator")

    found = await until_wrong(operator_settings(federation))

    assert "must not be revoked" in found.text
    assert (await look(operator_settings(federation)))["clock"].state is State.OK


async def test_the_doctor_of_an_operator_sees_that_the_coordinators_certificate_is_revoked(
    federation: Federation,
) -> None:
    settings = operator_settings(federation)
    crl = federation.authority.revocation_list_path
    identity = settings.identity.model_copy(update={"crl": crl})
    settings = settings.model_copy(update={"identity": identity})
    before = await look(settings)

    revoke(federation, "coordinator")

    found = (await look(settings))["connection"]
    assert before["connection"].state is State.OK
    assert found.text.startswith("the server's certificate must not be revoked")
    crl.unlink()
    found = (await look(settings))["connection"]
    assert found.text.startswith("revocation list must exist")


async def test_the_doctor_looks_for_its_own_certificate_in_its_own_list(
    federation: Federation,
) -> None:
    settings = client_settings(federation)
    revoke(federation, "site-1")
    crl = federation.authority.revocation_list_path
    identity = settings.identity.model_copy(update={"crl": crl})

    found = (await look(settings.model_copy(update={"identity": identity})))["revocation list"]

    assert found.is_wrong
    assert "names this certificate" in found.text
    assert "kumiai ca issue client site-1" in found.mend


async def test_an_operator_at_the_port_for_clients_is_told_which_one_it_is(
    federation: Federation,
) -> None:
    assert federation.server is not None
    settings = operator_settings(federation, port=federation.server.port)

    def ask() -> None:
        with OperatorClient.of(settings) as client:
            client.info()

    with pytest.raises(ConfigError, match=r"operator.url must be .* speaks gRPC; .*http_listen"):
        await asyncio.to_thread(ask)
    assert "http_listen" in (await look(settings))["connection"].mend


async def test_a_client_at_the_port_for_operators_is_told_which_one_it_is(
    federation: Federation,
) -> None:
    assert federation.server is not None
    settings = client_settings(federation, port=federation.server.http_port)

    found = (await look(settings))["connection"]

    assert found.is_wrong
    assert "speaks no gRPC" in found.text
    assert "not its http_listen" in found.mend


async def test_a_client_at_the_wrong_port_says_so_in_its_log(federation: Federation) -> None:
    assert federation.server is not None
    settings = client_settings(federation, port=federation.server.http_port)

    with capture_logs() as logged:
        client = asyncio.create_task(new_client(settings).run())
        await eventually(lambda: logged)
        client.cancel()
        await asyncio.wait({client})

    assert logged[0]["event"] == "not connected"
    assert "client.coordinator must be" in logged[0]["reason"]
