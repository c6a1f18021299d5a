"""A federation's certificate authority in a directory.

The directory holds ``ca.crt``; ``ca.key``, or ``ca.key.sealed`` under a passphrase;
``issued.json``, the index of what was issued; and ``ca.crl``, the list of what was revoked.
Members get ``<name>.crt``, ``<name>.key`` and a copy of ``ca.crt`` in a directory of their own.

Rules: keys are readable by their owner alone; nothing that exists is overwritten; the index is
written before the certificate, so that none exists that cannot be revoked; two commands at once
wait for each other. Every method reads and writes files and waits for the disk.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core import failpoints
from kumiai.core.clock import Clock
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
)
from kumiai.core.ids import verify_name
from kumiai.identity import files, sealing, signing
from kumiai.identity.hosts import verify_hosts
from kumiai.identity.index import IssuedIndex, IssuedRecord, RevocationReason
from kumiai.identity.names import Identity, Role, certificate_of, identity_of

__all__ = ["CertificateManager", "IssuedCertificate"]

CLOCK_SKEW_SECONDS: Final = 300.0
"""How far clocks of a federation's machines may differ: new certificates are valid from then."""

_AUTHORITY_DAYS_MAX: Final = 36_500
_MEMBER_DAYS_MAX: Final = 3650
_LIST_DAYS: Final = 365
_DAY_SECONDS: Final = 86_400.0
_SERIAL_BITS: Final = 128
_SEALED_LABEL: Final = "authority key"
_PUBLIC: Final = 0o644
_SECRET: Final = 0o600


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """Where a new certificate lies.

    Attributes:
        identity: whom it speaks for.
        cert: the certificate, PEM.
        key: its private key, PEM, readable by its owner alone.
        ca: a copy of the authority's certificate, PEM.
    """

    identity: Identity
    cert: Path
    key: Path
    ca: Path


class CertificateManager:
    """Creates a federation's authority, issues certificates and revokes them."""

    def __init__(self, directory: Path, *, clock: Clock, passphrase: bytes | None = None) -> None:
        """Name the authority's directory; nothing is read or written yet.

        Args:
            directory: the authority's own; ``create`` makes it.
            clock: dates certificates and lists.
            passphrase: seals the authority's key, 12 to 1024 bytes; ``None``: the key lies open,
                protected by the permissions of its file alone.

        Raises:
            ConfigError: the passphrase is too short or too long.
        """
        if passphrase is not None:
            sealing.verify_passphrase(passphrase)
        self._directory = directory
        self._clock = clock
        self._passphrase = passphrase

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the passphrase stays in this process.

        Raises:
            TypeError: always.
        """
        raise TypeError("a CertificateManager cannot be pickled or copied: it may hold a secret")

    @property
    def certificate_path(self) -> Path:
        """Where the authority's certificate lies."""
        return self._directory / "ca.crt"

    @property
    def revocation_list_path(self) -> Path:
        """Where the list of revoked certificates lies."""
        return self._directory / "ca.crl"

    def create(self, federation: str, *, ca_days: int = 3650) -> Path:
        """Create the authority, with an empty revocation list.

        Args:
            federation: the federation's name.
            ca_days: the life of the authority's certificate, 1 to 36 500 days.

        Returns:
            The path of the authority's certificate.

        Raises:
            ConfigError: the name or the days break their rule.
            ConflictError: the directory holds an authority already, or a part of one.
            StorageError: a file cannot be written.
        """
        verify_name("federation", federation)
        _verify_days("ca_days", ca_days, _AUTHORITY_DAYS_MAX)
        files.new_private_directory(self._directory)
        with files.locked(self._directory):
            self._verify_vacant()
            now = self._clock.now()
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = signing.new_authority_certificate(
                federation,
                key,
                serial=_new_serial(),
                not_before=now - CLOCK_SKEW_SECONDS,
                not_after=now + ca_days * _DAY_SECONDS,
            )
            self._save_key(key)
            self._publish_list(IssuedIndex(federation), certificate, key)
            # Last: an authority exists once its certificate does.
            files.write_atomic(self.certificate_path, _pem_of(certificate), mode=_PUBLIC)
        return self.certificate_path

    def issue(
        self,
        role: Role,
        name: str,
        *,
        hosts: Sequence[str] = (),
        days: int = 365,
        out_dir: Path,
    ) -> IssuedCertificate:
        """Issue a certificate with a new key.

        Args:
            role: what the owner is.
            name: the owner's name. It may hold several certificates; ``ca`` is taken.
            hosts: for a coordinator, and only for it: each DNS name and IP address that clients
                connect to, ``localhost`` and ``127.0.0.1`` included if they do.
            days: its life, 1 to 3650 days; cut to the end of the authority's own.
            out_dir: receives ``<name>.crt``, ``<name>.key`` and ``ca.crt``; created if missing.

        Returns:
            The identity and where the three files lie.

        Raises:
            ConfigError: an argument breaks its rule, or the passphrase is wrong.
            ConflictError: one of the files exists already.
            NotFoundError: there is no authority in the directory.
            CertificateError: the authority's own certificate is not valid now.
            IntegrityError: the authority's files are damaged or do not belong together.
            StorageError: a file cannot be read or written.
        """
        target = _verify_target(out_dir, name)
        _verify_days("days", days, _MEMBER_DAYS_MAX)
        _verify_hosts_fit(role, hosts)
        host_names = verify_hosts(hosts)
        with files.locked(self._existing_directory()):
            authority, authority_key, index = self._load()
            now = self._clock.now()
            key = ec.generate_private_key(ec.SECP256R1())
            record = IssuedRecord(
                serial=_new_serial(),
                role=role,
                name=name,
                hosts=tuple(str(host.value) for host in host_names),
                not_before=float(int(now - CLOCK_SKEW_SECONDS)),
                not_after=float(
                    int(min(now + days * _DAY_SECONDS, authority.not_valid_after_utc.timestamp()))
                ),
            )
            certificate = signing.new_member_certificate(
                record,
                host_names,
                key.public_key(),
                authority=authority,
                authority_key=authority_key,
            )
            files.new_private_directory(out_dir)
            target.verify_vacant(authority)
            self._save_index(index.with_issued(record))
        target.save(certificate, key, authority)
        return IssuedCertificate(identity_of(certificate), target.cert, target.key, target.ca)

    def revoke(
        self,
        target: str | int,
        reason: RevocationReason | str = RevocationReason.UNSPECIFIED,
        *,
        role: Role | None = None,
    ) -> None:
        """Revoke a certificate by serial number, or all of one owner's, and publish the list.

        Revoking again changes no date and no reason, but publishes the list anew.

        Args:
            target: the owner's name, or a serial number.
            reason: why.
            role: the owner's role, where owners of several roles have that name.

        Raises:
            NotFoundError: no such certificate was issued, or there is no authority.
            ConflictError: owners of several roles have that name.
            ConfigError: the reason is none of ours, or the passphrase is wrong.
            CertificateError, IntegrityError, StorageError: as for ``issue``.
        """
        reason = _verify_reason(reason)
        with files.locked(self._existing_directory()):
            authority, key, index = self._load()
            serials = _serials_of(index, target, role)
            self._publish_list(
                index.with_revoked(serials, reason, self._clock.now()), authority, key
            )

    def revocation_list(self) -> bytes:
        """Sign and write a fresh revocation list, valid for a year.

        Returns:
            The list, PEM; its number and its date are higher than any before.

        Raises:
            NotFoundError, ConfigError, CertificateError, IntegrityError, StorageError: as for
                ``issue``.
        """
        with files.locked(self._existing_directory()):
            authority, key, index = self._load()
            return self._publish_list(index, authority, key)

    def list_issued(self) -> tuple[IssuedRecord, ...]:
        """Return every certificate issued, revoked and expired ones too, in the order of issue.

        Raises:
            NotFoundError: there is no authority in the directory.
            IntegrityError: the index is damaged.
            StorageError: the index cannot be read.
        """
        self._existing_directory()
        return self._load_index().records

    @property
    def _key_path(self) -> Path:
        return self._directory / "ca.key"

    @property
    def _sealed_key_path(self) -> Path:
        return self._directory / "ca.key.sealed"

    @property
    def _index_path(self) -> Path:
        return self._directory / "issued.json"

    def _verify_vacant(self) -> None:
        parts = (self.certificate_path, self._key_path, self._sealed_key_path, self._index_path)
        present = [path.name for path in parts if path.exists()]
        if present:
            raise ConflictError(
                f"directory must not hold an authority yet, got {', '.join(present)} in "
                f"{self._directory}; choose another directory, or move the old authority away"
            )

    def _existing_directory(self) -> Path:
        if not self.certificate_path.exists():
            raise NotFoundError(
                f"authority must exist, got none in {self._directory}; "
                "create it with `kumiai ca init`"
            )
        return self._directory

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, IssuedIndex]:
        authority = certificate_of(files.read_file(self.certificate_path, "authority"))
        key = self._load_key()
        index = self._load_index()
        if key.public_key() != authority.public_key():
            raise IntegrityError(
                f"authority's key must belong to its certificate, got another in "
                f"{self._directory}; restore both from one backup"
            )
        if index.federation != signing.federation_of(authority):
            raise IntegrityError(
                f"index must be of federation {signing.federation_of(authority)!r}, "
                f"got one of {index.federation!r} in {self._directory}"
            )
        self._verify_in_force(authority)
        return authority, key, index

    def _verify_in_force(self, authority: x509.Certificate) -> None:
        begin, end = authority.not_valid_before_utc, authority.not_valid_after_utc
        if not begin.timestamp() <= self._clock.now() <= end.timestamp():
            raise CertificateError(
                f"authority's certificate must be valid now, got {begin:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC; check this machine's clock, "
                "or create a new authority with `kumiai ca init`"
            )

    def _load_index(self) -> IssuedIndex:
        return IssuedIndex.from_bytes(
            files.read_file(self._index_path, "index of issued certificates")
        )

    def _save_index(self, index: IssuedIndex) -> None:
        failpoints.reach("identity.index.before")
        files.write_atomic(self._index_path, index.to_bytes(), mode=_SECRET)
        failpoints.reach("identity.index.after")

    def _publish_list(
        self, index: IssuedIndex, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> bytes:
        now = self._clock.now()
        # Dated back, so that a reader whose clock is behind does not refuse every certificate;
        # one second more at least, because readers take a list only if it is newer.
        updated_at = max(int(now - CLOCK_SKEW_SECONDS), index.list_updated_at + 1)
        index = index.with_list(updated_at)
        # The number is spent before the list exists, so that no two lists ever share one.
        self._save_index(index)
        not_after = min(now + _LIST_DAYS * _DAY_SECONDS, authority.not_valid_after_utc.timestamp())
        content = signing.new_revocation_list(
            index, authority=authority, authority_key=key, not_after=not_after
        ).public_bytes(serialization.Encoding.PEM)
        files.write_atomic(self.revocation_list_path, content, mode=_PUBLIC)
        failpoints.reach("identity.list.after")
        return content

    def _save_key(self, key: ec.EllipticCurvePrivateKey) -> None:
        if self._passphrase is None:
            files.write_atomic(self._key_path, _private_pem_of(key), mode=_SECRET)
        else:
            sealed = sealing.seal(_private_pem_of(key), self._passphrase, label=_SEALED_LABEL)
            files.write_atomic(self._sealed_key_path, sealed, mode=_SECRET)

    def _load_key(self) -> ec.EllipticCurvePrivateKey:
        if self._sealed_key_path.exists():
            if self._passphrase is None:
                raise ConfigError(
                    f"passphrase must be given, got none; {self._sealed_key_path} is sealed"
                )
            sealed = files.read_file(self._sealed_key_path, "authority's sealed key")
            pem = sealing.unseal(sealed, self._passphrase, label=_SEALED_LABEL)
        else:
            if self._passphrase is not None:
                raise ConfigError(
                    f"passphrase must be left out, got one, but {self._key_path} is not sealed"
                )
            files.verify_private(self._key_path, "authority's key")
            pem = files.read_file(self._key_path, "authority's key")
        return _private_key_of(pem)


@dataclass(frozen=True, slots=True)
class _Target:
    """The three files that a member gets."""

    cert: Path
    key: Path
    ca: Path

    def verify_vacant(self, authority: x509.Certificate) -> None:
        for path in (self.cert, self.key):
            if path.exists():
                raise ConflictError(
                    f"{path} must not exist yet; choose another directory, or move it away"
                )
        if self.ca.exists() and files.read_file(self.ca, "ca.crt") != _pem_of(authority):
            raise ConflictError(
                f"{self.ca} must be this authority's certificate, got another federation's or "
                "an older one; choose another directory, or move it away"
            )

    def save(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        authority: x509.Certificate,
    ) -> None:
        files.write_atomic(self.ca, _pem_of(authority), mode=_PUBLIC)
        files.write_atomic(self.key, _private_pem_of(key), mode=_SECRET)
        # Last: who finds the certificate finds the rest.
        files.write_atomic(self.cert, _pem_of(certificate), mode=_PUBLIC)


def _verify_target(out_dir: Path, name: str) -> _Target:
    verify_name("name", name)
    # Without regard to case, because the file system may have none.
    if name.lower() == "ca":
        raise ConfigError(f"name must not be 'ca', which is the authority's, got {name!r}")
    return _Target(out_dir / f"{name}.crt", out_dir / f"{name}.key", out_dir / "ca.crt")


def _verify_days(field: str, days: int, days_max: int) -> None:
    if not 1 <= days <= days_max:
        raise ConfigError(f"{field} must be 1 to {days_max}, got {days}")


def _verify_hosts_fit(role: Role, hosts: Sequence[str]) -> None:
    if isinstance(hosts, str):
        raise TypeError(f"hosts must be a sequence of names, got the one text {hosts!r}")
    if role is Role.COORDINATOR and not hosts:
        raise ConfigError(
            "hosts must name what clients connect to, got none; "
            "for a coordinator on this machine give localhost and 127.0.0.1"
        )
    if role is not Role.COORDINATOR and hosts:
        raise ConfigError(f"hosts must be empty for a {role.value}, got {len(hosts)}")


def _verify_reason(reason: RevocationReason | str) -> RevocationReason:
    try:
        return RevocationReason(reason)
    except ValueError as error:
        raise ConfigError(
            f"reason must be one of {', '.join(RevocationReason)}, got {reason[:80]!r}"
        ) from error


def _serials_of(index: IssuedIndex, target: str | int, role: Role | None) -> frozenset[int]:
    found = [
        record
        for record in index.records
        if target in {record.serial, record.name} and role in {None, record.role}
    ]
    if not found:
        raise NotFoundError(
            f"certificate must have been issued by this authority, got {target!r}; "
            "list them with `kumiai ca list`"
        )
    roles = {record.role for record in found}
    if len(roles) > 1:
        raise ConflictError(
            f"name must be of one role, got {' and '.join(sorted(roles))} named {target!r}; "
            "give the role or a serial number"
        )
    return frozenset(record.serial for record in found)


def _new_serial() -> int:
    # 128 random bits: RFC 5280 allows 20 octets, and nobody can guess or collide. Never zero.
    return secrets.randbits(_SERIAL_BITS) + 1


def _pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _private_key_of(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            "authority's key must be an unencrypted private key in PEM, got one that does not "
            "parse; restore it from a backup"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IntegrityError("authority's key must be on an elliptic curve, got another kind")
    return key
