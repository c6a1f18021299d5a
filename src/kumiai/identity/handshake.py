"""Why a TLS connection fails: an error whose sentence tells cause and mend.

Strategy: connect as a client would, then read once. Under TLS 1.3 the client's half of the
handshake ends before the server has judged the client's certificate, so a refusal arrives only
with the first read. When the server's own certificate is at fault, a second connection fetches
it without judging it and without showing ours, only to be able to say what it says.

For people and `kumiai doctor`, never for deciding whom to trust. Blocks on the network.
"""

import errno
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from kumiai.core.errors import CertificateError, ConfigError, KumiaiError, TransportError
from kumiai.identity.names import certificate_of
from kumiai.identity.tls import client_context, connect

__all__ = ["diagnose_handshake", "explain_handshake"]

SETTLE_SECONDS: Final = 1.0
"""How long a refusal may take to arrive after the handshake before silence means consent."""

_PORT_MAX: Final = 65_535

# gRPC's servers hang up on a client that offers no protocol of theirs.
_PROTOCOLS: Final = ("h2", "http/1.1")

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_NOT_YET_VALID: Final = frozenset({9, 11})
_EXPIRED: Final = frozenset({10, 12})
_UNKNOWN_AUTHORITY: Final = frozenset({2, 7, 18, 19, 20, 21, 24, 30})
_WRONG_HOST: Final = frozenset({62, 64})

_REFUSALS: Final = {
    "CERTIFICATE_REQUIRED": (
        "the server at {at} wants a client certificate and got none; "
        "give the certificate and key that the federation issued"
    ),
    "UNKNOWN_CA": (
        "the server at {at} does not know the authority of your certificate; "
        "use a certificate that this federation issued"
    ),
    "DECRYPT_ERROR": (
        "the server at {at} found your certificate signed by another authority of the same "
        "name; use one that its present authority issued"
    ),
    "CERTIFICATE_EXPIRED": (
        "the server at {at} finds your certificate expired; have a new one issued, "
        "or set the clock of the machine that is wrong"
    ),
    "CERTIFICATE_REVOKED": (
        "the server at {at} says that your certificate is revoked; ask the federation's operator"
    ),
    "BAD_CERTIFICATE": (
        "the server at {at} does not accept your certificate: it is not yet valid there or "
        "damaged; compare the clocks of both machines, then have a new one issued"
    ),
    "CERTIFICATE_UNKNOWN": (
        "the server at {at} does not accept your certificate; "
        "use one that this federation issued, and compare the clocks of both machines"
    ),
    "UNSUPPORTED_CERTIFICATE": (
        "the server at {at} does not accept this kind of certificate for a client; "
        "use one that `kumiai ca issue` made"
    ),
}

_MISFITS: Final = {
    "PROTOCOL_VERSION": (
        "the server at {at} does not speak TLS 1.3; update it, or what stands in front of it"
    ),
    "UNSUPPORTED_PROTOCOL": (
        "the server at {at} does not speak TLS 1.3; update it, or what stands in front of it"
    ),
    "WRONG_VERSION_NUMBER": (
        "what listens at {at} does not speak TLS; check the port, and that no proxy is in between"
    ),
    "RECORD_LAYER_FAILURE": (
        "what listens at {at} does not speak TLS; check the port, and that no proxy is in between"
    ),
}


def explain_handshake(  # noqa: PLR0917 - the order of every tool that connects
    host: str,
    port: int,
    cert: Path,
    key: Path,
    ca: Path,
    timeout_seconds: float,
    *,
    settle_seconds: float = SETTLE_SECONDS,
) -> str | None:
    """Return why a connection with these certificates fails, in words, or ``None``.

    Args:
        host: as for ``diagnose_handshake``, like all the others.
        port: see there.
        cert: see there.
        key: see there.
        ca: see there.
        timeout_seconds: see there.
        settle_seconds: see there.

    Returns:
        A sentence with cause and mend, lower case, without a full stop; or ``None``.
    """
    error = diagnose_handshake(
        host, port, cert, key, ca, timeout_seconds, settle_seconds=settle_seconds
    )
    return None if error is None else str(error)


def diagnose_handshake(  # noqa: PLR0917 - as above
    host: str,
    port: int,
    cert: Path,
    key: Path,
    ca: Path,
    timeout_seconds: float,
    *,
    settle_seconds: float = SETTLE_SECONDS,
) -> KumiaiError | None:
    """Return why a connection with these certificates fails, or ``None`` if it does not.

    Args:
        host: the server's DNS name or IP address.
        port: its TCP port.
        cert: the client's certificate, PEM.
        key: its private key, PEM.
        ca: the authority's certificate, PEM.
        timeout_seconds: the limit of each step (connect, handshake), > 0.
        settle_seconds: how long to listen for a refusal after the handshake, > 0.

    Returns:
        ``CertificateError`` where one side does not accept the other's certificate, so that
        somebody must act; ``TransportError`` where the server cannot be reached or hangs up, so
        that trying again may help; ``ConfigError`` where host and port are no address;
        ``NotFoundError`` or ``StorageError`` where a file of one's own cannot be read.
    """
    server = _Server(host, port, ca, timeout_seconds, settle_seconds)
    if not host or not 1 <= port <= _PORT_MAX:
        return _no_address(server)
    try:
        context = client_context(cert, key, ca)
    except KumiaiError as error:
        return error
    context.set_alpn_protocols(list(_PROTOCOLS))
    found = _diagnose_connection(context, server)
    # gRPC refuses a certificate by hanging up without an alert. So does a server that is just
    # being stopped, but not twice.
    if isinstance(found, _SilentRefusalError):
        return _diagnose_connection(context, server)
    return found


@dataclass(frozen=True, slots=True)
class _Server:
    """Who is looked at, and how; see `diagnose_handshake`."""

    host: str
    port: int
    ca: Path
    timeout_seconds: float
    settle_seconds: float

    @property
    def at(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _SilentRefusalError(CertificateError):
    """The server hung up where it would have judged our certificate; asking again is worth it."""


def _diagnose_connection(context: ssl.SSLContext, server: _Server) -> KumiaiError | None:
    try:
        with connect(context, server.host, server.port, server.timeout_seconds) as secure:
            return _diagnose_tls(secure, server)
    except TimeoutError:
        return TransportError(
            f"nothing answered at {server.at} within {server.timeout_seconds:g} s; check the "
            "address, and that no firewall is in between"
        )
    except OSError as error:
        return TransportError(_explain_connection(error, server))
    except ValueError:
        # A label too long for the DNS, for one.
        return _no_address(server)


def _diagnose_tls(secure: ssl.SSLSocket, server: _Server) -> KumiaiError | None:
    try:
        secure.do_handshake()
        return _diagnose_silence(secure, server)
    except ssl.SSLCertVerificationError as error:
        certificate = _fetch_certificate(server)
        return CertificateError(_explain_server_certificate(error, server, certificate))
    except (ssl.SSLEOFError, ConnectionError):
        return TransportError(
            f"the server at {server.at} hung up in the handshake without a reason; it was "
            "stopping, too many connections come from your address, or something in between has "
            "no server to pass this on to"
        )
    except ssl.SSLError as error:
        return _diagnose_refusal(error, server)
    except TimeoutError:
        return TransportError(
            f"the server at {server.at} took the connection but did not answer in TLS; "
            "check the port, and whether the server is overloaded"
        )


def _diagnose_silence(secure: ssl.SSLSocket, server: _Server) -> KumiaiError | None:
    secure.settimeout(server.settle_seconds)
    try:
        answer = secure.recv(1)
    except TimeoutError:
        return None
    except ConnectionError:
        answer = b""
    if answer:
        return None
    return _SilentRefusalError(
        f"the server at {server.at} hung up after the handshake without a reason; most likely it "
        "does not accept your certificate: use one that this federation issued, and compare the "
        "clocks of both machines"
    )


def _explain_connection(error: OSError, server: _Server) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name {server.host!r} has no address; check its spelling and this machine's DNS"
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens at {server.at}; start the coordinator there, or check the port"
    return f"{server.at} cannot be reached ({error.strerror}); check the address and the network"


def _no_address(server: _Server) -> KumiaiError:
    return ConfigError(
        f"server must be a DNS name or IP address with a port up to {_PORT_MAX}, got {server.at}"
    )


def _explain_server_certificate(
    error: ssl.SSLCertVerificationError, server: _Server, certificate: x509.Certificate | None
) -> str:
    code, at, host = error.verify_code, server.at, server.host
    if code in _WRONG_HOST:
        return (
            f"the certificate of the server at {at} is not for {host!r} but for "
            f"{_hosts_of(certificate)}; connect to one of these, or issue one that names {host!r}"
        )
    if code in _UNKNOWN_AUTHORITY:
        return (
            f"the certificate of the server at {at} is of another authority than the one in "
            f"{server.ca}; use the ca.crt of this federation, or check that this is its coordinator"
        )
    if code in _EXPIRED:
        return (
            f"the certificate of the server at {at} has expired{_end_of(certificate)}; "
            "have a new one issued, or set this machine's clock if it is ahead"
        )
    if code in _NOT_YET_VALID:
        return (
            f"the certificate of the server at {at} is not valid yet{_begin_of(certificate)}; "
            "this machine's clock is probably behind: set it"
        )
    return (
        f"the certificate of the server at {at} is not acceptable ({error.verify_message}); "
        "have one issued with `kumiai ca issue`"
    )


def _diagnose_refusal(error: ssl.SSLError, server: _Server) -> KumiaiError:
    reason = error.reason or "UNKNOWN"
    for ending, text in _REFUSALS.items():
        if reason.endswith(ending):
            return CertificateError(text.format(at=server.at))
    for ending, text in _MISFITS.items():
        if reason.endswith(ending):
            return TransportError(text.format(at=server.at))
    return TransportError(
        f"the TLS handshake with {server.at} failed ({reason.lower().replace('_', ' ')}); "
        "check that this is a coordinator of your version"
    )


def _fetch_certificate(server: _Server) -> x509.Certificate | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Unverified on purpose: the certificate is quoted in a sentence and the connection closed;
    # nothing of ours is sent over it.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(_PROTOCOLS))
    try:
        host = server.host
        with connect(
            context, host, server.port, server.timeout_seconds, server_name=host
        ) as secure:
            secure.do_handshake()
            return certificate_of(secure.getpeercert(binary_form=True) or b"")
    except (OSError, CertificateError):
        return None


def _hosts_of(certificate: x509.Certificate | None) -> str:
    hosts: list[str] = []
    if certificate is not None:
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            pass
        else:
            hosts += names.value.get_values_for_type(x509.DNSName)
            hosts += map(str, names.value.get_values_for_type(x509.IPAddress))
    return ", ".join(hosts) or "no host at all"


def _end_of(certificate: x509.Certificate | None) -> str:
    if certificate is None:
        return ""
    return f" at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"


def _begin_of(certificate: x509.Certificate | None) -> str:
    if certificate is None:
        return ""
    return f" before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
