"""An authority, odd certificates and a small TLS server, for the tests of this room."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kumiai.core import failpoints
from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, IssuedCertificate, Role
from tests.identity.killing import Killed

FEDERATION = "hospitals"
DAY_SECONDS = 86_400


class AdjustableClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, now: float) -> None:
        self.wall = now
        self.steady = 0.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@dataclass(frozen=True)
class Server:
    """Where a test's server listens."""

    host: str
    port: int


@pytest.fixture
def clock() -> AdjustableClock:
    # The real time, because OpenSSL asks the machine.
    return AdjustableClock(SystemClock().now())


@pytest.fixture
def authority(tmp_path: Path, clock: AdjustableClock) -> CertificateManager:
    manager = CertificateManager(tmp_path / "ca", clock=clock)
    manager.create(FEDERATION)
    return manager


@pytest.fixture
def authority_cert(authority: CertificateManager) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.certificate_path.read_bytes())


@pytest.fixture
def issuer_cert(authority: CertificateManager) -> x509.Certificate:
    (issuer,) = (each for each in authority.list_authorities() if each.kind == "members")
    return x509.load_pem_x509_certificate(issuer.certificate.encode())


@pytest.fixture
def authority_key(authority: CertificateManager) -> ec.EllipticCurvePrivateKey:
    """The root's key."""
    return _key_in(authority.certificate_path.parent, "root")


@pytest.fixture
def issuer_key(authority: CertificateManager) -> ec.EllipticCurvePrivateKey:
    return _key_in(authority.certificate_path.parent, "issuer")


def _key_in(directory: Path, kind: str) -> ec.EllipticCurvePrivateKey:
    (path,) = directory.glob(f"{kind}-*.key")
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@pytest.fixture
def killed_at() -> Iterator[Callable[[str], None]]:
    """Lend a way to be killed at a failpoint."""

    def install(point: str) -> None:
        def hook(name: str) -> None:
            if name == point:
                raise Killed

        failpoints.install(hook)

    yield install
    failpoints.install(None)


@pytest.fixture
def coordinator(authority: CertificateManager, tmp_path: Path) -> IssuedCertificate:
    return authority.issue(
        Role.COORDINATOR,
        "coordinator",
        hosts=["localhost", "127.0.0.1"],
        out_dir=tmp_path / "coordinator",
    )


@pytest.fixture
def client(authority: CertificateManager, tmp_path: Path) -> IssuedCertificate:
    return authority.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "client")


@pytest.fixture
def stranger(tmp_path: Path, clock: AdjustableClock) -> IssuedCertificate:
    """A client of another authority, whose federation bears the same name."""
    manager = CertificateManager(tmp_path / "other-ca", clock=clock)
    manager.create(FEDERATION)
    return manager.issue(Role.CLIENT, "site-1", out_dir=tmp_path / "stranger")


def _new_certificate(
    names: Sequence[x509.GeneralName] | None,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    signer: ec.EllipticCurvePrivateKey | None = None,
    issuer: x509.Name | None = None,
    organisations: Sequence[str] = (FEDERATION,),
    not_before: float = 0.0,
    not_after: float = 4e9,
    is_authority: bool | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """Return a certificate that nobody sane would issue."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organisations])
    builder = (
        x509.CertificateBuilder(issuer_name=issuer or subject, subject_name=subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.fromtimestamp(not_before, tz=UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, tz=UTC))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if is_authority is not None:
        constraints = x509.BasicConstraints(ca=is_authority, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
        usage = x509.KeyUsage(
            digital_signature=not is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer or key, hashes.SHA256())


def _pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem_of(
    key: ec.EllipticCurvePrivateKey,
    encryption: serialization.KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )


def _wait_for_the_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


@contextlib.contextmanager
def _serving(
    context: ssl.SSLContext | None,
    answer: Callable[[socket.socket], object] = _wait_for_the_end,
    *,
    host: str = "127.0.0.1",
) -> Iterator[Server]:
    """Serve connections one after the other; without a context, without TLS."""
    stopping = threading.Event()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)

    def serve() -> None:
        while True:
            plain, _ = listener.accept()
            if stopping.is_set():
                plain.close()
                return
            with contextlib.suppress(OSError), plain:
                plain.settimeout(10)
                if context is None:
                    answer(plain)
                    continue
                with context.wrap_socket(plain, server_side=True) as secure:
                    answer(secure)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Server(host, listener.getsockname()[1])
    finally:
        stopping.set()
        socket.create_connection(listener.getsockname()[:2], 10).close()
        thread.join()
        listener.close()


# The functions are handed out as fixtures, because test folders are no packages.


@pytest.fixture
def new_certificate() -> Callable[..., x509.Certificate]:
    return _new_certificate


@pytest.fixture
def pem_of() -> Callable[[x509.Certificate], bytes]:
    return _pem_of


@pytest.fixture
def key_pem_of() -> Callable[..., bytes]:
    return _key_pem_of


@pytest.fixture
def serving() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    return _serving
