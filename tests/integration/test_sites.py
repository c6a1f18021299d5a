"""Sites join, renew and are sent away while the federation works."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kumiai.core.clock import SystemClock
from kumiai.core.errors import CertificateError, DeniedError
from kumiai.identity import IssuedCertificate, Role, SiteIssuer, identity_of
from kumiai.identity.keys import new_key, private_key_of, private_pem_of
from kumiai.identity.requests import new_request
from kumiai.node.client import joining
from kumiai.node.client.joining import JoinToken
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, PROTOCOL_VERSION, TlsFiles, open_channel
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.eventually import eventually
from tests.integration.federation import Federation, job


@pytest.fixture
async def federation(tmp_path: Path, sqlite_template: SQLiteTemplate) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    made = federation.authority.delegate(out_dir=tmp_path / "sites")
    federation.sites = {"issuer_certificate": made.cert, "issuer_key": made.key}
    await federation.start()
    yield federation
    study.hold.clear()
    await federation.stop()


async def joined(federation: Federation, name: str) -> IssuedCertificate:
    """Let a site join as its people would."""
    assert federation.server is not None
    async with federation.http() as http:
        made = (await http.post(f"/api/v1/sites/{name}/invite", json={})).json()
    address = f"localhost:{federation.server.http_port}"
    token = JoinToken(address, bytes.fromhex(made["fingerprint"]), made["secret"])
    files = await asyncio.to_thread(joining.join, token, federation.folder / name)
    identity = identity_of(files.cert.read_bytes())
    return IssuedCertificate(identity, files.cert, files.key, files.ca)


def short_lived(federation: Federation, name: str, seconds: float) -> IssuedCertificate:
    """Return a site's certificate that is over soon."""
    sites, directory = federation.sites, federation.folder / name
    issuer = SiteIssuer.load(
        sites["issuer_certificate"],
        sites["issuer_key"],
        federation.authority.certificate_path,
        SystemClock(),
        None,
    )
    key = new_key()
    signed = issuer.sign(key.public_key(), name, lifetime_seconds=seconds)
    directory.mkdir()
    paths = directory / f"{name}.crt", directory / f"{name}.key", directory / "ca.crt"
    contents = signed.chain, private_pem_of(key), federation.authority.certificate_path.read_bytes()
    for path, content in zip(paths, contents, strict=True):
        path.touch(mode=0o600)
        path.write_bytes(content)
    return IssuedCertificate(signed.identity, *paths)


async def test_a_site_that_joined_takes_part(federation: Federation) -> None:
    certificate = await joined(federation, "cleveland")

    federation.start_client("cleveland", certificate=certificate, data={"number": 1})
    run_id = await federation.submit(job(cohort={"size": 1, "min_reports": 1}), study.app)

    assert (await federation.wait_for(run_id))["round"] == 3


async def test_an_issuer_that_is_replaced_signs_without_a_restart(federation: Federation) -> None:
    before = await joined(federation, "cleveland")
    fresh = federation.authority.delegate(out_dir=federation.folder / "fresh")
    key, certificate = federation.sites["issuer_key"], federation.sites["issuer_certificate"]

    with capture_logs() as logged:
        fresh.key.replace(key)  # for a moment beside the certificate of the old one
        between = await joined(federation, "between")
        fresh.cert.replace(certificate)
        after = await eventually(lambda: joined_by(federation, fresh.serial))

    assert before.identity.issuer_serial == between.identity.issuer_serial != fresh.serial
    assert after.identity.issuer_serial == fresh.serial
    told = [
        each for each in logged if each["event"] in {"issuer taken up", "new issuer not taken up"}
    ]
    assert told[0]["event"] == "new issuer not taken up"
    assert told[-1] == {
        "event": "issuer taken up",
        "serial": f"{fresh.serial:x}",
        "log_level": "info",
    }


async def joined_by(federation: Federation, issuer: int) -> IssuedCertificate | None:
    """Let one more site join, and return its certificate if this issuer has signed it."""
    name = f"site-{len(list(federation.folder.iterdir()))}"
    certificate = await joined(federation, name)
    return certificate if certificate.identity.issuer_serial == issuer else None


async def test_what_happens_to_a_site_stands_in_the_audit_log(federation: Federation) -> None:
    certificate = await joined(federation, "cleveland")
    async with federation.http() as http:
        for act in ("suspend", "resume", "remove"):
            body = None if act == "resume" else {"reason": "an audit"}
            (await http.post(f"/api/v1/sites/cleveland/{act}", json=body)).raise_for_status()
        entries = (await http.get("/api/v1/audit", params={"limit": 50})).json()["entries"]

    told = {each["act"]: each for each in entries if each["act"].startswith("site.")}
    assert set(told) == {
        "site.invited",
        "site.joined",
        "site.suspended",
        "site.resumed",
        "site.removed",
    }
    assert {each["subject"] for each in told.values()} == {"site/cleveland"}
    assert told["site.joined"]["detail"] == {"serial": f"{certificate.identity.serial:x}"}


async def refused_in(federation: Federation) -> list[dict[str, Any]]:
    """Return the refusals that the audit log tells of."""
    async with federation.http() as http:
        found = (await http.get("/api/v1/audit", params={"outcome": "refused"})).json()
    entries: list[dict[str, Any]] = found["entries"]
    return entries


async def test_an_invitation_that_is_used_again_has_an_entry_in_the_audit_log(
    federation: Federation,
) -> None:
    assert federation.server is not None
    async with federation.http() as http:
        made = (await http.post("/api/v1/sites/cleveland/invite", json={})).json()
    address = f"localhost:{federation.server.http_port}"
    token = JoinToken(address, bytes.fromhex(made["fingerprint"]), made["secret"])
    await asyncio.to_thread(joining.join, token, federation.folder / "cleveland")

    with pytest.raises(DeniedError, match="must be used once, got another key"):
        await asyncio.to_thread(joining.join, token, federation.folder / "thief")

    (entry,) = await eventually(lambda: refused_in(federation))
    assert (entry["act"], entry["detail"]["refusal"]) == ("authentication.refused", "bad-enrolment")
    assert (entry["detail"]["call"], entry["actor"]["address"]) == (
        "POST /api/v1/join",
        "127.0.0.1",
    )


async def test_a_renewal_with_another_sites_key_is_refused_and_stands_in_the_audit_log(
    federation: Federation,
) -> None:
    victim = await joined(federation, "budapest")
    thief = await joined(federation, "cleveland")
    assert federation.server is not None
    tls = TlsFiles(certificate=thief.cert, key=thief.key, ca=thief.ca)
    request = new_request(private_key_of(victim.key.read_bytes(), "key")).decode()

    async with open_channel(f"localhost:{federation.server.port}", tls) as channel:
        call = channel.stream_stream(ATTACH)()
        hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="i", apps=["counting"])
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        wanted = pb.CertificateRequest(request=request)
        await call.write(pb.ClientMessage(renewal=wanted).SerializeToString())
        messages = [pb.ServerMessage.FromString(await call.read()) for _ in range(2)]

    assert messages[1].renewed.chain == ""
    assert "got one that another site's certificate holds" in messages[1].renewed.reason
    (entry,) = await refused_in(federation)
    assert entry["detail"]["refusal"] == "bad-enrolment"
    assert (entry["actor"]["role"], entry["actor"]["name"]) == ("client", "cleveland")


async def test_certificates_are_renewed_amid_a_run_and_no_round_is_lost(
    federation: Federation,
) -> None:
    certificates = {name: short_lived(federation, name, 16.0) for name in ("a", "b")}
    keys = {name: each.key.read_bytes() for name, each in certificates.items()}
    with capture_logs() as logged:
        for number, (name, certificate) in enumerate(certificates.items()):
            federation.start_client(name, certificate=certificate, data={"number": number})
        run_id = await federation.submit(
            job(run={"rounds": 60}, cohort={"size": 2, "min_reports": 2}), study.app
        )
        await eventually(
            lambda: sum(each["event"] == "renewed certificate taken up" for each in logged) >= 2
        )
        await federation.wait_for(run_id, seconds=100)
        async with federation.http() as http:
            rounds = (await http.get(f"/api/v1/runs/{run_id}/rounds")).json()["rounds"]
        # Past the end of the old ones: whoever still is here is so by the new ones.
        end = max(each.identity.not_after for each in certificates.values())
        await eventually(lambda: SystemClock().now() > end + 1)
        late = await federation.submit(job(cohort={"size": 2, "min_reports": 2}), study.app)
        await federation.wait_for(late)

    assert [each["reports"] for each in rounds[1:]] == [2] * 60
    troubles = {"not connected", "caller refused", "transfer failed"}
    assert [each for each in logged if each["event"] in troubles] == []
    for name, old in certificates.items():
        fresh = identity_of(old.cert.read_bytes())
        assert fresh.uri == old.identity.uri
        assert fresh.not_after > old.identity.not_after + 3600
        assert old.key.read_bytes() != keys[name]


async def test_a_session_begins_with_the_welcome_whatever_is_sent_to_everybody_meanwhile(
    federation: Federation,
) -> None:
    certificate = await joined(federation, "cleveland")
    assert federation.server is not None
    hub = federation.server._hub
    hub._on_change = lambda: hub.cancel("run-1", 1, "said to all who are attached")
    tls = TlsFiles(certificate=certificate.cert, key=certificate.key, ca=certificate.ca)

    async with open_channel(f"localhost:{federation.server.port}", tls) as channel:
        call = channel.stream_stream(ATTACH)()
        hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="i", apps=["counting"])
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        messages = [pb.ServerMessage.FromString(await call.read()) for _ in range(2)]

    assert [message.WhichOneof("body") for message in messages] == ["welcome", "cancel"]


async def test_a_suspended_site_is_sent_away_within_seconds_waits_and_comes_back_when_resumed(
    federation: Federation,
) -> None:
    certificate = await joined(federation, "cleveland")
    running = federation.start_client("cleveland", certificate=certificate, data={"number": 1})
    agent = federation.agents["cleveland"]
    agent._times = replace(agent._times, first_suspended_seconds=0.1, longest_suspended_seconds=0.2)
    await agent.attached.wait()

    with capture_logs() as logged:
        async with federation.http() as http:
            await http.post("/api/v1/sites/cleveland/suspend", json={"reason": "an audit"})
            async with asyncio.timeout(30):
                while agent.attached.is_set():
                    await asyncio.sleep(0.01)
            await eventually(lambda: sum(each["event"] == "caller refused" for each in logged))
            # It asks, is refused, and says so once.
            await refusals_of(federation, 3)
            assert not running.done()
            await http.post("/api/v1/sites/cleveland/resume")
        async with asyncio.timeout(30):
            await agent.attached.wait()

    told = [each for each in logged if each["event"].startswith("suspended")]
    assert len(told) == 1
    assert "that is suspended; ask the" in told[0]["reason"]
    run_id = await federation.submit(job(cohort={"size": 1, "min_reports": 1}), study.app)
    await federation.wait_for(run_id)


async def refusals_of(federation: Federation, count: int) -> None:
    """Return once the audit log tells of so many calls of suspended sites."""

    async def told() -> int:
        async with federation.http() as http:
            query = {"outcome": "refused", "limit": 50}
            entries = (await http.get("/api/v1/audit", params=query)).json()["entries"]
        return sum(each["detail"].get("refusal") == "suspended" for each in entries)

    await eventually(told, lambda found: found >= count)


async def test_a_site_that_is_suspended_when_it_starts_waits_and_one_that_is_removed_ends(
    federation: Federation,
) -> None:
    certificate = await joined(federation, "cleveland")
    async with federation.http() as http:
        await http.post("/api/v1/sites/cleveland/suspend", json={"reason": "an audit"})
        running = federation.start_client("cleveland", certificate=certificate)
        agent = federation.agents["cleveland"]
        agent._times = replace(
            agent._times, first_suspended_seconds=0.1, longest_suspended_seconds=0.2
        )
        await refusals_of(federation, 2)
        assert not running.done()

        await http.post("/api/v1/sites/cleveland/remove", json={"reason": "left"})
        with pytest.raises(CertificateError, match="must"):
            async with asyncio.timeout(30):
                await running


async def test_a_removed_site_comes_back_by_a_new_invitation_alone(
    federation: Federation,
) -> None:
    certificate = await joined(federation, "cleveland")
    by_hand = federation.issue(Role.CLIENT, "cleveland")
    async with federation.http() as http:
        await http.post("/api/v1/sites/cleveland/remove", json={"reason": "left"})
    (federation.folder / "cleveland").rename(federation.folder / "old")
    old = replace(
        certificate,
        cert=federation.folder / "old" / "cleveland.crt",
        key=federation.folder / "old" / "cleveland.key",
    )

    again = await joined(federation, "cleveland")

    for refused in (old, by_hand):
        with pytest.raises(CertificateError, match="must"):
            await federation.start_client("cleveland", certificate=refused)
    federation.start_client("cleveland", certificate=again)
    async with asyncio.timeout(30):
        await federation.agents["cleveland"].attached.wait()
