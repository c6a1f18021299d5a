"""Signed statements of how the log stood, and whose signature that is.

A checkpoint is a signed note: a text of lines (origin, size, root, then the head of the chain
and the time), an empty line, and the signature. The key is Ed25519 and made by the coordinator
for this purpose alone; its certificate's key says so once, in a `CertifiedKey`, so that whoever
trusts the federation's authority can check a checkpoint and nobody needs another list of keys.

Source: the formats of C2SP: tlog-checkpoint and signed-note.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import orjson
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from kumiai.core.errors import CertificateError, IntegrityError
from kumiai.identity.audit.merkle import HASH_BYTES
from kumiai.identity.names import Role, identity_of
from kumiai.identity.trust import TrustBundle, chain_of

__all__ = [
    "CertifiedKey",
    "Checkpoint",
    "CheckpointSigner",
    "is_signed",
    "open_note",
    "origin_of",
    "read_note",
]

_KEY_LABEL: Final = b"kumiai audit signing key v1\0"
_NOTE_CHARS_MAX: Final = 2000
_DOCUMENT_BYTES_MAX: Final = 32 * 1024
_ALGORITHM: Final = b"\x01"  # Ed25519, of signed-note
_KEY_HASH_BYTES: Final = 4
_SIGNED_BY: Final = "\N{EM DASH}"
_CHAIN: Final = "kumiai-chain "
_TIME: Final = "kumiai-time-us "
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_ORIGIN: Final = re.compile(r"kumiai/([^/\s+]{1,63})/audit")


def origin_of(federation: str) -> str:
    """Return the name of a federation's log."""
    return f"kumiai/{federation}/audit"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How the log stood.

    Attributes:
        origin: of `origin_of`.
        size: how many entries there were.
        root: of the tree over them.
        chain: the last value of the hash chain over them.
        at_us: when it was signed, microseconds since 1970-01-01 UTC.
    """

    origin: str
    size: int
    root: bytes
    chain: bytes
    at_us: int

    def to_text(self) -> str:
        """Return the text that is signed."""
        lines = (
            self.origin,
            str(self.size),
            _base64(self.root),
            _CHAIN + _base64(self.chain),
            _TIME + str(self.at_us),
        )
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A key for checkpoints, with a coordinator's word that it is its own.

    Attributes:
        origin: the log's name.
        public_key: Ed25519, 32 bytes.
        certificates: the coordinator's certificate, and those between it and the root, PEM.
        signature: of the certificate's key over the two above, ECDSA with SHA-256.
    """

    origin: str
    public_key: bytes
    certificates: bytes
    signature: bytes

    @property
    def key_id(self) -> str:
        """The key's name: 64 hexadecimal digits, of which notes bear the first eight."""
        named = self.origin.encode() + b"\n" + _ALGORITHM + self.public_key
        return hashlib.sha256(named).hexdigest()

    def to_json(self) -> str:
        """Return a text to be stored and sent."""
        told = {
            "origin": self.origin,
            "public_key": _base64(self.public_key),
            "certificates": self.certificates.decode("ascii"),
            "signature": _base64(self.signature),
        }
        return orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "CertifiedKey":
        """Read what `to_json` wrote; nothing is verified yet.

        Raises:
            IntegrityError: it is something else.
        """
        try:
            match orjson.loads(text) if len(text) <= _DOCUMENT_BYTES_MAX else None:
                case {
                    "origin": str(origin),
                    "public_key": str(public_key),
                    "certificates": str(certificates),
                    "signature": str(signature),
                }:
                    return cls(
                        origin,
                        _bytes_of(public_key),
                        certificates.encode("ascii"),
                        _bytes_of(signature),
                    )
        except ValueError:
            pass
        raise IntegrityError(
            f"key of the audit log must be as it was stored, got {len(text)} characters of "
            "something else"
        )

    def verify(self, trust: TrustBundle, *, at: float) -> None:
        """Check that a coordinator of this log's federation has certified the key.

        Args:
            trust: the federation's authorities.
            at: when what it signed was signed, seconds since 1970-01-01 UTC: the certificates
                must have been in force then.

        Raises:
            CertificateError: the certificate is foreign, no coordinator's, or was not in force.
            IntegrityError: the signature is wrong.
        """
        certificate = self._verified_certificate(trust, at)
        identity = identity_of(certificate)
        if identity.role is not Role.COORDINATOR or origin_of(identity.federation) != self.origin:
            raise CertificateError(
                f"key of the audit log {self.origin} must be certified by a coordinator of that "
                f"federation, got {identity.uri}"
            )
        if not self._is_signed_by(certificate.public_key()):
            raise IntegrityError(
                f"key of the audit log {self.origin} must be signed by the coordinator's "
                "certificate that comes with it, got another signature"
            )

    def _is_signed_by(self, public: object) -> bool:
        if not isinstance(public, ec.EllipticCurvePublicKey):
            return False
        content = _certified(self.origin, self.public_key)
        try:
            public.verify(self.signature, content, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def _verified_certificate(self, trust: TrustBundle, at: float) -> x509.Certificate:
        chain = chain_of(self.certificates)
        for each in (*chain, trust.root_of(chain)):
            begin, end = each.not_valid_before_utc, each.not_valid_after_utc
            if not begin.timestamp() <= at <= end.timestamp():
                raise CertificateError(
                    "certificate of the audit log's signer must have been in force when it "
                    f"signed, got one from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
                )
        return chain[0]


class CheckpointSigner:
    """A coordinator's private key for checkpoints."""

    def __init__(self, key: ed25519.Ed25519PrivateKey, certified: CertifiedKey) -> None:
        """Sign with this key.

        Raises:
            IntegrityError: another key was certified.
        """
        if key.public_key().public_bytes_raw() != certified.public_key:
            raise IntegrityError(
                "signing key of the audit log must be the one that was certified, got another; "
                "delete both files, and the coordinator makes a new one"
            )
        self._key = key
        self.certified = certified

    @classmethod
    def new(
        cls, origin: str, certificates: bytes, certificate_key: ec.EllipticCurvePrivateKey
    ) -> "CheckpointSigner":
        """Draw a key and certify it.

        Args:
            origin: the log's name.
            certificates: the coordinator's, PEM.
            certificate_key: of the first of them.
        """
        key = ed25519.Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        signature = certificate_key.sign(_certified(origin, public), ec.ECDSA(hashes.SHA256()))
        return cls(key, CertifiedKey(origin, public, certificates, signature))

    @classmethod
    def load(cls, pem: bytes, certified: CertifiedKey) -> "CheckpointSigner":
        """Read what `to_pem` wrote.

        Raises:
            IntegrityError: it is no Ed25519 key, or another was certified.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise IntegrityError(
                f"signing key of the audit log must be Ed25519 in PEM, got {len(pem)} bytes of "
                "something else; delete the file, and the coordinator makes a new one"
            )
        return cls(key, certified)

    def to_pem(self) -> bytes:
        """Return the private key, not encrypted, for a file that only its owner reads."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, checkpoint: Checkpoint) -> str:
        """Return the signed note.

        Raises:
            ValueError: the checkpoint is of another log.
        """
        if checkpoint.origin != self.certified.origin:
            raise ValueError(
                f"checkpoint must be of {self.certified.origin}, got {checkpoint.origin}"
            )
        text = checkpoint.to_text()
        key_hash = bytes.fromhex(self.certified.key_id)[:_KEY_HASH_BYTES]
        signature = _base64(key_hash + self._key.sign(text.encode()))
        return f"{text}\n{_SIGNED_BY} {checkpoint.origin} {signature}\n"

    def __repr__(self) -> str:
        """Return the key's name, never the key."""
        return f"CheckpointSigner({self.certified.key_id[:12]})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: always.
        """
        raise TypeError("a CheckpointSigner cannot be pickled or copied: it holds a secret")


def open_note(note: str, keys: Iterable[CertifiedKey]) -> tuple[Checkpoint, CertifiedKey]:
    """Return the checkpoint of a signed note, and which of the keys has signed it.

    Args:
        note: of `CheckpointSigner.sign`.
        keys: whose signatures count; that they are certified is the caller's to check.

    Raises:
        IntegrityError: it is no note, or none of the keys has signed it.
    """
    checkpoint, signature = read_note(note)
    for key in keys:
        if is_signed(checkpoint, signature, key):
            return checkpoint, key
    raise IntegrityError(
        f"checkpoint of {checkpoint.size} entries must be signed by a known key of "
        f"{checkpoint.origin}, got a signature of none"
    )


def read_note(note: str) -> tuple[Checkpoint, bytes]:
    """Return the checkpoint of a note and its signature, of which nothing is verified yet.

    Raises:
        IntegrityError: it is no note.
    """
    text, _, signed = note.partition("\n\n")
    if len(note) > _NOTE_CHARS_MAX:
        raise _no_note(note)
    checkpoint = _checkpoint_in(text + "\n")
    match = re.fullmatch(re.escape(f"{_SIGNED_BY} {checkpoint.origin} ") + r"(\S+)\n", signed)
    if match is None:
        raise _no_note(note)
    try:
        return checkpoint, _bytes_of(match.group(1))
    except ValueError:
        raise _no_note(note) from None


def is_signed(checkpoint: Checkpoint, signature: bytes, key: CertifiedKey) -> bool:
    """Return whether the key has signed the checkpoint.

    Args:
        checkpoint: the statement.
        signature: of `read_note`: four bytes of the key's name, then the signature.
        key: whose it should be.
    """
    is_named = bytes.fromhex(key.key_id)[:_KEY_HASH_BYTES] == signature[:_KEY_HASH_BYTES]
    if not is_named or key.origin != checkpoint.origin:
        return False
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(key.public_key)
        public.verify(signature[_KEY_HASH_BYTES:], checkpoint.to_text().encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def _checkpoint_in(text: str) -> Checkpoint:
    lines = text.split("\n")
    try:
        origin, size, root, chain, at_us, _ = lines
        checkpoint = Checkpoint(
            origin=origin,
            size=_number(size),
            root=_bytes_of(root),
            chain=_bytes_of(chain.removeprefix(_CHAIN)),
            at_us=_number(at_us.removeprefix(_TIME)),
        )
    except ValueError:
        raise _no_note(text) from None
    is_whole = len(checkpoint.root) == len(checkpoint.chain) == HASH_BYTES
    # One text for one checkpoint: what reads in another way than it was written is refused.
    if not is_whole or not _ORIGIN.fullmatch(origin) or checkpoint.to_text() != text:
        raise _no_note(text)
    return checkpoint


def _certified(origin: str, public_key: bytes) -> bytes:
    return _KEY_LABEL + origin.encode() + b"\0" + public_key


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError("number must be written without zeros before it")
    return int(text)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes_of(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("text must be base64") from error


def _no_note(text: Any) -> IntegrityError:
    return IntegrityError(
        f"checkpoint must be a signed note of an audit log, got {len(text)} characters of "
        "something else"
    )
