"""The coordinator's key for checkpoints, in two files of its data directory."""

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.errors import ConfigError, IntegrityError, NotFoundError
from kumiai.identity import files, identity_of
from kumiai.identity.audit import CertifiedKey, CheckpointSigner, origin_of

__all__ = ["load_signer"]

_KEY: Final = "audit.key"
_CERTIFIED: Final = "audit-key.json"


def load_signer(data_dir: Path, certificate: Path, key: Path) -> CheckpointSigner:
    """Return the signer of this data directory; make one where there is none that fits.

    A key is certified once, by the certificate of that time: with a renewed certificate comes a
    new key. The old one is forgotten, and what it signed stays good.

    Args:
        data_dir: the coordinator's, which nobody else holds.
        certificate: the coordinator's own, PEM.
        key: its private key, PEM.

    Raises:
        NotFoundError, StorageError, CertificateError: the certificate's files cannot be used, or
            others may read the signing key.
        ConfigError: the certificate's key is of another kind.
    """
    certificates = files.read_file(certificate, "certificate")
    try:
        return _stored(data_dir, certificates)
    except (NotFoundError, IntegrityError):
        signer = CheckpointSigner.new(
            origin_of(identity_of(certificates).federation), certificates, _curve_key(key)
        )
    files.new_private_directory(data_dir)
    # The key first: a certified key without it is replaced as well.
    files.write_atomic(data_dir / _KEY, signer.to_pem(), mode=0o600)
    files.write_atomic(data_dir / _CERTIFIED, signer.certified.to_json().encode(), mode=0o644)
    return signer


def _stored(data_dir: Path, certificates: bytes) -> CheckpointSigner:
    path = data_dir / _KEY
    files.verify_private(path, "signing key of the audit log")
    pem = files.read_file(path, "signing key of the audit log")
    certified = CertifiedKey.from_json(
        files.read_file(data_dir / _CERTIFIED, "certified key of the audit log")
    )
    if certified.certificates != certificates:
        raise NotFoundError("signing key must be certified by the present certificate, got another")
    return CheckpointSigner.load(pem, certified)


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
