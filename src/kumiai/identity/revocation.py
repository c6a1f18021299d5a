"""Which certificates are revoked: a signed list, and a watcher that keeps it fresh.

A list that is unsigned, foreign, expired, from the future, partial or older than the one in hand
is never used: the last good one stays in force and the trouble is reported. Reads files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, KumiaiError
from kumiai.identity import files
from kumiai.identity.trust import TrustBundle

__all__ = ["RevocationList", "RevocationWatcher"]

CLOCK_SKEW_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 5.0

_MEND: Final = "write a fresh one with `kumiai ca crl`"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The revoked certificates of one authority.

    Attributes:
        serials: their serial numbers.
        number: the list's number; a later list has a higher one.
        this_update: when it was made, seconds since 1970-01-01 UTC.
        next_update: when it must have been replaced, same.
    """

    serials: frozenset[int]
    number: int
    this_update: float
    next_update: float

    @classmethod
    def load(
        cls,
        source: Path | bytes,
        ca_cert: Path | bytes | x509.Certificate | TrustBundle,
        *,
        now: float,
    ) -> Self:
        """Return the list in a file or text, verified.

        Args:
            source: a path, or the list itself in PEM or DER.
            ca_cert: the authority that must have signed it, or several of which one must.
            now: seconds since 1970-01-01 UTC.

        Raises:
            NotFoundError: there is no such file.
            StorageError: it cannot be read.
            CertificateError: it does not parse, is not signed by the authority, is partial,
                expired, or more than five minutes from the future.
        """
        content = (
            source if isinstance(source, bytes) else files.read_file(source, "revocation list")
        )
        revocations = cls._parsed(content, _bundle_of(ca_cert))
        if revocations.this_update > now + CLOCK_SKEW_SECONDS:
            raise CertificateError(
                "revocation list must not be from the future, got one made "
                f"{revocations.this_update - now:.0f} s from now; check this machine's clock"
            )
        revocations.verify_current(now)
        return revocations

    def is_revoked(self, serial: int) -> bool:
        """Whether the certificate with this serial number is revoked."""
        return serial in self.serials

    def verify_current(self, now: float) -> None:
        """Check that the list need not have been replaced yet.

        Raises:
            CertificateError: it has expired.
        """
        if now > self.next_update:
            raise CertificateError(
                "revocation list must be current, got one that expired "
                f"{now - self.next_update:.0f} s ago; {_MEND}"
            )

    @classmethod
    def _parsed(cls, content: bytes, bundle: TrustBundle) -> Self:
        # Lazily parsed: damage shows itself only when a field is read.
        try:
            crl = _crl_of(content)
            _verify_signed(crl, bundle)
            extensions = list(crl.extensions)
            serials = frozenset(entry.serial_number for entry in crl)
            next_update = crl.next_update_utc
            this_update = crl.last_update_utc.timestamp()
        except (ValueError, TypeError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
            raise CertificateError(
                f"revocation list must be PEM or DER, got {len(content)} bytes that do not "
                f"parse; {_MEND}"
            ) from error
        # RFC 5280 section 5.2: a critical extension may change what the list means (only a part
        # of the certificates, only what changed); who does not understand it must not use it.
        if any(extension.critical for extension in extensions):
            raise CertificateError(
                f"revocation list must be a whole one, got one with conditions; {_MEND}"
            )
        numbers = [
            extension.value.crl_number
            for extension in extensions
            if isinstance(extension.value, x509.CRLNumber)
        ]
        if not numbers or next_update is None:
            raise CertificateError(
                f"revocation list must have a number and an end, got none; {_MEND}"
            )
        return cls(serials, numbers[0], this_update, next_update.timestamp())


class RevocationWatcher:
    """The newest good revocation list in a file that is replaced from time to time.

    Asking costs one ``stat`` while the file stays the same. Replace the file by renaming, as
    ``CertificateManager`` does; a half-written one is refused and tried again.
    """

    def __init__(
        self,
        path: Path,
        ca_cert: Path | bytes | x509.Certificate | TrustBundle,
        clock: Clock,
    ) -> None:
        """Load the list; without a good one there is no watcher.

        Args:
            path: the file.
            ca_cert: the authority that must have signed it.
            clock: judges the list's dates and paces new tries after a bad one.

        Raises:
            NotFoundError, StorageError, CertificateError: as for ``RevocationList.load``.
        """
        self._path = path
        self._bundle = _bundle_of(ca_cert)
        self._clock = clock
        self._error: KumiaiError | None = None
        self._retry_at = 0.0
        self._seen = _fingerprint_of(path)
        self._list = RevocationList.load(path, self._bundle, now=clock.now())

    def current(self) -> RevocationList:
        """Return the newest good list, reading the file again if it changed."""
        seen = _fingerprint_of(self._path)
        if seen != self._seen or self._is_retry_due():
            # Remembered before reading: a change in between is then seen at the next call.
            self._seen = seen
            self._reload()
        return self._list

    @property
    def error(self) -> KumiaiError | None:
        """What is wrong with the newest list, or ``None``.

        Either the file is bad and an older list is in force, or the list in force has expired.
        """
        if self._error is not None:
            return self._error
        try:
            self._list.verify_current(self._clock.now())
        except CertificateError as error:
            return error
        return None

    def _is_retry_due(self) -> bool:
        return self._error is not None and self._clock.monotonic() >= self._retry_at

    def _reload(self) -> None:
        try:
            fresh = RevocationList.load(self._path, self._bundle, now=self._clock.now())
            if fresh.number < self._list.number:
                raise CertificateError(
                    f"revocation list must not be older than number {self._list.number}, "
                    f"got {fresh.number}; {_MEND}"
                )
        except KumiaiError as error:
            self._error = error
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS
        else:
            self._list, self._error = fresh, None


def _bundle_of(source: Path | bytes | x509.Certificate | TrustBundle) -> TrustBundle:
    if isinstance(source, TrustBundle):
        return source
    if isinstance(source, x509.Certificate):
        return TrustBundle((source,))
    return TrustBundle.load(source)


def _crl_of(content: bytes) -> x509.CertificateRevocationList:
    # A SEQUENCE is DER; see names.certificate_of.
    if content.startswith(b"\x30"):
        return x509.load_der_x509_crl(content)
    return x509.load_pem_x509_crl(content)


def _verify_signed(crl: x509.CertificateRevocationList, bundle: TrustBundle) -> None:
    for authority in bundle.authorities:
        if crl.issuer == authority.subject and crl.is_signature_valid(
            authority.public_key()  # type: ignore[arg-type]
        ):
            return
    raise CertificateError(
        "revocation list must be signed by this federation's authority, got one that is not; "
        f"{_MEND}"
    )


def _fingerprint_of(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
