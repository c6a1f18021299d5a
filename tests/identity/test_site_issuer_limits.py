"""What a thief of a site issuer's key could sign, and who refuses it: real handshakes."""

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.errors import CertificateError
from kumiai.identity import (
    CertificateManager,
    IssuedCertificate,
    PeerRefusedError,
    Refusal,
    Role,
    SiteIssuer,
    TrustBundle,
    client_context,
    identity_of,
    read_peer,
    signing,
)
from kumiai.identity.authority import IssuerFiles
from kumiai.identity.index import IssuedRecord
from kumiai.identity.keys import new_key, private_key_of, private_pem_of
from kumiai.identity.vault import pem_of

LOCALHOST = x509.DNSName("localhost")
LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
EVERYWHERE = [
    x509.DNSName(""),
    x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
    x509.IPAddress(ipaddress.ip_network("::/0")),
]


@pytest.fixture
def made(authority: CertificateManager, tmp_path: Path) -> IssuerFiles:
    return authority.delegate(out_dir=tmp_path / "sites")


class Thief:
    """Has the key of an issuer for sites; a limit may be missing from its certificate."""

    def __init__(self, made: IssuerFiles, root_key: ec.EllipticCurvePrivateKey) -> None:
        self._key = private_key_of(made.key.read_bytes(), "key")
        self.issuer = x509.load_pem_x509_certificate(made.cert.read_bytes())
        self._root_key = root_key

    def lift(self, limit: type[x509.ExtensionType]) -> None:
        """Put another in the place of the issuer's certificate: the same without one limit."""
        now = self.issuer
        builder = (
            x509.CertificateBuilder(issuer_name=now.issuer, subject_name=now.subject)
            .public_key(self._key.public_key())
            .serial_number(now.serial_number)
            .not_valid_before(now.not_valid_before_utc)
            .not_valid_after(now.not_valid_after_utc)
        )
        for each in now.extensions:
            if not isinstance(each.value, limit):
                builder = builder.add_extension(each.value, each.critical)
        self.issuer = builder.sign(self._root_key, hashes.SHA256())

    def sign(
        self, role: Role, hosts: list[x509.DNSName | x509.IPAddress], folder: Path
    ) -> tuple[Path, Path]:
        """Return the files of a certificate that the issuer never would have signed."""
        key = new_key()
        names = tuple(str(host.value) for host in hosts)
        begin = self.issuer.not_valid_before_utc.timestamp()
        record = IssuedRecord(7, role, "eve", names, begin, begin + 86_400)
        leaf = signing.new_member_certificate(
            record, hosts, key.public_key(), issuer=self.issuer, issuer_key=self._key
        )
        folder.mkdir()
        (folder / "eve.crt").write_bytes(pem_of(leaf) + pem_of(self.issuer))
        (folder / "eve.key").write_bytes(private_pem_of(key))
        return folder / "eve.crt", folder / "eve.key"


@pytest.fixture
def thief(made: IssuerFiles, authority_key: ec.EllipticCurvePrivateKey) -> Thief:
    return Thief(made, authority_key)


def test_an_issuer_for_sites_may_name_no_host(made: IssuerFiles) -> None:
    issuer = x509.load_pem_x509_certificate(made.cert.read_bytes())

    found = issuer.extensions.get_extension_for_class(x509.NameConstraints)

    assert found.critical
    assert found.value.permitted_subtrees is None
    assert found.value.excluded_subtrees == EVERYWHERE


def test_the_authoritys_own_issuer_may_name_hosts(issuer_cert: x509.Certificate) -> None:
    kinds = {type(each.value) for each in issuer_cert.extensions}

    assert not kinds & {x509.NameConstraints, x509.ExtendedKeyUsage}


# ---------------------------------------------------------------- as a server


Connect = Callable[[tuple[Path, Path], IssuedCertificate, str], None]


def openssl(server: tuple[Path, Path], client: IssuedCertificate, host: str) -> None:
    """Shake hands by the ssl module; raise what the client says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server)
    context.load_verify_locations(client.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor(1) as pool,
    ):
        served = pool.submit(_serve_once, listener, context)
        with (
            socket.create_connection(listener.getsockname(), 10) as plain,
            client_context(client.cert, client.key, client.ca).wrap_socket(
                plain, server_hostname=host
            ) as secure,
        ):
            assert secure.recv(1) == b"!"
        served.result()


def _serve_once(listener: socket.socket, context: ssl.SSLContext) -> None:
    plain, _ = listener.accept()
    plain.settimeout(10)
    try:
        with context.wrap_socket(plain, server_side=True) as secure:
            secure.sendall(b"!")
    except OSError:
        plain.close()


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


def boringssl(server: tuple[Path, Path], client: IssuedCertificate, host: str) -> None:
    """Shake hands by gRPC; raise what the client says."""
    roots = client.ca.read_bytes()
    pair = (server[1].read_bytes(), server[0].read_bytes())
    running = grpc.server(ThreadPoolExecutor(1), handlers=(Echo(),))
    port = running.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([pair], roots, require_client_auth=True)
    )
    running.start()
    credentials = grpc.ssl_channel_credentials(
        roots, client.key.read_bytes(), client.cert.read_bytes()
    )
    try:
        with grpc.secure_channel(
            f"127.0.0.1:{port}", credentials, [("grpc.ssl_target_name_override", host)]
        ) as channel:
            assert channel.unary_unary("/a/b")(b"!", timeout=60) == b"!"
    finally:
        running.stop(None)


@pytest.fixture(params=[openssl, boringssl], ids=["openssl", "boringssl"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    return request.param


@pytest.mark.parametrize("lifted", [None, x509.ExtendedKeyUsage, x509.NameConstraints])
@pytest.mark.parametrize("host", [LOCALHOST, LOOPBACK], ids=["name", "address"])
def test_no_library_accepts_it_as_a_server_and_each_limit_alone_is_enough(  # noqa: PLR0917
    thief: Thief,
    client: IssuedCertificate,
    connect: Connect,
    tmp_path: Path,
    host: Any,
    lifted: type[x509.ExtensionType] | None,
) -> None:
    if lifted is not None:
        thief.lift(lifted)
    server = thief.sign(Role.COORDINATOR, [host], tmp_path / "eve")

    with pytest.raises((ssl.SSLCertVerificationError, grpc.RpcError)) as caught:
        connect(server, client, str(host.value))

    assert any(
        reason in str(caught.value)
        for reason in (
            "excluded subtree violation",
            "unsupported name constraint type",
            "unsuitable certificate purpose",
            "unsupported certificate purpose",
            "invalid CA certificate",
        )
    )


def test_without_both_limits_it_would_be_accepted(
    thief: Thief, client: IssuedCertificate, connect: Connect, tmp_path: Path
) -> None:
    thief.lift(x509.ExtendedKeyUsage)
    thief.lift(x509.NameConstraints)
    server = thief.sign(Role.COORDINATOR, [LOCALHOST], tmp_path / "eve")

    connect(server, client, "localhost")


# ---------------------------------------------------------------- as a caller


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.CLIENT])
def test_no_coordinator_takes_it_for_another_role(
    thief: Thief, authority: CertificateManager, tmp_path: Path, role: Role
) -> None:
    # Name constraints know the host of a URI and not its path (RFC 5280 section 4.2.1.10), where
    # the role stands: this is ours to see.
    cert, _ = thief.sign(role, [], tmp_path / "eve")
    chain = [pem_of(each) for each in x509.load_pem_x509_certificates(cert.read_bytes())]

    with pytest.raises(PeerRefusedError, match="must be a client's") as caught:
        read_peer(chain, TrustBundle.load(authority.certificate_path))
    assert caught.value.refusal is Refusal.WRONG_IDENTITY
    with pytest.raises(CertificateError, match="look into that issuer's key"):
        identity_of(chain[0])


@pytest.mark.parametrize("name", ["site-1", "site.one", "hospital.example.org"])
def test_a_site_is_let_in_whatever_its_name(  # noqa: PLR0917 - fixtures
    made: IssuerFiles,
    authority: CertificateManager,
    coordinator: IssuedCertificate,
    clock: Any,
    connect: Connect,
    tmp_path: Path,
    name: str,
) -> None:
    key = new_key()
    issuer = SiteIssuer.load(made.cert, made.key, authority.certificate_path, clock, None)
    signed = issuer.sign(key.public_key(), name, lifetime_seconds=86_400)
    (tmp_path / "site.crt").write_bytes(signed.chain)
    (tmp_path / "site.key").write_bytes(private_pem_of(key))
    site = IssuedCertificate(
        signed.identity, tmp_path / "site.crt", tmp_path / "site.key", coordinator.ca
    )

    connect((coordinator.cert, coordinator.key), site, "localhost")
