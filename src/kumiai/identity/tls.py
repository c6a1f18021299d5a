"""TLS contexts for the HTTP server and its clients: TLS 1.3, certificates of one authority.

There is no way to turn verification off. gRPC has its own TLS library and gets the same files.
Reads files.
"""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, ConfigError, KumiaiError
from kumiai.identity import files
from kumiai.identity.names import CERTIFICATE_SIZE_BYTES_MAX, certificate_of
from kumiai.identity.revocation import RevocationList
from kumiai.identity.watching import WatchedFiles

__all__ = [
    "bearer_context",
    "client_context",
    "connect",
    "rotating_server_context",
    "server_context",
]

_VERIFY_MODES: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL}


def server_context(
    cert: Path, key: Path, ca: Path, *, client_certificate: Literal["required", "optional"]
) -> ssl.SSLContext:
    """Return the context of a server.

    Args:
        cert: the server's certificate, PEM.
        key: its private key, PEM, not encrypted.
        ca: the authority that signs clients, PEM.
        client_certificate: whether a client without one is refused in the handshake, or let in
            without an identity. One that shows a bad certificate is refused either way.

    Raises:
        NotFoundError: a file is missing.
        StorageError: a file cannot be read.
        CertificateError: a file does not parse, or the key is another certificate's.
        ConfigError: ``client_certificate`` is neither of the two.
    """
    if client_certificate not in _VERIFY_MODES:
        raise ConfigError(
            f"client_certificate must be 'required' or 'optional', got {client_certificate!r}"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = _VERIFY_MODES[client_certificate]
    # A resumed session skips the certificates: one that has expired since would still get in.
    context.num_tickets = 0
    _arm(context, cert, key, ca)
    return context


def rotating_server_context(
    cert: Path,
    key: Path,
    ca: Path,
    clock: Clock,
    *,
    client_certificate: Literal["required", "optional"],
) -> ssl.SSLContext:
    """Return the context of a server that takes up replaced files with its next handshake.

    Connections that are open stay as they are. Files that are not fit for use are not taken up;
    see `kumiai.identity.watching`.

    Args:
        cert: as for ``server_context``, like the others.
        key: see there.
        ca: see there.
        clock: paces new tries after files that are not fit for use.
        client_certificate: see there.

    Raises:
        NotFoundError, StorageError, CertificateError, ConfigError: as for ``server_context``.
    """
    newest = WatchedFiles(
        (cert, key, ca),
        lambda: server_context(cert, key, ca, client_certificate=client_certificate),
        clock,
    )
    context = server_context(cert, key, ca, client_certificate=client_certificate)

    def take_up(connection: ssl.SSLObject, _host: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL calls this in every handshake, also for clients that name no host, and then
        # takes certificate, key and authorities from the context that is set here.
        connection.context = newest.current()

    context.sni_callback = take_up
    return context


def client_context(cert: Path, key: Path, ca: Path, *, crl: Path | None = None) -> ssl.SSLContext:
    """Return the context of a client, which checks the server's certificate and host name.

    Args:
        cert: the client's certificate, PEM.
        key: its private key, PEM, not encrypted.
        ca: the authority that signs the server, PEM.
        crl: the federation's revocation list, read in each handshake, which then raises
            ``CertificateError`` where the server's certificate is revoked; what an old list names
            counts as well. ``None``: nobody is asked.

    Raises:
        NotFoundError, StorageError, CertificateError: as for ``server_context``, and of the list.
    """
    context = _new_client_context(ca, crl)
    _arm(context, cert, key, ca)
    return context


def bearer_context(ca: Path, *, crl: Path | None = None) -> ssl.SSLContext:
    """Return the context of a client that shows a token and no certificate.

    Args:
        ca: the authority that signs the server, PEM.
        crl: as for ``client_context``.

    Raises:
        NotFoundError, StorageError, CertificateError: a file cannot be used.
    """
    context = _new_client_context(ca, crl)
    _trust(context, ca)
    return context


def connect(
    context: ssl.SSLContext,
    host: str,
    port: int,
    timeout_seconds: float,
    *,
    server_name: str | None = None,
) -> ssl.SSLSocket:
    """Return a connection whose handshake is still to be made: ``do_handshake``.

    The socket is wrapped before it connects: when the peer has hung up by then, wrapping a
    connected one fails without closing what it made.

    Args:
        context: a client's.
        host: a DNS name or IP address; the next of its addresses is tried where one fails.
        port: TCP.
        timeout_seconds: the limit of each step, > 0.
        server_name: what the certificate must name and what is asked for; ``None``: ``host``, if
            the context checks names.

    Raises:
        OSError: no address of the host takes the connection; ``TimeoutError`` for silence.
    """
    asked = server_name or (host if context.check_hostname else None)
    failure: OSError = ConnectionError(f"the name {host!r} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        with socket.socket(family, kind, protocol) as plain:
            connection = context.wrap_socket(
                plain, server_hostname=asked, do_handshake_on_connect=False
            )
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def _arm(context: ssl.SSLContext, cert: Path, key: Path, ca: Path) -> None:
    for path, what in ((cert, "certificate"), (key, "private key")):
        # Read here for the error's sake: the ssl module does not say which file it misses.
        files.read_file(path, what, size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX)
    try:
        context.load_cert_chain(cert, key, password=_refuse_passphrase)
    except (ssl.SSLError, _EncryptedKeyError) as error:
        raise CertificateError(
            f"certificate and private key must be PEM, without a passphrase and belong "
            f"together, got {cert} and {key} that do not"
        ) from error
    _trust(context, ca)


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    files.read_file(ca, "ca certificate", size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX)
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError as error:
        raise CertificateError(f"ca certificate must be PEM, got something else in {ca}") from error


class _ListedSocket(ssl.SSLSocket):
    """A connection that ends before a revoked certificate's owner has heard anything."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as it is there
        super().do_handshake(block)
        try:
            _verify_not_revoked(self)
        except KumiaiError:
            self.close()
            raise


class _ListedObject(ssl.SSLObject):
    """The same for event loops, where whoever opened the connection closes it."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _verify_not_revoked(self)


class _ListedContext(ssl.SSLContext):
    """A client's context with a revocation list."""

    sslsocket_class = _ListedSocket
    sslobject_class = _ListedObject
    revoked: Callable[[], RevocationList]


def _new_client_context(ca: Path, crl: Path | None) -> ssl.SSLContext:
    if crl is None:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = _ListedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.revoked = lambda: RevocationList.read(crl, ca)
    context.revoked()
    return context


def _verify_not_revoked(connection: Any) -> None:
    revoked = connection.context.revoked()
    # OpenSSL's own check takes no list that has expired, and wants one of every root. The chain
    # that it has verified is public in Python 3.13; since 3.10 it is to be had by the same call.
    for each in connection._sslobj.get_verified_chain():  # noqa: SLF001
        serial = certificate_of(each.public_bytes().encode()).serial_number
        if revoked.is_revoked(serial):
            raise CertificateError(
                f"the server's certificate must not be revoked, got serial {serial:x}, which is; "
                "somebody may answer in the coordinator's place: ask the federation's operator"
            )


class _EncryptedKeyError(Exception):
    """The key asks for a passphrase; without this, OpenSSL would ask on the terminal."""


def _refuse_passphrase() -> NoReturn:
    raise _EncryptedKeyError
