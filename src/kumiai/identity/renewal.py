"""A member's certificate and key, replaced by the next ones: both, or neither.

Two files cannot be renamed at once. So the new pair is first written as one file, ``<key>.next``,
in one piece; from then on it counts, and whoever is interrupted while the two files follow from
it goes on with `recover`. What comes in is checked before anything is written: it must be for the
key that was made here, for the same owner, and vouched for by a root that is trusted already.
Reads and writes files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core import failpoints
from kumiai.core.errors import CertificateError, IntegrityError, NotFoundError
from kumiai.identity import files
from kumiai.identity.keys import private_key_of, private_pem_of
from kumiai.identity.names import CERTIFICATE_SIZE_BYTES_MAX, identity_of, is_of_sites
from kumiai.identity.trust import TrustBundle, chain_of
from kumiai.identity.vault import CLOCK_SKEW_SECONDS

__all__ = ["RenewableFiles"]

_PUBLIC: Final = 0o644
_SECRET: Final = 0o600
_KEYS_END: Final = b"-----END PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True)
class RenewableFiles:
    """Where a member's files lie.

    Attributes:
        cert: its certificate, then its issuer's, PEM.
        key: its private key, PEM.
        ca: the roots that it trusts, PEM.
    """

    cert: Path
    key: Path
    ca: Path

    def due_at(self) -> float | None:
        """Return when half of the certificate's life is over, seconds since 1970-01-01 UTC.

        Returns:
            ``None`` if it is not from an issuer for sites: who was given a certificate for a year
            by hand is not given one for a day instead.

        Raises:
            NotFoundError, StorageError, CertificateError: the certificate cannot be read.
        """
        leaf = chain_of(self._read_cert())[0]
        if not is_of_sites(leaf.issuer):
            return None
        # Dated back by the skew when it was signed.
        begin = leaf.not_valid_before_utc.timestamp() + CLOCK_SKEW_SECONDS
        return (begin + leaf.not_valid_after_utc.timestamp()) / 2

    def install(self, chain: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        """Replace certificate and key.

        Args:
            chain: the new certificate and its issuer's, PEM.
            key: the new private key.

        Raises:
            IntegrityError: the certificate is for another key.
            CertificateError: it is another's, or no root that is trusted vouches for it.
            NotFoundError, StorageError: a file cannot be read or written.
        """
        with files.locked(self.key.parent):
            self._verify_fit(chain, key)
            files.write_atomic(self._next, private_pem_of(key) + chain, mode=_SECRET)
            failpoints.reach("identity.renewal.decided")
            self._follow(chain, key)

    def recover(self) -> bool:
        """Finish what was interrupted.

        Returns:
            Whether there was anything to finish.

        Raises:
            StorageError: a file cannot be read or written.
        """
        if not self._next.exists():
            return False
        failpoints.reach("identity.renewal.found")
        with files.locked(self.key.parent):
            try:
                content = files.read_file(self._next, "renewed certificate")
            except NotFoundError:  # another process was first
                return False
            key_pem, end, chain = content.partition(_KEYS_END)
            try:
                key = private_key_of(key_pem + end, "renewed key")
                self._verify_fit(chain, key)
            except (IntegrityError, CertificateError):
                # The pair at hand is whole: nothing of it is touched before this file is.
                self._next.unlink()
                return False
            self._follow(chain, key)
        return True

    @property
    def _next(self) -> Path:
        return self.key.with_name(self.key.name + ".next")

    def _read_cert(self) -> bytes:
        return files.read_file(self.cert, "certificate", size_bytes_max=CERTIFICATE_SIZE_BYTES_MAX)

    def _verify_fit(self, chain: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        certificates = chain_of(chain)
        if certificates[0].public_key() != key.public_key():
            raise IntegrityError("certificate must be for the key that was made here, got another")
        TrustBundle.load(self.ca).root_of(certificates)
        old, new = identity_of(chain_of(self._read_cert())[0]), identity_of(certificates[0])
        if new.uri != old.uri:
            raise CertificateError(f"certificate must be for {old.uri}, got one for {new.uri}")

    def _follow(self, chain: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        files.write_atomic(self.key, private_pem_of(key), mode=_SECRET)
        failpoints.reach("identity.renewal.key")
        files.write_atomic(self.cert, chain, mode=_PUBLIC)
        failpoints.reach("identity.renewal.cert")
        self._next.unlink()
