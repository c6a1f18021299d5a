import contextlib
import errno
import json
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    KumiaiError,
    NotFoundError,
    TransportError,
)
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    Role,
    diagnose_handshake,
    explain_handshake,
    handshake,
    server_context,
    signing,
)

DAY_SECONDS = 86_400


def explained(
    server: Any, issued: IssuedCertificate, *, host: str | None = None, **files: Any
) -> str | None:
    return explain_handshake(
        host or server.host,
        server.port,
        files.get("cert", issued.cert),
        files.get("key", issued.key),
        files.get("ca", issued.ca),
        5.0,
        settle_seconds=files.get("settle_seconds", 5.0),
    )


def server_of(issued: IssuedCertificate, **files: Path) -> ssl.SSLContext:
    return server_context(
        files.get("cert", issued.cert),
        files.get("key", issued.key),
        files.get("ca", issued.ca),
        client_certificate="required",
    )


def raw_server(
    issued: IssuedCertificate, *, client_certificate: ssl.VerifyMode = ssl.CERT_REQUIRED
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    context.load_verify_locations(issued.ca)
    context.verify_mode = client_certificate
    return context


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")


def looked_at(host: str = "h", port: int = 1, *, ca: Path = Path("ca.crt")) -> handshake._Server:
    return handshake._Server(host, port, ca, timeout_seconds=1.0, settle_seconds=1.0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def issue_at(
    authority: CertificateManager,
    authority_key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    tmp_path: Path,
) -> Callable[..., IssuedCertificate]:
    """Issue for one day from an authority that is in force at any time."""
    issuer, root = authority.list_authorities()
    span = {"not_before": 0.0, "not_after": 4e9}
    ageless = signing.new_root_certificate("hospitals", authority_key, serial=root.serial, **span)
    ageless_issuer = signing.new_issuer_certificate(
        issuer_key.public_key(),
        only_sites=False,
        serial=issuer.serial,
        root=ageless,
        root_key=authority_key,
        **span,
    )
    index = authority.certificate_path.with_name("issued.json")
    fields = json.loads(index.read_text())
    for record, certificate in zip(fields["authorities"], (ageless_issuer, ageless), strict=True):
        record["certificate"] = certificate.public_bytes(serialization.Encoding.PEM).decode()
        record["not_after"] = 4e9
    index.write_text(json.dumps(fields))

    def issue(role: Role, *, hosts: Sequence[str] = ()) -> IssuedCertificate:
        return authority.issue(role, "late", hosts=hosts, days=1, out_dir=tmp_path / "late")

    return issue


def test_a_server_that_speaks_is_fine(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with serving(server_of(coordinator), greet) as server:
        assert explained(server, client) is None


def test_a_server_that_waits_for_us_is_fine(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with serving(server_of(coordinator)) as server:
        assert explained(server, client, settle_seconds=0.05) is None


def test_a_name_is_looked_up(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with serving(server_of(coordinator), greet) as server:
        assert explained(server, client, host="localhost") is None


def test_a_missing_certificate_of_ones_own_is_told_before_connecting(
    client: IssuedCertificate,
) -> None:
    client.key.unlink()

    text = explain_handshake("127.0.0.1", 1, client.cert, client.key, client.ca, 1.0)

    assert text == f"private key must exist, got no file at {client.key}"


def test_a_port_where_nobody_listens_is_told(client: IssuedCertificate) -> None:
    port = free_port()

    text = explain_handshake("127.0.0.1", port, client.cert, client.key, client.ca, 5.0)

    assert text == (
        f"nothing listens at 127.0.0.1:{port}; start the coordinator there, or check the port"
    )


def test_a_name_that_does_not_exist_is_told(client: IssuedCertificate) -> None:
    text = explain_handshake("name.invalid", 1, client.cert, client.key, client.ca, 5.0)

    assert "the name 'name.invalid' has no address" in text


@pytest.mark.parametrize(("host", "port"), [("a" * 64 + ".org", 1), ("127.0.0.1", 65_536)])
def test_what_is_no_address_is_told(client: IssuedCertificate, host: str, port: int) -> None:
    text = explain_handshake(host, port, client.cert, client.key, client.ca, 5.0)

    assert f"with a port up to 65535, got {host}:{port}" in text


def test_no_host_at_all_is_told(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with serving(server_of(coordinator)) as server:
        text = explain_handshake("", server.port, client.cert, client.key, client.ca, 5.0)

    assert "with a port up to 65535, got" in text


def test_an_unreachable_network_is_told() -> None:
    error = OSError(errno.ENETUNREACH, "Network is unreachable")

    text = handshake._explain_connection(error, looked_at("::2"))

    assert text == (
        "[::2]:1 cannot be reached (Network is unreachable); check the address and the network"
    )


def test_a_network_that_swallows_connections_is_told(client: IssuedCertificate) -> None:
    # A full backlog: the kernel drops what comes then, as a firewall would.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)

        text = explain_handshake(*address, client.cert, client.key, client.ca, 0.2)

        for one in waiting:
            one.close()

    assert text.startswith(f"nothing answered at 127.0.0.1:{address[1]} within 0.2 s")


def test_a_server_that_never_answers_in_tls_is_told(
    serving: Any, client: IssuedCertificate
) -> None:
    with serving(None) as server:
        text = explain_handshake(server.host, server.port, client.cert, client.key, client.ca, 0.1)

    assert "took the connection but did not answer in TLS" in text


def test_a_server_without_tls_is_told(serving: Any, client: IssuedCertificate) -> None:
    with serving(None, greet) as server:
        text = explained(server, client)

    assert "does not speak TLS; check the port" in text


def test_a_server_of_tls_1_2_is_told(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    old = raw_server(coordinator)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    with serving(old, greet) as server:
        text = explained(server, client)

    assert "does not speak TLS 1.3" in text


def test_a_server_for_another_host_is_told_with_the_hosts_it_is_for(
    serving: Any, authority: CertificateManager, client: IssuedCertificate, tmp_path: Path
) -> None:
    elsewhere = authority.issue(
        Role.COORDINATOR, "b", hosts=["fl.example.org", "10.1.2.3"], out_dir=tmp_path / "b"
    )

    with serving(server_of(elsewhere), greet) as server:
        by_address = explained(server, client)
        by_name = explained(server, client, host="localhost")

    assert by_address == (
        f"the certificate of the server at 127.0.0.1:{server.port} is not for '127.0.0.1' but for "
        "fl.example.org, 10.1.2.3; connect to one of these, or issue one that names '127.0.0.1'"
    )
    assert "is not for 'localhost' but for fl.example.org, 10.1.2.3;" in by_name


def test_a_server_of_another_authority_is_told(
    serving: Any,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    stranger: IssuedCertificate,
) -> None:
    with serving(server_of(coordinator), greet) as server:
        text = explained(server, client, ca=stranger.ca)

    assert f"of another authority than the one in {stranger.ca}" in text


def test_a_server_of_another_federation_is_told(
    serving: Any,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    tmp_path: Path,
    clock: Any,
) -> None:
    banks = CertificateManager(tmp_path / "banks", clock=clock).create("banks")

    with serving(server_of(coordinator), greet) as server:
        text = explained(server, client, ca=banks)

    assert "of another authority than the one in" in text


def test_a_server_that_is_a_client_is_told(serving: Any, client: IssuedCertificate) -> None:
    with serving(raw_server(client), greet) as server:
        text = explained(server, client)

    assert "is not acceptable (" in text


@pytest.mark.parametrize(
    ("days", "said"), [(-3, "has expired at 20"), (3, "is not valid yet before 20")]
)
def test_a_server_out_of_force_is_told_with_the_date_and_the_clock(  # noqa: PLR0917 - fixtures
    serving: Any,
    issue_at: Callable[..., IssuedCertificate],
    client: IssuedCertificate,
    clock: Any,
    days: int,
    said: str,
) -> None:
    clock.advance(days * DAY_SECONDS)
    late = issue_at(Role.COORDINATOR, hosts=["127.0.0.1"])

    with serving(raw_server(late), greet) as server:
        text = explained(server, client, ca=late.ca)

    assert said in text
    assert "UTC; " in text
    assert "this machine's clock" in text


def test_a_server_that_is_gone_at_the_second_look_is_still_explained(
    client: IssuedCertificate,
) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")

    texts = {}
    for code in (62, 64, 10, 9, 20, 26):
        error.verify_code, error.verify_message = code, "a message"
        texts[code] = handshake._explain_server_certificate(error, looked_at(ca=client.ca), None)

    assert "but for no host at all;" in texts[62]
    assert texts[64] == texts[62]
    assert "h:1 has expired; have" in texts[10]
    assert "h:1 is not valid yet; this" in texts[9]
    assert "another authority" in texts[20]
    assert "not acceptable (a message)" in texts[26]


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ((9, 11), "is not valid yet"),
        ((10, 12), "has expired"),
        ((2, 7, 18, 19, 20, 21, 24, 30), "is of another authority"),
        ((62, 64), "is not for 'h' but for"),
        ((3, 8, 13, 22, 25, 31, 61, 63, 65), "is not acceptable (a message)"),
    ],
)
def test_every_fault_of_a_servers_certificate_has_its_sentence(
    client: IssuedCertificate, codes: Sequence[int], said: str
) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "a message"

    for error.verify_code in codes:
        text = handshake._explain_server_certificate(error, looked_at(ca=client.ca), None)
        assert said in text, error.verify_code


def test_a_server_that_says_nothing_at_the_second_look_is_not_waited_for(
    client: IssuedCertificate, stranger: IssuedCertificate
) -> None:
    """The first connection shows a foreign certificate, the second one only hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as worker:

        def answer_once() -> list[socket.socket]:
            first, _ = listener.accept()
            with contextlib.suppress(OSError):
                raw_server(stranger).wrap_socket(first, server_side=True)
            return [first, listener.accept()[0]]

        answering = worker.submit(answer_once)
        began = time.monotonic()
        text = explain_handshake(
            "127.0.0.1", listener.getsockname()[1], client.cert, client.key, client.ca, 1.0
        )
        waited_seconds = time.monotonic() - began
        for each in answering.result(30):
            each.close()

    assert "of another authority" in text
    assert waited_seconds < 20


def test_both_looks_ask_for_the_server_by_its_name_and_offer_what_grpc_speaks(
    serving: Any, authority: CertificateManager, client: IssuedCertificate, tmp_path: Path
) -> None:
    elsewhere = authority.issue(
        Role.COORDINATOR, "b", hosts=["fl.example.org"], out_dir=tmp_path / "b"
    )
    asked: list[str | None] = []
    context = raw_server(elsewhere, client_certificate=ssl.CERT_NONE)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)

    for protocol in ("h2", "http/1.1"):
        context.set_alpn_protocols([protocol])
        spoken: list[str | None] = []

        def note(connection: Any, spoken: list[str | None] = spoken) -> None:
            spoken.append(connection.selected_alpn_protocol())

        with serving(context, note) as server:
            text = explained(server, client, host="localhost")
        assert "not for 'localhost' but for fl.example.org;" in text
        assert spoken[-1] == protocol

    assert asked == ["localhost"] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is only 127.0.0.1")
def test_the_second_look_goes_to_the_same_address(
    serving: Any, authority: CertificateManager, client: IssuedCertificate, tmp_path: Path
) -> None:
    elsewhere = authority.issue(Role.COORDINATOR, "b", hosts=["b.org"], out_dir=tmp_path / "b")
    context = raw_server(elsewhere, client_certificate=ssl.CERT_NONE)

    with serving(context, greet, host="127.0.0.9") as server:
        text = explained(server, client)

    assert "not for '127.0.0.9' but for b.org;" in str(text)


def test_a_server_that_is_fine_is_asked_once(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    greeted: list[socket.socket] = []

    def greet_and_count(connection: socket.socket) -> None:
        greeted.append(connection)
        greet(connection)

    with serving(server_of(coordinator), greet_and_count) as server:
        assert explained(server, client) is None

    assert len(greeted) == 1


def test_silence_means_consent_after_as_long_as_was_said(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    began = time.monotonic()
    with serving(server_of(coordinator)) as server:
        text = explain_handshake(
            server.host, server.port, client.cert, client.key, client.ca, 60.0,
            settle_seconds=0.01,
        )  # fmt: skip
        waited_seconds = time.monotonic() - began

    assert text is None
    assert waited_seconds < 30
    assert handshake.SETTLE_SECONDS == 1.0


def test_a_silence_that_was_said_to_be_longer_is_waited_for(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    def hang_up_late(connection: socket.socket) -> None:
        connection.settimeout(1.2)
        with contextlib.suppress(TimeoutError):
            connection.recv(1)

    with serving(server_of(coordinator), hang_up_late) as server:
        text = explained(server, client, settle_seconds=30.0)

    assert text is not None
    assert text.startswith(f"the server at {server.host}:{server.port} hung up after the handshake")


def test_the_last_port_is_one(client: IssuedCertificate) -> None:
    text = explain_handshake("127.0.0.1", 65_535, client.cert, client.key, client.ca, 5.0)

    assert "server must be" not in str(text)


def test_fetching_a_certificate_from_nobody_gives_none() -> None:
    assert handshake._fetch_certificate(looked_at("127.0.0.1", free_port())) is None


def test_a_certificate_without_readable_hosts_names_none(
    new_certificate: Callable[..., x509.Certificate],
) -> None:
    der = new_certificate([x509.DNSName("aaaa")]).public_bytes(serialization.Encoding.DER)
    damaged = x509.load_der_x509_certificate(der.replace(b"\x82\x04aaaa", b"\x82\x05aaaa"))

    assert handshake._hosts_of(damaged) == "no host at all"
    assert handshake._hosts_of(new_certificate(None)) == "no host at all"
    assert handshake._hosts_of(new_certificate([x509.DNSName("a.b")])) == "a.b"


# ---------------------------------------------------------------- our certificate


def test_a_client_of_an_unknown_authority_is_told(
    serving: Any,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    tmp_path: Path,
    clock: Any,
) -> None:
    manager = CertificateManager(tmp_path / "banks", clock=clock)
    manager.create("banks")
    banker = manager.issue(Role.CLIENT, "a", out_dir=tmp_path / "banker")

    with serving(server_of(coordinator), greet) as server:
        text = explained(server, banker, ca=client.ca)

    assert "does not know the authority of your certificate" in text


def test_a_client_of_an_authority_of_the_same_name_is_told(
    serving: Any,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
    stranger: IssuedCertificate,
) -> None:
    with serving(server_of(coordinator), greet) as server:
        text = explained(server, stranger, ca=client.ca)

    assert text.startswith(f"the server at 127.0.0.1:{server.port} ")
    assert "authority" in text


@pytest.mark.parametrize(("days", "said"), [(-3, "finds your certificate expired"), (3, "not yet")])
def test_a_client_out_of_force_is_told_to_look_at_the_clocks(  # noqa: PLR0917 - fixtures
    serving: Any,
    issue_at: Callable[..., IssuedCertificate],
    coordinator: IssuedCertificate,
    clock: Any,
    days: int,
    said: str,
) -> None:
    clock.advance(days * DAY_SECONDS)
    late = issue_at(Role.CLIENT)

    with serving(raw_server(coordinator), greet) as server:
        text = explained(server, late, ca=coordinator.ca)

    assert said in text
    assert "clock" in text


def test_a_revoked_client_is_told_where_the_server_checks_the_list_in_the_handshake(
    serving: Any,
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    client: IssuedCertificate,
) -> None:
    authority.revoke("site-1")
    context = raw_server(coordinator)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    context.load_verify_locations(authority.revocation_list_path)

    with serving(context, greet) as server:
        text = explained(server, client)

    assert "says that your certificate is revoked" in text


def test_a_server_that_wants_no_client_certificate_is_fine(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with serving(raw_server(coordinator, client_certificate=ssl.CERT_NONE), greet) as server:
        assert explained(server, client) is None


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "wants a client certificate and got none"),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "does not accept your certificate"),
        ("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "this kind of certificate"),
        ("TLSV1_ALERT_DECRYPT_ERROR", "another authority of the same name"),
        ("UNSUPPORTED_PROTOCOL", "does not speak TLS 1.3"),
        ("RECORD_LAYER_FAILURE", "does not speak TLS; check the port"),
        ("TLSV1_ALERT_INTERNAL_ERROR", "failed (tlsv1 alert internal error)"),
        (None, "failed (unknown)"),
    ],
)
def test_every_alert_has_its_sentence(reason: str, said: str) -> None:
    error = ssl.SSLError(1, "text")
    error.reason = reason

    text = str(handshake._diagnose_refusal(error, looked_at()))

    assert said in text
    assert "h:1" in text
    assert "; " in text


def test_a_server_that_hangs_up_in_the_handshake_is_told(
    serving: Any, client: IssuedCertificate
) -> None:
    with serving(None, lambda connection: connection.recv(1)) as server:
        text = explained(server, client)

    assert "hung up in the handshake without a reason" in text
    assert "too many connections come from your address" in text


def test_a_server_that_resets_the_connection_is_told(
    serving: Any, client: IssuedCertificate
) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(None, reset) as server:
        text = explained(server, client)

    assert "hung up in the handshake without a reason" in text


def test_a_server_that_hangs_up_after_the_handshake_refuses_our_certificate(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    with serving(server_of(coordinator), lambda connection: None) as server:
        error = diagnose_handshake(
            server.host, server.port, client.cert, client.key, client.ca, 5.0, settle_seconds=5.0
        )

    assert isinstance(error, CertificateError)
    assert "hung up after the handshake without a reason" in str(error)


def test_a_connection_that_is_reset_after_the_handshake_counts_as_hung_up() -> None:
    class ResetConnection:
        def settimeout(self, seconds: float) -> None:
            pass

        def recv(self, size_bytes: int) -> bytes:
            raise ConnectionResetError

    error = handshake._diagnose_silence(ResetConnection(), looked_at())  # type: ignore[arg-type]

    assert isinstance(error, CertificateError)


def test_a_server_that_hangs_up_once_was_just_restarting(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate
) -> None:
    answers = iter([lambda connection: None, greet])

    def answer_in_turn(connection: socket.socket) -> None:
        next(answers)(connection)

    with serving(server_of(coordinator), answer_in_turn) as server:
        text = explained(server, client)

    assert text is None


def test_an_address_of_version_6_is_written_in_brackets(client: IssuedCertificate) -> None:
    text = explain_handshake("::1", free_port(), client.cert, client.key, client.ca, 5.0)

    assert " [::1]:" in text


# ---------------------------------------------------------------- gRPC


@pytest.fixture
def grpc_port(coordinator: IssuedCertificate) -> Iterator[int]:
    credentials = grpc.ssl_server_credentials(
        [(coordinator.key.read_bytes(), coordinator.cert.read_bytes())],
        root_certificates=coordinator.ca.read_bytes(),
        require_client_auth=True,
    )
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield port
        server.stop(None).wait()


def test_a_grpc_server_accepts_our_certificates(grpc_port: int, client: IssuedCertificate) -> None:
    text = explain_handshake("127.0.0.1", grpc_port, client.cert, client.key, client.ca, 5.0)
    credentials = grpc.ssl_channel_credentials(
        client.ca.read_bytes(), client.key.read_bytes(), client.cert.read_bytes()
    )
    with grpc.secure_channel(f"127.0.0.1:{grpc_port}", credentials) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)

    assert text is None


def test_a_grpc_server_that_refuses_our_certificate_is_told(
    grpc_port: int, client: IssuedCertificate, stranger: IssuedCertificate
) -> None:
    text = explain_handshake("127.0.0.1", grpc_port, stranger.cert, stranger.key, client.ca, 5.0)

    assert text is not None
    assert "does not accept your certificate" in text


# ---------------------------------------------------------------- what kind of error


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", CertificateError),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", CertificateError),
        ("TLSV1_ALERT_PROTOCOL_VERSION", TransportError),
        ("WRONG_VERSION_NUMBER", TransportError),
        ("TLSV1_ALERT_INTERNAL_ERROR", TransportError),
    ],
)
def test_a_refused_certificate_is_told_from_what_may_pass(
    reason: str, kind: type[KumiaiError]
) -> None:
    error = ssl.SSLError(1, "text")
    error.reason = reason

    assert type(handshake._diagnose_refusal(error, looked_at())) is kind


def test_a_certificate_at_fault_is_a_certificate_error(
    serving: Any, coordinator: IssuedCertificate, client: IssuedCertificate, stranger: Any
) -> None:
    with serving(server_of(coordinator), greet) as server:
        ours, theirs = (
            diagnose_handshake(server.host, server.port, who.cert, who.key, ca, 5.0)
            for who, ca in ((stranger, coordinator.ca), (client, stranger.ca))
        )

    assert type(ours) is CertificateError
    assert type(theirs) is CertificateError


@pytest.mark.parametrize(("host", "kind"), [("127.0.0.1", TransportError), ("", ConfigError)])
def test_a_server_that_is_not_there_is_no_certificate_error(
    client: IssuedCertificate, host: str, kind: type[KumiaiError]
) -> None:
    error = diagnose_handshake(host, free_port(), client.cert, client.key, client.ca, 5.0)

    assert type(error) is kind


def test_a_file_that_is_not_there_keeps_its_own_error(client: IssuedCertificate) -> None:
    client.cert.unlink()

    error = diagnose_handshake("127.0.0.1", 1, client.cert, client.key, client.ca, 5.0)

    assert type(error) is NotFoundError
