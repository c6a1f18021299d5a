import contextlib
import gc
import socket
import ssl
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kumiai.core.errors import CertificateError, ConfigError, NotFoundError, StorageError
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    Role,
    bearer_context,
    client_context,
    connect,
    identity_of,
    rotating_server_context,
    server_context,
)


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    connection.recv(1)


def server_of(issued: IssuedCertificate, client_certificate: Any = "required") -> ssl.SSLContext:
    return server_context(issued.cert, issued.key, issued.ca, client_certificate=client_certificate)


def client_of(issued: IssuedCertificate) -> ssl.SSLContext:
    return client_context(issued.cert, issued.key, issued.ca)


def bare_client(ca: Path) -> ssl.SSLContext:
    """A client without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    return context


def greeting(
    server: Any, context: ssl.SSLContext, host: str = "localhost"
) -> tuple[bytes, str | None, bool | None]:
    """Connect and read: under TLS 1.3 only reading shows whether the server let us in."""
    with (
        socket.create_connection((server.host, server.port), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.recv(5), secure.version(), secure.session_reused


def test_both_sides_meet_over_tls_1_3(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with serving(server_of(coordinator), greet) as server:
        assert greeting(server, client_of(client)) == (b"hello", "TLSv1.3", False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_coordinator_answers_for_each_of_its_hosts(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate, host: str
) -> None:
    with serving(server_of(coordinator), greet) as server:
        assert greeting(server, client_of(client), host)[0] == b"hello"


def test_a_coordinator_does_not_answer_for_another_host(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with (
        serving(server_of(coordinator), greet) as server,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        greeting(server, client_of(client), "example.org")


def test_a_client_of_another_authority_is_refused(
    serving: Any, coordinator: IssuedCertificate, stranger: IssuedCertificate
) -> None:
    context = client_context(stranger.cert, stranger.key, coordinator.ca)

    with serving(server_of(coordinator), greet) as server, pytest.raises(ssl.SSLError):
        greeting(server, context)


def test_a_server_of_another_authority_is_refused(
    serving: Any,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    stranger: IssuedCertificate,
) -> None:
    context = client_context(client.cert, client.key, stranger.ca)

    with (
        serving(server_of(coordinator), greet) as server,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        greeting(server, context)


def test_a_client_cannot_serve(serving: Any, client: IssuedCertificate) -> None:
    with (
        serving(server_of(client), greet) as server,
        pytest.raises(ssl.SSLCertVerificationError, match="purpose"),
    ):
        greeting(server, client_of(client))


def test_a_client_without_a_certificate_is_refused_where_one_is_required(
    serving: Any, coordinator: IssuedCertificate
) -> None:
    with (
        serving(server_of(coordinator), greet) as server,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
    ):
        greeting(server, bare_client(coordinator.ca))


def test_a_client_without_a_certificate_is_let_in_where_it_is_optional(
    serving: Any, coordinator: IssuedCertificate
) -> None:
    with serving(server_of(coordinator, "optional"), greet) as server:
        assert greeting(server, bare_client(coordinator.ca))[0] == b"hello"


def test_a_bad_certificate_is_refused_even_where_it_is_optional(
    serving: Any, coordinator: IssuedCertificate, stranger: IssuedCertificate
) -> None:
    context = client_context(stranger.cert, stranger.key, coordinator.ca)

    with serving(server_of(coordinator, "optional"), greet) as server, pytest.raises(ssl.SSLError):
        greeting(server, context)


def test_a_client_of_tls_1_2_is_refused(serving: Any, coordinator: IssuedCertificate) -> None:
    context = bare_client(coordinator.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with (
        serving(server_of(coordinator, "optional"), greet) as server,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        greeting(server, context)


def test_a_server_of_tls_1_2_is_refused(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(coordinator.cert, coordinator.key)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    with (
        serving(old, greet) as server,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        greeting(server, client_of(client))


def test_a_server_hands_out_no_ticket_to_resume_with(coordinator: IssuedCertificate) -> None:
    assert server_of(coordinator).num_tickets == 0


def test_both_contexts_verify_strictly(
    coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    for context in (server_of(coordinator), client_of(client)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.verify_flags & ssl.VerifyFlags.VERIFY_X509_STRICT
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert client_of(client).check_hostname


@pytest.mark.parametrize(
    ("name", "what"), [("cert", "certificate"), ("key", "private key"), ("ca", "ca certificate")]
)
def test_a_file_that_is_missing_or_too_large_is_named(
    client: IssuedCertificate, name: str, what: str
) -> None:
    path = getattr(client, name)
    path.write_bytes(path.read_bytes().ljust(64 * 1024 + 1, b"\n"))
    with pytest.raises(StorageError, match=f"^{what} must be at most 65536 bytes, got more"):
        client_of(client)

    path.unlink()
    with pytest.raises(NotFoundError, match=f"^{what} must exist, got no file at {path}"):
        client_of(client)


def test_a_key_of_another_certificate_is_refused(
    client: IssuedCertificate, coordinator: IssuedCertificate
) -> None:
    with pytest.raises(CertificateError, match="belong together"):
        client_context(client.cert, coordinator.key, client.ca)


def test_an_encrypted_key_is_refused_without_asking_on_the_terminal(
    client: IssuedCertificate, key_pem_of: Callable[..., bytes]
) -> None:
    key = serialization.load_pem_private_key(client.key.read_bytes(), None)
    client.key.write_bytes(key_pem_of(key, serialization.BestAvailableEncryption(b"passphrase")))

    with pytest.raises(CertificateError, match="without a passphrase"):
        client_of(client)


@pytest.mark.parametrize("name", ["cert", "key"])
def test_a_file_of_something_else_is_refused(client: IssuedCertificate, name: str) -> None:
    getattr(client, name).write_bytes(b"junk")

    with pytest.raises(CertificateError, match="must be PEM"):
        client_of(client)


@pytest.mark.parametrize("content", [b"junk", b""])
def test_an_authority_of_something_else_is_refused(
    client: IssuedCertificate, content: bytes
) -> None:
    client.ca.write_bytes(content)

    with pytest.raises(CertificateError, match=f"got something else in {client.ca}"):
        client_of(client)


def test_there_is_no_third_way_to_treat_clients(coordinator: IssuedCertificate) -> None:
    with pytest.raises(ConfigError, match="'required' or 'optional', got 'none'"):
        server_of(coordinator, "none")


def shown_by(server: Any, ca: Path) -> int:
    """Return the serial number of what a server shows to whoever brings no certificate."""
    with (
        socket.create_connection((server.host, server.port), 10) as plain,
        bearer_context(ca).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return identity_of(secure.getpeercert(binary_form=True) or b"").serial


def test_a_server_takes_up_replaced_files_with_its_next_handshake(
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    clock: Any,
    serving: Any,
    tmp_path: Path,
) -> None:
    context = rotating_server_context(
        coordinator.cert, coordinator.key, coordinator.ca, clock, client_certificate="optional"
    )
    fresh = authority.issue(
        Role.COORDINATOR, "coordinator", hosts=["localhost"], out_dir=tmp_path / "fresh"
    )

    with serving(context) as server:
        before = shown_by(server, coordinator.ca)
        coordinator.key.write_bytes(fresh.key.read_bytes())
        half_way = shown_by(server, coordinator.ca)
        coordinator.cert.write_bytes(fresh.cert.read_bytes())
        after = shown_by(server, coordinator.ca)

    serials = (coordinator.identity.serial, coordinator.identity.serial, fresh.identity.serial)
    assert (before, half_way, after) == serials


def test_a_server_takes_up_its_files_in_any_order_and_its_authorities_alone(
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    stranger: IssuedCertificate,
    clock: Any,
    serving: Any,
) -> None:
    context = rotating_server_context(
        coordinator.cert, coordinator.key, coordinator.ca, clock, client_certificate="optional"
    )
    fresh = authority.issue(
        Role.COORDINATOR,
        "coordinator",
        hosts=["localhost"],
        out_dir=coordinator.cert.parent / "fresh",
    )
    ours = authority.certificate_path

    with serving(context, greet) as server:
        coordinator.cert.write_bytes(fresh.cert.read_bytes())
        half_way = shown_by(server, ours)
        coordinator.key.write_bytes(fresh.key.read_bytes())
        after = shown_by(server, ours)
        coordinator.ca.write_bytes(stranger.ca.read_bytes())
        greeted = greeting(server, client_context(stranger.cert, stranger.key, ours))[0]

    assert (half_way, after) == (coordinator.identity.serial, fresh.identity.serial)
    assert greeted == b"hello"


def test_whoever_shows_a_token_checks_the_server_all_the_same(
    coordinator: IssuedCertificate, stranger: IssuedCertificate, serving: Any
) -> None:
    context = server_context(
        coordinator.cert, coordinator.key, coordinator.ca, client_certificate="optional"
    )

    with serving(context) as server:
        assert shown_by(server, coordinator.ca) == coordinator.identity.serial
        with pytest.raises(ssl.SSLCertVerificationError):
            shown_by(server, stranger.ca)


def test_a_token_without_the_authoritys_certificate_is_shown_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"junk")

    with pytest.raises(NotFoundError):
        bearer_context(tmp_path / "none")
    with pytest.raises(CertificateError, match="ca certificate must be PEM"):
        bearer_context(tmp_path / "ca.crt")


def heard_by(context: ssl.SSLContext, serving: Any, coordinator: IssuedCertificate) -> bytes:
    """Return what a server with a coordinator's certificate hears from a caller with a secret."""
    heard: list[bytes] = []
    with serving(server_of(coordinator, "optional"), lambda it: heard.append(it.recv(6))) as server:
        with (
            contextlib.suppress(CertificateError),
            socket.create_connection((server.host, server.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"secret")
            secure.recv(1)
        gc.collect()  # an open socket would warn, and warnings are errors
    return b"".join(heard)


def test_a_server_whose_certificate_is_revoked_hears_nothing(
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    serving: Any,
) -> None:
    crl = authority.revocation_list_path
    contexts = (
        client_context(client.cert, client.key, client.ca, crl=crl),
        bearer_context(client.ca, crl=crl),
    )
    before = [heard_by(context, serving, coordinator) for context in contexts]

    # While the program runs: the list is read with each new connection.
    authority.revoke("coordinator", "key-compromise")

    assert before == [b"secret", b"secret"]
    assert [heard_by(context, serving, coordinator) for context in contexts] == [b"", b""]
    with serving(server_of(coordinator)) as server:
        serial = f"{coordinator.identity.serial:x}"
        with pytest.raises(CertificateError, match=f"not be revoked, got serial {serial}, which"):
            greeting(server, contexts[0])


def test_a_server_whose_certificate_is_of_a_revoked_issuer_hears_nothing(
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    issuer_cert: x509.Certificate,
    serving: Any,
) -> None:
    authority.renew_intermediate()
    authority.revoke(issuer_cert.serial_number, "key-compromise")
    context = bearer_context(client.ca, crl=authority.revocation_list_path)

    assert heard_by(context, serving, coordinator) == b""


def test_what_an_old_list_has_revoked_stays_revoked(
    clock: Any, serving: Any, tmp_path: Path
) -> None:
    clock.advance(-370 * 86_400)  # lists are good for a year
    authority = CertificateManager(tmp_path / "ca", clock=clock)
    authority.create("hospitals")
    revoked, good = (
        authority.issue(
            Role.COORDINATOR, name, hosts=["localhost"], days=1000, out_dir=tmp_path / name
        )
        for name in ("a", "b")
    )
    authority.revoke("a")
    context = bearer_context(good.ca, crl=authority.revocation_list_path)

    assert heard_by(context, serving, revoked) == b""
    assert heard_by(context, serving, good) == b"secret"


async def test_an_event_loops_connection_is_refused_as_well(
    authority: CertificateManager, coordinator: IssuedCertificate, serving: Any
) -> None:
    context = bearer_context(coordinator.ca, crl=authority.revocation_list_path)
    heard: list[bytes] = []
    with serving(server_of(coordinator, "optional"), lambda it: heard.append(it.recv(6))) as server:
        url = f"https://localhost:{server.port}"

        authority.revoke("coordinator")

        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as http:
            with pytest.raises(CertificateError, match="must not be revoked"):
                await http.get(url)
    assert b"".join(heard) == b""


def test_a_revocation_list_that_cannot_be_used_is_said_at_once(
    coordinator: IssuedCertificate, stranger: IssuedCertificate, tmp_path: Path
) -> None:
    foreign = tmp_path / "other-ca" / "ca.crl"

    with pytest.raises(NotFoundError, match="revocation list must exist"):
        bearer_context(coordinator.ca, crl=tmp_path / "none")
    with pytest.raises(CertificateError, match="must be signed by this federation's authority"):
        client_context(coordinator.cert, coordinator.key, coordinator.ca, crl=foreign)


def test_a_connection_is_made_within_a_time_and_shakes_hands_when_it_is_told_to(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    # Not 127.0.0.1, which is also where one gets who names no host.
    with (
        serving(server_of(coordinator), greet, host="127.0.0.2") as server,
        connect(client_of(client), server.host, server.port, 10, server_name="localhost") as secure,
    ):
        before = (secure.version(), secure.gettimeout())
        secure.do_handshake()
        after = (secure.version(), secure.recv(5))

    assert before == (None, 10)
    assert after == ("TLSv1.3", b"hello")


@pytest.mark.parametrize(
    ("checks", "server_name", "asked"),
    [
        (True, None, "localhost"),
        (False, None, None),
        (False, "coordinator.example", "coordinator.example"),
    ],
)
def test_a_server_is_asked_for_by_the_name_that_is_checked_or_given(  # noqa: PLR0917 - fixtures
    serving: Any,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    checks: bool,
    server_name: str | None,
    asked: str | None,
) -> None:
    names: list[str | None] = []
    there, here = server_of(coordinator), client_of(client)
    there.sni_callback = lambda _connection, name, _context: names.append(name)
    here.check_hostname = checks

    with (
        serving(there) as server,
        connect(here, "localhost", server.port, 10, server_name=server_name) as secure,
    ):
        secure.do_handshake()

    assert names == [asked]


def test_a_handshake_with_a_list_waits_for_the_server_only_if_it_is_to(
    authority: CertificateManager, coordinator: IssuedCertificate
) -> None:
    context = bearer_context(coordinator.ca, crl=authority.revocation_list_path)

    def answer(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        server_of(coordinator, "optional").wrap_socket(plain, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as worker:
        with connect(context, "localhost", listener.getsockname()[1], 10) as secure:
            secure.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                secure.do_handshake()
            answering = worker.submit(answer, listener)
            secure.do_handshake(block=True)
            assert secure.version() == "TLSv1.3"
        answering.result()


def test_a_server_that_hung_up_before_the_handshake_leaves_no_socket_open(
    serving: Any, client: IssuedCertificate
) -> None:
    def reset(plain: socket.socket) -> None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(None, reset) as server:
        for _ in range(20):  # whether the peer is first is chance
            with (
                pytest.raises((ConnectionError, ssl.SSLError)),
                connect(client_of(client), server.host, server.port, 10) as secure,
            ):
                secure.do_handshake()
        gc.collect()  # an open one would warn, and warnings are errors


def test_a_port_where_nothing_listens_is_said(client: IssuedCertificate) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            connect(client_of(client), "localhost", unused.getsockname()[1], 10)
