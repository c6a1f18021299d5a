"""The coordinator's key for checkpoints, in two files of its data directory."""

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.errors import ConfigError, IntegrityError, NotFoundError
from kumiai.identity import files, identity_of, sealing
from kumiai.identity.audit import CertifiedKey, CheckpointSigner, origin_of

__all__ = ["load_signer"]

_KEY: Final = "audit.key"
_SEALED: Final = "audit.key.sealed"
_LABEL: Final = "signing key of the audit log"
_CERTIFIED: Final = "audit-key.json"


def load_signer(
    data_dir: Path, certificate: Path, key: Path, passphrase: bytes | None = None
) -> CheckpointSigner:
    """Return the signer of this data directory; make one where there is none that fits.

    A key is certified once, by the certificate of that time: with a renewed certificate comes a
    new key, and with a passphrase one that it seals. The old one is forgotten, and what it signed
    stays good.

    Args:
        data_dir: the coordinator's, which nobody else holds.
        certificate: the coordinator's own, PEM.
        key: its private key, PEM.
        passphrase: seals the signing key, 12 to 1024 bytes; ``None``: it lies open.

    Raises:
        NotFoundError, StorageError, CertificateError: the certificate's files cannot be used, or
            others may read the signing key.
        ConfigError: the certificate's key is of another kind; or the passphrase is missing, wrong,
            too short or too long.
    """
    certificates = files.read_file(certificate, "certificate")
    try:
        return _stored(data_dir, certificates, passphrase)
    except (NotFoundError, IntegrityError):
        signer = CheckpointSigner.new(
            origin_of(identity_of(certificates).federation), certificates, _curve_key(key)
        )
    files.new_private_directory(data_dir)
    # The key first: a certified key without it is replaced as well.
    if passphrase is None:
        files.write_atomic(data_dir / _KEY, signer.to_pem(), mode=0o600)
    else:
        sealed = sealing.seal(signer.to_pem(), passphrase, label=_LABEL)
        files.write_atomic(data_dir / _SEALED, sealed, mode=0o600)
        (data_dir / _KEY).unlink(missing_ok=True)
    files.write_atomic(data_dir / _CERTIFIED, signer.certified.to_json().encode(), mode=0o644)
    return signer


def _stored(data_dir: Path, certificates: bytes, passphrase: bytes | None) -> CheckpointSigner:
    pem = _stored_pem(data_dir, passphrase)
    certified = CertifiedKey.from_json(
        files.read_file(data_dir / _CERTIFIED, "certified key of the audit log")
    )
    if certified.certificates != certificates:
        raise NotFoundError("signing key must be certified by the present certificate, got another")
    return CheckpointSigner.load(pem, certified)


def _stored_pem(data_dir: Path, passphrase: bytes | None) -> bytes:
    path = data_dir / (_KEY if passphrase is None else _SEALED)
    if passphrase is None and (data_dir / _SEALED).exists():
        raise ConfigError(
            f"coordinator.audit_passphrase must be given, got none, but {data_dir / _SEALED} is "
            "sealed; set it or coordinator.audit_passphrase_file, or delete that file, and the "
            "coordinator makes a new key"
        )
    files.verify_private(path, _LABEL)
    content = files.read_file(path, _LABEL)
    return content if passphrase is None else sealing.unseal(content, passphrase, label=_LABEL)


def _curve_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(
            files.read_file(path, "private key"), password=None
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"identity.key must be an unencrypted key of an elliptic curve, got another in {path}; "
            "have a certificate issued with `kumiai ca issue coordinator`"
        )
    return key
