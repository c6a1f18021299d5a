"""Certificates change while the federation works: nobody loses a round, a call or a connection."""

import asyncio
import shutil
import ssl
import threading
from pathlib import Path

import grpc.aio
import httpx
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    Role,
    TrustBundle,
    client_context,
    identity_of,
)
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, PROTOCOL_VERSION, TlsFiles, open_channel
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job


def renew(federation: Federation, name: str, role: Role) -> None:
    """Replace a member's files by those of a new certificate with a new key, each by renaming."""
    old = federation.certificates[name]
    hosts = ("localhost", "127.0.0.1") if role is Role.COORDINATOR else ()
    fresh = federation.authority.issue(
        role, name, hosts=hosts, out_dir=federation.folder / "renewed" / name
    )
    install(fresh, old)


def install(fresh: IssuedCertificate, old: IssuedCertificate) -> None:
    for source, target in ((fresh.key, old.key), (fresh.cert, old.cert)):
        waiting = target.with_suffix(".new")
        shutil.copy2(source, waiting)
        waiting.replace(target)


def serial_of(federation: Federation, name: str) -> int:
    """Return the serial number that a server shows on its HTTP port."""
    assert federation.server is not None
    pem = ssl.get_server_certificate(("127.0.0.1", federation.server.http_port))
    return identity_of(pem.encode()).serial


async def test_all_certificates_change_amid_a_run_and_no_round_and_no_call_is_lost(
    federation: Federation,
) -> None:
    await federation.start_clients(3)
    before = await asyncio.to_thread(serial_of, federation, "coordinator")

    with capture_logs() as logged:
        run_id = await federation.submit(
            job(run={"rounds": 20}, cohort={"size": 3, "min_reports": 3}), study.app
        )
        async with federation.http() as http:
            await federation.until_round(run_id, 3)
            # Somebody computes while all this happens.
            study.hold["site-1"] = threading.Event()
            renew(federation, "coordinator", Role.COORDINATOR)
            for number in (1, 2, 3):
                renew(federation, f"site-{number}", Role.CLIENT)
            renew(federation, "operator", Role.OPERATOR)
            await eventually(
                lambda: sum(each["event"] == "renewed certificate taken up" for each in logged) == 3
            )
            assert (await federation.until_round(run_id, 3))["round"] < 20
            study.hold.pop("site-1").set()
            # The connection that was opened before goes on.
            assert (await http.get("/api/v1/info")).status_code == 200
        run = await federation.wait_for(run_id, seconds=120)
        async with federation.http() as http:
            rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]

    assert run["round"] == 20
    assert [each["reports"] for each in rounds[1:]] == [3] * 20
    assert await asyncio.to_thread(serial_of, federation, "coordinator") != before
    told = [each["event"] for each in logged]
    assert not {"not connected", "caller refused", "transfer failed", "session failed"} & set(told)


def bring_roots(federation: Federation, *members: str) -> None:
    """Bring whom to trust from the authority to these members, by renaming."""
    authority = federation.authority
    for name in members:
        ca = federation.certificates[name].ca
        for source, target in (
            (authority.succession_path, ca.with_name("succession.crt")),
            (authority.certificate_path, ca),
        ):
            waiting = target.with_suffix(".new")
            shutil.copy2(source, waiting)
            waiting.replace(target)


def roots_of(federation: Federation, name: str) -> frozenset[int]:
    return TrustBundle.load(federation.certificates[name].ca).serials


async def test_the_root_changes_amid_a_run_and_nobody_carries_a_file_to_a_site(
    federation: Federation,
) -> None:
    sites = ("site-1", "site-2")
    await federation.start_clients(2)
    (old,) = roots_of(federation, "coordinator")

    with capture_logs() as logged:
        run_id = await federation.submit(
            job(run={"rounds": 20}, cohort={"size": 2, "min_reports": 2}), study.app
        )
        await federation.until_round(run_id, 3)
        study.hold["site-1"] = threading.Event()
        federation.authority.rotate()
        bring_roots(federation, "coordinator", "operator")
        await eventually(
            lambda: all(len(roots_of(federation, site)) == 2 for site in sites), seconds=60
        )
        renew(federation, "coordinator", Role.COORDINATOR)
        for name in sites:
            renew(federation, name, Role.CLIENT)
        renew(federation, "operator", Role.OPERATOR)
        await eventually(
            lambda: (
                {serial_in(federation, name) for name in sites}
                == {session_serial(federation, name) for name in sites}
            ),
            seconds=60,
        )
        federation.authority.retire(even_if_used=True)
        bring_roots(federation, "coordinator", "operator")
        await eventually(
            lambda: all(len(roots_of(federation, site)) == 1 for site in sites), seconds=60
        )
        study.hold.pop("site-1").set()
        run = await federation.wait_for(run_id, seconds=120)
        async with federation.http() as http:
            rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
            query = {"limit": 100, "order": "oldest"}
            entries = (await http.get("/api/v1/audit", params=query)).json()["entries"]

    assert run["round"] == 20
    assert [each["reports"] for each in rounds[1:]] == [2] * 20
    assert old not in roots_of(federation, "site-1") | roots_of(federation, "site-2")
    told = [each["event"] for each in logged]
    assert not {"not connected", "transfer failed", "session failed"} & set(told)
    acts = [each["act"] for each in entries]
    assert acts.count("trust.changed") == 2
    followed = [each["actor"]["name"] for each in entries if each["act"] == "trust.followed"]
    assert sorted(followed) == ["site-1", "site-1", "site-2", "site-2"]


def serial_in(federation: Federation, name: str) -> int:
    return identity_of(federation.certificates[name].cert.read_bytes()).serial


def session_serial(federation: Federation, name: str) -> int | None:
    """Return the serial number of the certificate that a client's session was opened with."""
    assert federation.server is not None
    serials = [
        call.principal.identity.serial
        for call in federation.server._gate._open
        if call.principal.name == name and call.principal.identity is not None
    ]
    return serials[-1] if len(serials) == 1 else None


async def test_a_root_that_nobody_has_named_is_told_of_and_not_followed(
    federation: Federation,
) -> None:
    await federation.start_clients(1)
    before = roots_of(federation, "site-1")
    stranger = CertificateManager(federation.folder / "stranger", clock=SystemClock())
    stranger.create("test")
    stranger.rotate()
    ca = federation.certificates["coordinator"].ca

    with capture_logs() as logged:
        ca.with_name("succession.crt").write_bytes(stranger.succession_path.read_bytes())
        ca.write_bytes(ca.read_bytes() + stranger.certificate_path.read_bytes())
        await eventually(
            lambda: [each for each in logged if each["event"] == "new root not taken up"]
        )

    async def refused() -> list[dict[str, object]]:
        async with federation.http() as http:
            query = {"act": "trust.followed", "outcome": "refused"}
            entries: list[dict[str, object]] = (
                await http.get("/api/v1/audit", params=query)
            ).json()["entries"]
            return entries

    (entry,) = await eventually(refused)
    assert roots_of(federation, "site-1") == before
    assert "must be one of this federation" in str(entry["detail"])
    assert federation.agents["site-1"].attached.is_set()


async def test_a_client_that_is_revoked_amid_a_round_drops_out_and_the_round_ends(
    federation: Federation,
) -> None:
    study.hold["site-2"] = threading.Event()
    await federation.start_clients(2)
    run_id = await federation.submit(
        job(run={"rounds": 1}, cohort={"size": 2, "min_reports": 1, "deadline_seconds": 600}),
        study.app,
    )
    await federation.until_round(run_id, 1)

    federation.authority.revoke("site-2", "key-compromise")
    async with asyncio.timeout(60):
        await asyncio.wait({federation.clients["site-2"]})
    run = await federation.wait_for(run_id)

    async with federation.http() as http:
        events = (await http.get(f"/api/v1/runs/{run_id}/events")).json()["events"]
        found = (await http.get("/api/v1/audit", params={"outcome": "refused"})).json()
    refused = found["entries"]
    assert run["state"] == "finished"
    dropped = [event for event in events if event["kind"] == "train_failed"]
    assert [event["client_id"] for event in dropped] == ["site-2"]
    assert "must not be revoked" in dropped[0]["text"]
    assert [entry["detail"]["refusal"] for entry in refused] == ["revoked"]
    assert (refused[0]["act"], refused[0]["actor"]["name"]) == ("authentication.refused", "site-2")


async def test_a_renewed_certificate_that_is_refused_leaves_the_session_as_it_is(
    federation: Federation,
) -> None:
    await federation.start_clients(1)
    agent, old = federation.agents["site-1"], federation.certificates["site-1"]

    with capture_logs() as logged:
        install(federation.issue(Role.OPERATOR, "olivia"), old)
        await eventually(
            lambda: [each for each in logged if each["event"] == "renewed certificate not taken up"]
        )
        assert agent.attached.is_set()
        renew(federation, "site-1", Role.CLIENT)
        await eventually(
            lambda: [each for each in logged if each["event"] == "renewed certificate taken up"]
        )

    assert agent.attached.is_set()
    run_id = await federation.submit(job(run={"rounds": 1}, cohort={"size": 1}), study.app)
    await federation.wait_for(run_id)


async def test_a_new_certificate_beside_the_old_key_is_not_taken_up(
    federation: Federation,
) -> None:
    await federation.start_clients(1)
    own = federation.certificates["coordinator"]
    fresh = federation.issue(Role.COORDINATOR, "second")
    shutil.copy2(fresh.cert, own.cert)

    async with federation.http() as http:
        assert (await http.get("/healthz")).status_code == 200
    issued = federation.issue(Role.CLIENT, "site-9")
    files = TlsFiles(certificate=issued.cert, key=issued.key, ca=issued.ca)
    assert federation.server is not None
    async with open_channel(f"localhost:{federation.server.port}", files) as wire:
        call = wire.stream_stream(ATTACH)()
        hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="new", apps=["counting"])
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        async with asyncio.timeout(10):
            assert await call.read() is not grpc.aio.EOF


async def test_an_authority_that_is_no_longer_trusted_lets_nobody_in_over_open_connections(
    federation: Federation, tmp_path: Path
) -> None:
    assert federation.server is not None
    second = CertificateManager(tmp_path / "second-ca", clock=SystemClock())
    second.create("test")
    issued = second.issue(Role.OPERATOR, "omar", out_dir=tmp_path / "omar")
    own_ca = federation.certificates["coordinator"].ca
    old = own_ca.read_bytes()
    own_ca.write_bytes(old + issued.ca.read_bytes())
    context = client_context(issued.cert, issued.key, own_ca)

    async with httpx.AsyncClient(
        base_url=f"https://localhost:{federation.server.http_port}", verify=context, timeout=60
    ) as http:

        async def status() -> int:
            return (await http.get("/api/v1/info")).status_code

        await eventually(status, lambda code: code == 200)
        own_ca.write_bytes(old)
        await eventually(status, lambda code: code == 403)
