"""How a site joins: it makes its key, checks the coordinator, and gets its certificate.

The token says where the coordinator is, by which root it is known, and holds a secret that is
good once. Nothing but a question for public certificates is sent before the coordinator has shown
a chain that leads to that root. The key is stored before it is used and never leaves: whoever is
interrupted runs the same command again, and goes on with the same key. Blocks on files and network.
"""

import base64
import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core import failpoints
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    DeadlineError,
    IntegrityError,
    NotFoundError,
    TransportError,
)
from kumiai.identity import TrustBundle, identity_of
from kumiai.identity import files as private_files
from kumiai.identity.keys import new_key, private_key_of, private_pem_of
from kumiai.identity.members import MemberFiles, member_files
from kumiai.identity.requests import new_request
from kumiai.identity.trust import chain_of
from kumiai.node.operator.errors import find_error

__all__ = ["JoinToken", "join", "make_request"]

_PREFIX: Final = "kumiai-join:"
_TOKEN: Final = re.compile(r"kumiai-join:([^/\s]{3,300})/([A-Za-z0-9_-]{43})/([A-Za-z0-9_-]{43})")
_PENDING: Final = "joining.key"
_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 30.0
_SECRET: Final = 0o600


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What an operator gives to a site, as one line.

    Attributes:
        address: ``host:port`` of the coordinator's HTTP API, as the site reaches it.
        fingerprint: SHA-256 of the root's certificate, 32 bytes.
        secret: good once.
    """

    address: str
    fingerprint: bytes
    secret: str

    def __repr__(self) -> str:
        """Return it without its secret."""
        return f"JoinToken(address={self.address!r})"

    def to_text(self) -> str:
        """Return the line."""
        fingerprint = base64.urlsafe_b64encode(self.fingerprint).decode().rstrip("=")
        return f"{_PREFIX}{self.address}/{fingerprint}/{self.secret}"

    @classmethod
    def from_text(cls, text: str) -> "JoinToken":
        """Return the token in a line.

        Raises:
            ConfigError: it is none.
        """
        match = _TOKEN.fullmatch(text.strip())
        if match is None or not _is_address(match[1]):
            raise ConfigError(
                f"token must be the one line that `kumiai site invite` printed, "
                f"{_PREFIX}host:port/…, got {len(text)} characters of something else"
            )
        fingerprint = base64.urlsafe_b64decode(match[2] + "=")
        return cls(match[1], fingerprint, match[3])


def join(token: JoinToken, directory: Path) -> MemberFiles:
    """Get a certificate for a key that is made here.

    Args:
        token: what the operator gave.
        directory: receives ``<name>.crt``, ``<name>.key`` and ``ca.crt``; created if missing.

    Returns:
        Where the three files lie.

    Raises:
        CertificateError: the coordinator is not the one of the invitation, or its answer is not
            for this key.
        DeniedError: the invitation is not good any more, or somebody used it.
        DeadlineError: an operator has to approve it first; call again.
        ConflictError: the files exist already, or the coordinator signs nothing.
        ConfigError, IntegrityError, NotFoundError, StorageError: a file cannot be used.
        TransportError: the coordinator cannot be reached.
    """
    private_files.new_private_directory(directory)
    with private_files.locked(directory):
        key = _pending_key(directory / _PENDING)
        root = _root_of(token)
        answer = _ask(
            token,
            _context_of(root),
            "POST",
            "/api/v1/join",
            {"secret": token.secret, "request": new_request(key).decode()},
        )
        if not answer.get("certificate"):
            raise DeadlineError(
                f"site must be approved by an operator first, `kumiai site approve "
                f"{answer.get('name', 'NAME')}`; then run the same command again"
            )
        chain, bundle = _verified(answer, key, root)
        target = member_files(directory, identity_of(chain).name)
        _verify_free(target, key)
        failpoints.reach("client.join.answered")
        target.save(chain=chain, key=private_pem_of(key), trust_bundle=bundle)
        failpoints.reach("client.join.saved")
        (directory / _PENDING).unlink()
    return target


def make_request(name: str, directory: Path) -> tuple[Path, Path]:
    """Make a key and a request to be signed by hand.

    Args:
        name: the site's.
        directory: receives ``<name>.key`` and ``<name>.csr``; created if missing.

    Returns:
        The paths of key and request.

    Raises:
        ConfigError: the name breaks its rule.
        ConflictError: there is such a key.
        StorageError: a file cannot be written.
    """
    target = member_files(directory, name)
    private_files.new_private_directory(directory)
    with private_files.locked(directory):
        if target.key.exists():
            raise ConflictError(f"{target.key} must not exist yet; choose another directory")
        key, csr = new_key(), directory / f"{name}.csr"
        private_files.write_atomic(target.key, private_pem_of(key), mode=_SECRET)
        private_files.write_atomic(csr, new_request(key, name), mode=0o644)
    return target.key, csr


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(f"https://{text}")
        return parts.port is not None and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _pending_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        pem = private_files.read_file(path, "key of this site")
    except NotFoundError:
        key = new_key()
        private_files.write_atomic(path, private_pem_of(key), mode=_SECRET)
        return key
    private_files.verify_private(path, "key of this site")
    return private_key_of(pem, "key of this site")


def _root_of(token: JoinToken) -> x509.Certificate:
    """Return the root of the invitation; asked for over a connection that is not trusted yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Unverified on purpose: what comes is public, and believed by its fingerprint alone.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answer = _ask(token, context, "GET", "/api/v1/trust", None)
    for root in TrustBundle.load(str(answer.get("ca", "")).encode()).authorities:
        der = root.public_bytes(serialization.Encoding.DER)
        if hashlib.sha256(der).digest() == token.fingerprint:
            return root
    raise CertificateError(
        f"coordinator at {token.address} must be known by the invitation's root, got another; do "
        "not go on: somebody may stand between, or the invitation is of another federation; ask "
        "the operator"
    )


def _context_of(root: x509.Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=root.public_bytes(serialization.Encoding.PEM).decode())
    return context


def _ask(
    token: JoinToken,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: dict[str, str] | None,
) -> dict[str, Any]:
    timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
    try:
        with httpx.Client(
            base_url=f"https://{token.address}", verify=context, trust_env=False, timeout=timeout
        ) as client:
            response = client.request(method, path, json=body)
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise CertificateError(
                f"coordinator at {token.address} must show a certificate for this address that "
                "the invitation's root vouches for, got another; do not go on, ask the operator"
            ) from error
        raise _unreachable(token, error) from error
    except httpx.HTTPError as error:
        raise _unreachable(token, error) from error
    if not response.is_success:
        raise find_error(response.content) or _foreign(token)
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _foreign(token)
    return answer


def _unreachable(token: JoinToken, error: Exception) -> TransportError:
    return TransportError(
        f"{token.address} cannot be reached ({error}); see that this site may connect to the "
        "coordinator's http_listen, and run the same command again"
    )


def _foreign(token: JoinToken) -> TransportError:
    return TransportError(
        f"{token.address} must answer as a coordinator does, got something else; ask the operator "
        "for the address of its http_listen"
    )


def _verified(
    answer: dict[str, Any], key: ec.EllipticCurvePrivateKey, root: x509.Certificate
) -> tuple[bytes, bytes]:
    chain, bundle = str(answer["certificate"]).encode(), str(answer.get("ca", "")).encode()
    certificates, trusted = chain_of(chain), TrustBundle.load(bundle)
    if root not in trusted.authorities:
        raise CertificateError("answer must trust the invitation's root, got other roots alone")
    trusted.root_of(certificates)
    if certificates[0].public_key() != key.public_key():
        raise IntegrityError(
            "certificate must be for this site's key, got one for another; ask the operator for a "
            "new invitation"
        )
    return chain, bundle


def _verify_free(target: MemberFiles, key: ec.EllipticCurvePrivateKey) -> None:
    if target.cert.exists() and chain_of(target.cert.read_bytes())[0].public_key() != (
        key.public_key()
    ):
        raise ConflictError(f"{target.cert} must not exist yet; choose another directory")
    if target.key.exists() and target.key.read_bytes() != private_pem_of(key):
        raise ConflictError(f"{target.key} must not exist yet; choose another directory")
