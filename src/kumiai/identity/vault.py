"""The files of a federation's authority: its index, the keys of its roots and issuers, its lists.

``issued.json`` is the truth: it names the trusted roots and the issuers, and what they signed.
``ca.crt`` and ``ca.crl`` follow from it and are written after it. The keys lie beside it, named
by serial number, so that a root's may be taken away; in the place of a key that stays in a token
lies its name there. Every function reads or writes files.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from kumiai.identity import files, sealing, signing
from kumiai.identity.index import AuthorityKind, AuthorityRecord, IssuedIndex
from kumiai.identity.keys import new_key, private_key_of, private_pem_of
from kumiai.identity.names import certificate_of
from kumiai.identity.pkcs11 import KeyTokens, TokenKey
from kumiai.identity.pkcs11_uri import is_key_uri

__all__ = [
    "CLOCK_SKEW_SECONDS",
    "DAY_SECONDS",
    "PUBLIC",
    "SECRET",
    "Vault",
    "key_label",
    "new_serial",
    "pem_of",
    "short_serial",
]

CLOCK_SKEW_SECONDS: Final = 300.0
"""How far clocks of a federation's machines may differ: new certificates are valid from then."""

DAY_SECONDS: Final = 86_400.0
PUBLIC: Final = 0o644
SECRET: Final = 0o600

_LIST_DAYS: Final = 365
_SERIAL_BITS: Final = 128
_NAMED_DIGITS: Final = 12


class Vault:
    """The directory of one federation's authority."""

    def __init__(
        self, directory: Path, *, clock: Clock, passphrase: bytes | None, tokens: KeyTokens
    ) -> None:
        """Name the directory; nothing is read or written yet.

        Args:
            directory: the authority's own.
            clock: dates certificates and lists.
            passphrase: seals the keys; ``None``: they lie open.
            tokens: where keys may lie instead.

        Raises:
            ConfigError: the passphrase is too short or too long.
        """
        if passphrase is not None:
            sealing.verify_passphrase(passphrase)
        self.directory = directory
        self.certificate_path = directory / "ca.crt"
        self.revocation_list_path = directory / "ca.crl"
        self.succession_path = directory / "succession.crt"
        self._index_path = directory / "issued.json"
        self._clock = clock
        self._passphrase = passphrase
        self._tokens = tokens

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the passphrase stays in this process.

        Raises:
            TypeError: always.
        """
        raise TypeError("a Vault cannot be pickled or copied: it may hold a secret")

    # --------------------------------------------------------------------------- what is there

    def verify_vacant(self) -> None:
        """Check that no authority is in the directory, nor a part of one.

        Raises:
            ConflictError: there is.
        """
        parts = (self.certificate_path, self._index_path, *sorted(self._key_files()))
        present = [path.name for path in parts if path.exists()]
        if present:
            raise ConflictError(
                f"directory must not hold an authority yet, got {', '.join(present)} in "
                f"{self.directory}; choose another directory, or move the old authority away"
            )

    def verify_exists(self) -> None:
        """Check that there is an authority.

        Raises:
            NotFoundError: there is none.
        """
        if not self.certificate_path.exists():
            raise NotFoundError(
                f"authority must exist, got none in {self.directory}; "
                "create it with `kumiai ca init`"
            )

    def read_index(self) -> IssuedIndex:
        """Return the index.

        Raises:
            NotFoundError, StorageError: it cannot be read.
            IntegrityError: it is damaged.
        """
        content = files.read_file(self._index_path, "index of issued certificates")
        index = IssuedIndex.from_bytes(content)
        if not index.roots or not index.issuers:
            raise IntegrityError(
                f"index must name a root and an issuer, got none in {self.directory}; "
                "restore it from a backup"
            )
        for record in index.authorities:
            federation = signing.federation_of(certificate_of(record.certificate.encode()))
            if federation != index.federation:
                raise IntegrityError(
                    f"index must be of federation {federation!r}, "
                    f"got one of {index.federation!r} in {self.directory}"
                )
        return index

    def open_index(self) -> IssuedIndex:
        """Return the index, and finish what a crash left undone of the trust bundle."""
        index = self.read_index()
        if files.read_file(self.certificate_path, "authority") != index.trust_bundle:
            self.publish_trust(index)
        return index

    # ------------------------------------------------------------------------------------ keys

    def new_root(
        self, federation: str, days: float, token_key: TokenKey | None = None
    ) -> AuthorityRecord:
        """Make a root; its key is stored, the index not yet changed.

        Args:
            federation: its name.
            days: the root's life.
            token_key: its key; ``None``: a new one, here.
        """
        key, serial, now = token_key or new_key(), new_serial(), self._clock.now()
        certificate = signing.new_root_certificate(
            federation,
            key,
            serial=serial,
            not_before=now - CLOCK_SKEW_SECONDS,
            not_after=now + days * DAY_SECONDS,
        )
        record = _record_of(certificate, AuthorityKind.ROOT, serial)
        self._save_key(record, key)
        return record

    def new_issuer(
        self,
        root: AuthorityRecord,
        kind: AuthorityKind,
        *,
        days: float,
        token_key: TokenKey | None = None,
        save: Callable[[AuthorityRecord, ec.EllipticCurvePrivateKey], None] | None = None,
    ) -> AuthorityRecord:
        """Make an issuer, signed by the root's key; the index is not yet changed.

        Args:
            root: who signs; its key must be here.
            kind: of members here, or of sites at a coordinator.
            days: its life; cut to the root's end.
            token_key: its key; ``None``: a new one.
            save: where its key goes; ``None``: here.

        Raises:
            NotFoundError: the root's key is not here.
            ConfigError, CertificateError, IntegrityError, StorageError: as for `load_key`.
        """
        root_certificate = self.certificate_in_force(root)
        root_key = self.load_key(root)
        key, serial, now = token_key or new_key(), new_serial(), self._clock.now()
        certificate = signing.new_issuer_certificate(
            key.public_key(),
            only_sites=kind is AuthorityKind.SITES,
            serial=serial,
            not_before=now - CLOCK_SKEW_SECONDS,
            not_after=min(now + days * DAY_SECONDS, root.not_after),
            root=root_certificate,
            root_key=root_key,
        )
        record = _record_of(certificate, kind, root.serial)
        (save or self._save_key)(record, key)
        return record

    def named_by(self, before: AuthorityRecord, root: AuthorityRecord) -> AuthorityRecord:
        """Return a new root with the word of the one before it, if that can still give it.

        Without: its key is lost, or its time is over. Then members must be brought the new one.
        """
        old = certificate_of(before.certificate.encode())
        now = self._clock.now()
        try:
            key = self.load_key(before)
        except NotFoundError:
            return root
        if now > before.not_after:
            return root
        certificate = signing.new_succession_certificate(
            certificate_of(root.certificate.encode()),
            serial=new_serial(),
            not_before=now - CLOCK_SKEW_SECONDS,
            before=old,
            key_before=key,
        )
        return replace(root, succession=pem_of(certificate).decode())

    def load_key(self, record: AuthorityRecord) -> ec.EllipticCurvePrivateKey:
        """Return the private key of a root or an issuer.

        Raises:
            NotFoundError: it is not here.
            ConfigError: passphrase or PIN is missing, wrong or too much.
            CertificateError: others may read it.
            IntegrityError: it is damaged, or another's.
            StorageError: it cannot be read, or its token does not answer.
        """
        key = self._read_key(record, self._key_path(record))
        if key.public_key() != certificate_of(record.certificate.encode()).public_key():
            raise IntegrityError(
                f"{_label(record)}'s key must belong to its certificate, got another in "
                f"{self.directory}; restore both from one backup"
            )
        return key

    def certificate_in_force(self, record: AuthorityRecord) -> x509.Certificate:
        """Return the certificate of a root or an issuer that may sign now.

        Raises:
            CertificateError: it is out of force, or revoked.
        """
        certificate = certificate_of(record.certificate.encode())
        mend = {
            AuthorityKind.ROOT: "change to a new root with `kumiai ca rotate`",
            AuthorityKind.MEMBERS: "make a new one with `kumiai ca renew-intermediate`",
            AuthorityKind.SITES: "make a new one with `kumiai ca delegate`",
        }[record.kind]
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begin.timestamp() <= self._clock.now() <= end.timestamp():
            raise CertificateError(
                f"{_label(record)}'s certificate must be valid now, got {begin:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC; check this machine's clock, or {mend}"
            )
        if record.revoked_at is not None:
            raise CertificateError(
                f"{_label(record)}'s certificate must not be revoked, got one that is; {mend}"
            )
        return certificate

    def _save_key(self, record: AuthorityRecord, key: ec.EllipticCurvePrivateKey) -> None:
        path = self._key_path(record)
        if isinstance(key, TokenKey):
            files.write_atomic(path, key.reference, mode=SECRET)
        elif self._passphrase is None:
            files.write_atomic(path, private_pem_of(key), mode=SECRET)
        else:
            sealed = sealing.seal(private_pem_of(key), self._passphrase, label=key_label(record))
            files.write_atomic(_sealed(path), sealed, mode=SECRET)

    def _read_key(self, record: AuthorityRecord, path: Path) -> ec.EllipticCurvePrivateKey:
        what = f"{_label(record)}'s key"
        if _sealed(path).exists():
            if self._passphrase is None:
                raise ConfigError(f"passphrase must be given, got none; {_sealed(path)} is sealed")
            sealed = files.read_file(_sealed(path), what)
            pem = sealing.unseal(sealed, self._passphrase, label=key_label(record))
            return private_key_of(pem, what)
        if not path.exists():
            raise NotFoundError(
                f"{what} must be here, got neither {path.name} nor {_sealed(path).name} in "
                f"{self.directory}; bring it back from where it is kept for as long as it is needed"
            )
        files.verify_private(path, what)
        content = files.read_file(path, what)
        if is_key_uri(content):
            return self._tokens.key_in(content)
        if self._passphrase is not None:
            raise ConfigError(f"passphrase must be left out, got one, but {path} is not sealed")
        return private_key_of(content, what)

    def _key_path(self, record: AuthorityRecord) -> Path:
        return self.directory / f"{_label(record)}-{short_serial(record.serial)}.key"

    def _key_files(self) -> Iterator[Path]:
        for pattern in ("*.key", "*.key.sealed"):
            yield from self.directory.glob(pattern)

    # ----------------------------------------------------------------------------- publishing

    def save_index(self, index: IssuedIndex) -> None:
        """Write the index: from here on it is so."""
        failpoints.reach("identity.index.before")
        files.write_atomic(self._index_path, index.to_bytes(), mode=SECRET)
        failpoints.reach("identity.index.after")

    def publish_trust(self, index: IssuedIndex) -> None:
        """Write ``ca.crt``, and before it ``succession.crt`` if a root has followed another."""
        if index.successions:
            files.write_atomic(self.succession_path, index.successions, mode=PUBLIC)
        files.write_atomic(self.certificate_path, index.trust_bundle, mode=PUBLIC)

    def publish_lists(self, index: IssuedIndex, *, roots: frozenset[int] = frozenset()) -> bytes:
        """Sign fresh revocation lists, write the index and then ``ca.crl``.

        Args:
            index: what is issued and revoked.
            roots: the roots that sign one, too; their keys must be here.

        Returns:
            All lists, PEM, after the certificate of the issuer that signed each.

        Raises:
            NotFoundError, ConfigError, CertificateError, IntegrityError, StorageError: a key is
                not here, or cannot be used.
        """
        now = self._clock.now()
        # Dated back, so that a reader whose clock is behind does not refuse every certificate;
        # one second more at least, because readers take a list only if it is newer.
        index = index.with_list(max(int(now - CLOCK_SKEW_SECONDS), index.list_updated_at + 1))
        for root in index.roots:
            if root.serial in roots:
                index = index.with_root_list(
                    root.serial, self._list_of(root, index, root.not_after).decode()
                )
        lists = [root.list_pem.encode() for root in index.roots]
        for issuer in index.issuers:
            if issuer.revoked_at is None and issuer.not_after >= now:
                end = min(now + _LIST_DAYS * DAY_SECONDS, issuer.not_after)
                lists += [issuer.certificate.encode(), self._list_of(issuer, index, end)]
        # The number is spent before a list exists, so that no two ever share one.
        self.save_index(index)
        content = b"".join(lists)
        files.write_atomic(self.revocation_list_path, content, mode=PUBLIC)
        failpoints.reach("identity.list.after")
        return content

    def _list_of(self, signer: AuthorityRecord, index: IssuedIndex, not_after: float) -> bytes:
        return signing.new_revocation_list(
            index.revoked_of(signer.serial),
            number=index.list_number,
            updated_at=index.list_updated_at,
            not_after=not_after,
            issuer=certificate_of(signer.certificate.encode()),
            issuer_key=self.load_key(signer),
        ).public_bytes(serialization.Encoding.PEM)


def new_serial() -> int:
    """Return a fresh serial number: 128 random bits, never zero."""
    # RFC 5280 allows 20 octets, and nobody can guess or collide.
    return secrets.randbits(_SERIAL_BITS) + 1


def short_serial(serial: int) -> str:
    """Return the beginning of a serial number, as files of roots and issuers are named by it."""
    return f"{serial:x}"[:_NAMED_DIGITS]


def pem_of(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_label(record: AuthorityRecord) -> str:
    """Return what a sealed key says that it is for."""
    return f"{record.kind} key"


def _label(record: AuthorityRecord) -> str:
    return "root" if record.kind is AuthorityKind.ROOT else "issuer"


def _sealed(path: Path) -> Path:
    return path.with_name(path.name + ".sealed")


def _record_of(certificate: x509.Certificate, kind: AuthorityKind, root: int) -> AuthorityRecord:
    return AuthorityRecord(
        serial=certificate.serial_number,
        kind=kind,
        root=root,
        certificate=pem_of(certificate).decode(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )
