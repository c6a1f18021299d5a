"""Every way of not getting in, at a running coordinator: what a caller is told, what is kept."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from kumiai.core.clock import SystemClock
from kumiai.identity import Role, client_context, diagnose_handshake
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, PROTOCOL_VERSION, PUT, TlsFiles, open_channel
from kumiai.testing.databases import SQLiteTemplate
from tests.identity.forge import Forged, forge, forge_authority, rsa_key
from tests.integration.eventually import eventually
from tests.integration.federation import Federation

DENIED = grpc.StatusCode.PERMISSION_DENIED
CLIENT = "kumiai://test/client/site-1"
NOW = SystemClock().now()
DAY = 86_400.0


@pytest.fixture
def root() -> Forged:
    """A root whose key a test has, and which the coordinator trusts besides its own."""
    return forge_authority()


@pytest.fixture
async def federation(
    tmp_path: Path, sqlite_template: SQLiteTemplate, root: Forged
) -> AsyncIterator[Federation]:
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    ca = federation.certificates["coordinator"].ca
    ca.write_bytes(ca.read_bytes() + root.pem)
    await federation.start()
    yield federation
    await federation.stop()


def files_of(federation: Federation, member: Forged, *above: Forged) -> TlsFiles:
    folder = federation.folder / "forged"
    folder.mkdir(exist_ok=True)
    chain, key = folder / "member.crt", folder / "member.key"
    chain.write_bytes(b"".join(each.pem for each in (member, *above)))
    key.write_bytes(member.key_pem)
    key.chmod(0o600)
    return TlsFiles(certificate=chain, key=key, ca=federation.certificates["coordinator"].ca)


async def refusal(federation: Federation, files: TlsFiles) -> tuple[grpc.StatusCode, str]:
    """Return what a client with these files is told when it attaches."""
    assert federation.server is not None
    async with open_channel(f"localhost:{federation.server.port}", files) as wire:
        call = wire.stream_stream(ATTACH)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(20):
                await call.read()
    return caught.value.code(), caught.value.details() or ""


async def audited(federation: Federation) -> list[dict[str, Any]]:
    """Return the refusals that the audit log tells of."""
    async with federation.http() as http:
        found = (await http.get("/api/v1/audit", params={"outcome": "refused"})).json()
    entries: list[dict[str, Any]] = found["entries"]
    return entries


def forged(root: Forged, **changes: Any) -> Forged:
    return forge(by=root, **{"uris": (CLIENT,), "begins": NOW - DAY, "ends": NOW + DAY, **changes})


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"with_usage": False}, "wrong-usage", "to authenticate a client"),
        ({"uris": ()}, "wrong-identity", "exactly one URI name, got 0"),
        ({"uris": (CLIENT, CLIENT + "0")}, "wrong-identity", "exactly one URI name, got 2"),
        ({"uris": ("kumiai://test/king/site-1",)}, "wrong-identity", "role must be one of"),
        ({"uris": ("kumiai://banks/client/site-1",)}, "wrong-federation", "federation 'test'"),
        ({"key": rsa_key(2048)}, "weak-key", "got RSA of 2048 bits"),
    ],
    ids=["usage", "no name", "two names", "role", "federation", "weak key"],
)
async def test_what_the_tls_library_lets_through_is_refused_with_a_reason_and_an_entry(
    federation: Federation, root: Forged, changes: dict[str, Any], kind: str, words: str
) -> None:
    code, told = await refusal(federation, files_of(federation, forged(root, **changes)))

    assert code == DENIED
    assert words in told
    (entry,) = await eventually(lambda: audited(federation))
    assert (entry["act"], entry["detail"]["refusal"]) == ("authentication.refused", kind)


async def test_a_call_that_the_role_may_not_make_is_denied_and_told_at_once(
    federation: Federation, root: Forged
) -> None:
    auditor = forged(root, uris=("kumiai://test/auditor/aude",))

    code, told = await refusal(federation, files_of(federation, auditor))
    (entry,) = await audited(federation)

    assert (code, "rounds.join" in told) == (DENIED, True)
    assert (entry["act"], entry["detail"]["refusal"]) == ("permission.denied", "missing-permission")
    assert (entry["actor"]["role"], entry["actor"]["name"]) == ("auditor", "aude")


async def test_a_suspended_site_is_told_of_before_it_is_answered(federation: Federation) -> None:
    await federation.start_clients(1)
    own = federation.certificates["site-1"]
    await federation.stop_client("site-1")
    async with federation.http() as http:
        suspended = await http.post("/api/v1/sites/site-1/suspend", json={"reason": "audit"})
    assert suspended.status_code == 200, suspended.text

    code, _ = await refusal(federation, TlsFiles(certificate=own.cert, key=own.key, ca=own.ca))
    (entry,) = await audited(federation)

    assert (code, entry["detail"]["refusal"]) == (DENIED, "suspended")
    assert entry["actor"]["name"] == "site-1"


async def test_a_token_that_has_ended_and_one_that_wants_too_much_are_told_of_at_once(
    federation: Federation,
) -> None:
    async with federation.http() as http:
        wanted = {"name": "nightly", "permissions": ["runs.read"]}
        made = (await http.post("/api/v1/tokens", json=wanted)).json()
        token_id = made["made"]["token_id"]
        await http.delete(f"/api/v1/tokens/{token_id}")
        wanted["name"] = "daily"
        good = (await http.post("/api/v1/tokens", json=wanted)).json()
    assert federation.server is not None
    context = ssl.create_default_context(cafile=federation.certificates["coordinator"].ca)
    url = f"https://localhost:{federation.server.http_port}"
    async with httpx.AsyncClient(base_url=url, verify=context, timeout=60) as http:
        for token, path in ((made["token"], "/api/v1/runs"), (good["token"], "/api/v1/sites")):
            answer = await http.get(path, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 403, answer.text
    denied, ended = await audited(federation)

    assert (ended["detail"]["refusal"], ended["subject"]) == ("bad-token", f"token/{token_id}")
    assert denied["act"] == "permission.denied"
    assert denied["actor"]["name"] == "operator"
    assert denied["subject"] == f"token/{good['made']['token_id']}"


async def test_a_handler_that_denies_something_is_told_of_as_well(federation: Federation) -> None:
    async with federation.http() as http:
        answer = await http.post(
            "/api/v1/tokens", json={"name": "x", "permissions": ["audit.redact"]}
        )
    (entry,) = await audited(federation)

    assert answer.status_code == 403
    assert (entry["act"], entry["detail"]["call"]) == ("permission.denied", "POST /api/v1/tokens")


async def test_a_second_process_with_the_same_certificate_is_told_of(
    federation: Federation,
) -> None:
    await federation.start_clients(1)
    own = federation.certificates["site-1"]
    files = TlsFiles(certificate=own.cert, key=own.key, ca=own.ca)
    assert federation.server is not None

    async with open_channel(f"localhost:{federation.server.port}", files) as wire:
        call = wire.stream_stream(ATTACH)()
        hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id="thief", apps=["counting"])
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        assert await call.code() == grpc.StatusCode.ALREADY_EXISTS
    (entry,) = await audited(federation)

    assert entry["detail"]["refusal"] == "already-attached"
    assert entry["actor"]["name"] == "site-1"


async def test_an_oversized_chain_is_refused_with_a_reason_and_an_entry(
    federation: Federation, root: Forged
) -> None:
    others = [forge_authority(serial=number, name=f"n{number}") for number in range(2, 6)]

    code, told = await refusal(federation, files_of(federation, forged(root), *others))

    assert (code, "at most 4 certificates" in told) == (DENIED, True)
    (entry,) = await eventually(lambda: audited(federation))
    assert entry["detail"]["refusal"] == "oversized-chain"


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (lambda _: forge(uris=(CLIENT,)), "does not accept your certificate"),
        (lambda _: forge(by=forge_authority(), uris=(CLIENT,)), "does not accept your certificate"),
        (lambda root: forged(root, ends=NOW - 60), "compare the clocks of both machines"),
        (lambda root: forged(root, begins=NOW + DAY / 2), "compare the clocks of both machines"),
        (
            lambda root: forged(root, usages=(ExtendedKeyUsageOID.SERVER_AUTH,)),
            "does not accept your certificate",
        ),
    ],
    ids=["self-signed", "wrong CA", "expired", "not yet valid", "a server's"],
)
async def test_what_the_tls_library_refuses_is_explained_by_the_callers_own_side(
    federation: Federation, root: Forged, member: Callable[[Forged], Forged], words: str
) -> None:
    files = files_of(federation, member(root))
    assert federation.server is not None

    code, _ = await refusal(federation, files)
    found = await asyncio.to_thread(
        diagnose_handshake,
        "localhost",
        federation.server.port,
        files.certificate,
        files.key,
        files.ca,
        10.0,
    )

    assert code == grpc.StatusCode.UNAVAILABLE
    assert words in str(found)


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        (lambda _: forge(uris=(CLIENT,)), "self-signed"),
        (lambda _: forge(by=forge_authority(), uris=(CLIENT,)), "wrong-authority"),
        (lambda root: forged(root, ends=NOW - 60), "expired"),
        (lambda root: forged(root, begins=NOW + DAY / 2), "not-yet-valid"),
        (lambda root: forged(root, usages=(ExtendedKeyUsageOID.SERVER_AUTH,)), "wrong-usage"),
    ],
    ids=["self-signed", "wrong CA", "expired", "not yet valid", "a server's"],
)
async def test_what_the_tls_library_refuses_at_the_http_port_has_an_entry_of_its_kind(
    federation: Federation, root: Forged, member: Callable[[Forged], Forged], kind: str
) -> None:
    files = files_of(federation, member(root))
    assert federation.server is not None
    url = f"https://localhost:{federation.server.http_port}/api/v1/runs"
    tls = client_context(files.certificate, files.key, files.ca)

    async with httpx.AsyncClient(verify=tls, timeout=60) as http:
        with pytest.raises(httpx.TransportError):
            await http.get(url)

    (entry,) = await eventually(lambda: audited(federation))
    assert (entry["act"], entry["detail"]["refusal"]) == ("authentication.refused", kind)
    assert (entry["actor"]["address"], entry["detail"]["call"]) == ("127.0.0.1", "TLS handshake")


async def test_tls_1_2_at_the_http_port_has_an_entry_and_its_repetitions_do_not(
    federation: Federation,
) -> None:
    assert federation.server is not None
    context = ssl.create_default_context(cafile=federation.certificates["coordinator"].ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    for _ in range(3):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", federation.server.http_port, ssl=context)

    (entry,) = await eventually(lambda: audited(federation))
    assert entry["detail"]["refusal"] == "old-tls"


async def test_without_a_certificate_there_is_no_session_and_nothing_to_read(
    federation: Federation,
) -> None:
    assert federation.server is not None
    ca = federation.certificates["coordinator"].ca
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{federation.server.port}", credentials) as wire:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(20):
                await wire.unary_unary(PUT)(b"")
    context = ssl.create_default_context(cafile=ca)
    url = f"https://localhost:{federation.server.http_port}"
    async with httpx.AsyncClient(base_url=url, verify=context, timeout=60) as http:
        answer = await http.get("/api/v1/runs")

    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert (answer.status_code, "must show a certificate" in answer.text) == (403, True)
    (entry,) = await eventually(lambda: audited(federation))
    assert entry["detail"]["refusal"] == "no-certificate"


@pytest.mark.parametrize("port", ["port", "http_port"])
async def test_tls_1_2_is_spoken_on_no_port(federation: Federation, port: str) -> None:
    own = federation.issue(Role.CLIENT, "site-1")
    context = ssl.create_default_context(cafile=own.ca)
    context.load_cert_chain(own.cert, own.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    address = ("localhost", getattr(federation.server, port))

    def connect() -> None:
        with (
            socket.create_connection(address, 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.recv(1)

    with pytest.raises(OSError):  # noqa: PT011 - an alert or a reset
        await asyncio.to_thread(connect)


async def test_a_stolen_instance_id_opens_nothing(federation: Federation) -> None:
    await federation.start_clients(1)
    stolen = federation.agents["site-1"]._instance_id
    thief = federation.issue(Role.CLIENT, "site-2")
    files = TlsFiles(certificate=thief.cert, key=thief.key, ca=thief.ca)
    assert federation.server is not None

    async with open_channel(f"localhost:{federation.server.port}", files) as wire:
        call = wire.stream_stream(ATTACH)()
        hello = pb.Hello(protocol_version=PROTOCOL_VERSION, instance_id=stolen, apps=["counting"])
        await call.write(pb.ClientMessage(hello=hello).SerializeToString())
        await call.read()
        async with federation.http() as http:
            clients = (await http.get("/api/v1/clients")).json()["clients"]

    attached = {each["client_id"] for each in clients if each["state"] == "attached"}
    assert attached == {"site-1", "site-2"}
    assert federation.agents["site-1"].attached.is_set()
