"""Which certificates are revoked: signed lists, and a watcher that keeps them fresh.

A file holds one list for each issuer, and the issuers' certificates, so that whoever trusts the
root can check it by itself. It is good as a whole or not at all: one with a list that is unsigned,
foreign, expired, from the future, partial or older than the one in hand is never used; the last
good one stays in force and the trouble is reported. Reads files.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, KumiaiError
from kumiai.identity import files
from kumiai.identity.trust import TrustBundle

__all__ = ["IssuerList", "RevocationList", "RevocationWatcher"]

CLOCK_SKEW_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 5.0

_BLOCK: Final = re.compile(
    rb"-----BEGIN (?P<kind>CERTIFICATE|X509 CRL)-----[A-Za-z0-9+/=\s]*-----END (?P=kind)-----"
)
_MEND: Final = "write a fresh one with `kumiai ca crl`"


@dataclass(frozen=True, slots=True)
class IssuerList:
    """What one root or issuer has revoked.

    Attributes:
        issuer: its serial number, > 0.
        root: the serial number of its root; its own if it is one.
        not_after: when its life ends, seconds since 1970-01-01 UTC.
        serials: the serial numbers that it has revoked.
        number: the list's number; a later list has a higher one.
        this_update: when it was made, seconds since 1970-01-01 UTC.
        next_update: when it must have been replaced, same.
    """

    issuer: int
    root: int
    not_after: float
    serials: frozenset[int]
    number: int
    this_update: float
    next_update: float


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The revoked certificates of one federation.

    Attributes:
        lists: one for each issuer that published one, and for each root that did; at least one.
        serials: all revoked serial numbers, of members and of issuers.
    """

    lists: tuple[IssuerList, ...]
    serials: frozenset[int]

    @classmethod
    def load(
        cls,
        source: Path | bytes,
        ca_cert: Path | bytes | x509.Certificate | TrustBundle,
        *,
        now: float,
    ) -> Self:
        """Return the lists in a file or text, verified.

        Args:
            source: a path, or the lists themselves in PEM, with the certificates of the issuers
                that signed them.
            ca_cert: the roots that must vouch for whoever signed them.
            now: seconds since 1970-01-01 UTC.

        Raises:
            NotFoundError: there is no such file.
            StorageError: it cannot be read.
            CertificateError: it does not parse; a list is not signed by a root or one of its
                issuers, is partial, expired, or more than five minutes from the future.
        """
        revocations = cls.read(source, ca_cert)
        if revocations.this_update > now + CLOCK_SKEW_SECONDS:
            raise CertificateError(
                "revocation list must not be from the future, got one made "
                f"{revocations.this_update - now:.0f} s from now; check this machine's clock"
            )
        revocations.verify_current(now)
        return revocations

    @classmethod
    def read(
        cls, source: Path | bytes, ca_cert: Path | bytes | x509.Certificate | TrustBundle
    ) -> Self:
        """Return the lists in a file or text, whenever they were made; see `load`.

        What an old list has revoked stays revoked; what it does not name may be, by now.
        """
        content = (
            source if isinstance(source, bytes) else files.read_file(source, "revocation list")
        )
        lists = _parsed(content, _bundle_of(ca_cert))
        return cls(lists, frozenset().union(*(each.serials for each in lists)))

    @property
    def number(self) -> int:
        """The number of the newest list."""
        return max(each.number for each in self.lists)

    @property
    def this_update(self) -> float:
        """When the newest list was made, seconds since 1970-01-01 UTC."""
        return max(each.this_update for each in self.lists)

    @property
    def next_update(self) -> float:
        """When the first list must have been replaced, seconds since 1970-01-01 UTC."""
        return min(each.next_update for each in self.lists)

    def is_revoked(self, serial: int) -> bool:
        """Whether the certificate with this serial number is revoked."""
        return serial in self.serials

    def verify_current(self, now: float) -> None:
        """Check that no list need have been replaced yet.

        Raises:
            CertificateError: one has expired.
        """
        if now > self.next_update:
            raise CertificateError(
                "revocation list must be current, got one that expired "
                f"{now - self.next_update:.0f} s ago; {_MEND}"
            )

    def verify_not_older(self, than: Self, *, roots: Collection[int], now: float) -> None:
        """Check that nothing that was revoked is forgotten.

        Args:
            than: what is in force.
            roots: the serial numbers of the trusted roots.
            now: seconds since 1970-01-01 UTC.

        Raises:
            CertificateError: a list is older than the one in force, or missing although its
                issuer can still vouch for members.
        """
        numbers = {each.issuer: each.number for each in self.lists}
        for old in than.lists:
            is_over = old.root not in roots or now > old.not_after or self.is_revoked(old.issuer)
            number = numbers.get(old.issuer, old.number if is_over else -1)
            if number < old.number:
                got = "none" if number < 0 else f"{number}"
                raise CertificateError(
                    f"revocation list must not be older than number {old.number}, got {got}; "
                    f"{_MEND}"
                )


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
            ca_cert: the roots that must vouch for whoever signed it; read again with each new
                list if it is a path.
            clock: judges the list's dates and paces new tries after a bad one.

        Raises:
            NotFoundError, StorageError, CertificateError: as for ``RevocationList.load``.
        """
        self._path = path
        # A path stays one: the trusted roots may change while this one watches.
        self._source = ca_cert
        self._clock = clock
        self._error: KumiaiError | None = None
        self._retry_at = 0.0
        self._seen = _fingerprint_of(path)
        self._list = RevocationList.load(path, ca_cert, now=clock.now())

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
            fresh = RevocationList.load(self._path, self._source, now=self._clock.now())
            fresh.verify_not_older(
                self._list, roots=_bundle_of(self._source).serials, now=self._clock.now()
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


def _parsed(content: bytes, bundle: TrustBundle) -> tuple[IssuerList, ...]:
    # Lazily parsed: damage shows itself only when a field is read.
    try:
        certificates, crls = _blocks_of(content)
        signers = (*bundle.authorities, *(each for each in certificates if _is_ours(each, bundle)))
        lists = tuple(_list_of(crl, signers, bundle) for crl in crls)
    except (
        ValueError,
        TypeError,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        UnsupportedAlgorithm,
    ) as error:
        raise CertificateError(
            f"revocation list must be PEM, got {len(content)} bytes that do not parse; {_MEND}"
        ) from error
    if not lists:
        raise CertificateError(
            f"revocation list must be PEM, got {len(content)} bytes without one; {_MEND}"
        )
    return lists


def _blocks_of(
    content: bytes,
) -> tuple[list[x509.Certificate], list[x509.CertificateRevocationList]]:
    certificates, crls = [], []
    for match in _BLOCK.finditer(content):
        if match["kind"] == b"CERTIFICATE":
            certificates.append(x509.load_pem_x509_certificate(match[0]))
        else:
            crls.append(x509.load_pem_x509_crl(match[0]))
    if content.count(b"-----BEGIN") != len(certificates) + len(crls):
        raise ValueError("another kind of block, or half of one")
    return certificates, crls


def _is_ours(issuer: x509.Certificate, bundle: TrustBundle) -> bool:
    try:
        bundle.root_of((issuer,))
    except CertificateError:
        return False
    return True


def _list_of(
    crl: x509.CertificateRevocationList,
    signers: Sequence[x509.Certificate],
    bundle: TrustBundle,
) -> IssuerList:
    signer = _signer_of(crl, signers)
    extensions = list(crl.extensions)
    # RFC 5280 section 5.2: a critical extension may change what the list means (only a part of
    # the certificates, only what changed); who does not understand it must not use it.
    if any(extension.critical for extension in extensions):
        raise CertificateError(
            f"revocation list must be a whole one, got one with conditions; {_MEND}"
        )
    numbers = [
        extension.value.crl_number
        for extension in extensions
        if isinstance(extension.value, x509.CRLNumber)
    ]
    if not numbers or crl.next_update_utc is None:
        raise CertificateError(f"revocation list must have a number and an end, got none; {_MEND}")
    return IssuerList(
        issuer=signer.serial_number,
        root=bundle.root_of((signer,)).serial_number,
        not_after=signer.not_valid_after_utc.timestamp(),
        serials=frozenset(entry.serial_number for entry in crl),
        number=numbers[0],
        this_update=crl.last_update_utc.timestamp(),
        next_update=crl.next_update_utc.timestamp(),
    )


def _signer_of(
    crl: x509.CertificateRevocationList, signers: Sequence[x509.Certificate]
) -> x509.Certificate:
    for signer in signers:
        if crl.issuer == signer.subject and crl.is_signature_valid(
            signer.public_key()  # type: ignore[arg-type]
        ):
            return signer
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
