"""A federation's certificate authority in a directory: roots, issuers, members, revocation.

A root signs issuers, and its key may be taken away; the issuer signs members. The directory holds
``ca.crt``, the roots that are trusted; ``root-<serial>.key`` and ``issuer-<serial>.key``, sealed
(``….key.sealed``) under a passphrase; ``issued.json``, the index of what was issued; and
``ca.crl``, the lists of what was revoked. A key may also stay in a PKCS#11 token; then its file
holds its name there. Members get ``<name>.crt``, ``<name>.key`` and a copy
of ``ca.crt`` in a directory of their own.

Rules: keys are readable by their owner alone; no key and no certificate that exists is
overwritten; the index is written before the certificate, so that none exists that cannot be
revoked; two commands at once wait for each other. Every method reads and writes files and waits
for the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, ConfigError, ConflictError, NotFoundError
from kumiai.core.ids import verify_name
from kumiai.identity import files, sealing, signing
from kumiai.identity.hosts import verify_hosts
from kumiai.identity.index import (
    AuthorityKind,
    AuthorityRecord,
    IssuedIndex,
    IssuedRecord,
    RevocationReason,
)
from kumiai.identity.keys import MemberKey, new_key, private_pem_of
from kumiai.identity.members import member_files
from kumiai.identity.names import Identity, Role, certificate_of, identity_of, identity_uri
from kumiai.identity.pkcs11 import KeyTokens, TokenKey
from kumiai.identity.renewal import RenewableFiles
from kumiai.identity.requests import verify_request
from kumiai.identity.vault import (
    CLOCK_SKEW_SECONDS,
    DAY_SECONDS,
    PUBLIC,
    SECRET,
    Vault,
    key_label,
    new_serial,
    pem_of,
)

__all__ = ["CertificateManager", "IssuedCertificate", "IssuerFiles", "SignedCertificate"]

_AUTHORITY_DAYS_MAX: Final = 36_500
_MEMBER_DAYS_MAX: Final = 3650


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """Where a new certificate lies.

    Attributes:
        identity: whom it speaks for.
        cert: the certificate and its issuer's, PEM.
        key: its private key, PEM, readable by its owner alone.
        ca: a copy of the roots' certificates, PEM.
    """

    identity: Identity
    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """A new certificate for a key that lies elsewhere.

    Attributes:
        identity: whom it speaks for.
        chain: the certificate and its issuer's, PEM.
        trust_bundle: the roots' certificates, PEM.
    """

    identity: Identity
    chain: bytes
    trust_bundle: bytes


@dataclass(frozen=True, slots=True)
class IssuerFiles:
    """Where a new issuer for a coordinator lies.

    Attributes:
        serial: its serial number.
        cert: its certificate, PEM.
        key: its private key, PEM or sealed.
    """

    serial: int
    cert: Path
    key: Path


class CertificateManager:
    """Creates a federation's authority, issues certificates and revokes them."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        passphrase: bytes | None = None,
        tokens: KeyTokens | None = None,
    ) -> None:
        """Name the authority's directory; nothing is read or written yet.

        Args:
            directory: the authority's own; ``create`` makes it.
            clock: dates certificates and lists.
            passphrase: seals the authority's keys, 12 to 1024 bytes; ``None``: they lie open,
                protected by the permissions of their files alone.
            tokens: where keys may lie instead; ``None``: nowhere.

        Raises:
            ConfigError: the passphrase is too short or too long.
        """
        self._vault = Vault(
            directory, clock=clock, passphrase=passphrase, tokens=tokens or KeyTokens()
        )
        self._clock = clock

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the passphrase stays in this process.

        Raises:
            TypeError: always.
        """
        raise TypeError("a CertificateManager cannot be pickled or copied: it may hold a secret")

    @property
    def certificate_path(self) -> Path:
        """Where the certificates of the trusted roots lie."""
        return self._vault.certificate_path

    @property
    def succession_path(self) -> Path:
        """Where it lies by what each root was named by the one before it, if it was."""
        return self._vault.succession_path

    @property
    def revocation_list_path(self) -> Path:
        """Where the lists of revoked certificates lie."""
        return self._vault.revocation_list_path

    def create(
        self,
        federation: str,
        *,
        ca_days: int = 3650,
        root_key: TokenKey | None = None,
        issuer_key: TokenKey | None = None,
    ) -> Path:
        """Create a root, an issuer and an empty revocation list.

        Args:
            federation: the federation's name.
            ca_days: the life of the root and the issuer, 1 to 36 500 days.
            root_key: the root's, in a token; ``None``: a new one, in a file.
            issuer_key: the issuer's, likewise.

        Returns:
            The path of the root's certificate.

        Raises:
            ConfigError: the name or the days break their rule, or a token's key can not sign.
            ConflictError: the directory holds an authority already, or a part of one, or one key
                is given for both.
            NotFoundError, IntegrityError: a token's key is not whole.
            StorageError: a file cannot be written, or a token does not answer.
        """
        verify_name("federation", federation)
        _verify_days("ca_days", ca_days, _AUTHORITY_DAYS_MAX)
        files.new_private_directory(self._vault.directory)
        with files.locked(self._vault.directory):
            self._vault.verify_vacant()
            index = self._with_new_root(IssuedIndex(federation), ca_days, root_key, issuer_key)
            self._vault.publish_lists(index)
            # Last: an authority exists once its certificate does.
            self._vault.publish_trust(index)
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
            days: its life, 1 to 3650 days; cut to the end of the issuer's own.
            out_dir: receives ``<name>.crt``, ``<name>.key`` and ``ca.crt``; created if missing.

        Returns:
            The identity and where the three files lie.

        Raises:
            ConfigError: an argument breaks its rule, or the passphrase is wrong.
            ConflictError: one of the files exists already.
            NotFoundError: there is no authority in the directory, or its issuer's key is gone.
            CertificateError: the issuer's own certificate is not valid now.
            IntegrityError: the authority's files are damaged or do not belong together.
            StorageError: a file cannot be read or written.
        """
        target = member_files(out_dir, name)
        order = _Order(role, name, _verified(role, hosts, days), days)
        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            key = new_key()
            certificate, index = self._signed(index, order, key.public_key())
            files.new_private_directory(out_dir)
            target.verify_vacant(index.trust_bundle)
            self._vault.save_index(index)
        target.save(
            chain=_chain_of(certificate, index),
            key=private_pem_of(key),
            trust_bundle=index.trust_bundle,
        )
        return IssuedCertificate(identity_of(certificate), target.cert, target.key, target.ca)

    def sign_request(
        self,
        csr_pem: bytes,
        role: Role,
        name: str,
        *,
        hosts: Sequence[str] = (),
        days: int = 365,
    ) -> SignedCertificate:
        """Issue a certificate for a key that its owner keeps.

        Args:
            csr_pem: the owner's request, PEM, at most 16 KiB; of names it may say what the
                certificate will, or nothing.
            role: what the owner is.
            name: the owner's name.
            hosts: for a coordinator, and only for it; as for ``issue``.
            days: its life, 1 to 3650 days; cut to the end of the issuer's own.

        Returns:
            The identity, the certificate with its issuer's, and the roots.

        Raises:
            CertificateError: the request is damaged, unproved, weak or for somebody else, or the
                issuer's own certificate is not valid now.
            ConfigError, NotFoundError, IntegrityError, StorageError: as for ``issue``.
        """
        verify_name("name", name)
        order = _Order(role, name, _verified(role, hosts, days), days)
        request = verify_request(csr_pem)
        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            request.verify_for(name, identity_uri(index.federation, role, name))
            certificate, index = self._signed(index, order, request.public_key)
            self._vault.save_index(index)
        return SignedCertificate(
            identity_of(certificate), _chain_of(certificate, index), index.trust_bundle
        )

    def renew(self, cert_path: Path, *, days: int = 365) -> IssuedCertificate:
        """Replace a member's certificate and key by new ones for the same owner, in place.

        Args:
            cert_path: ``<name>.crt``, beside which ``<name>.key`` and ``ca.crt`` lie.
            days: the new one's life, 1 to 3650 days; cut to the end of the issuer's own.

        Returns:
            The identity and where the three files lie. The old certificate stays good.

        Raises:
            NotFoundError: there is no such file, or this authority did not issue it.
            CertificateError: it was revoked, or as for ``issue``.
            ConfigError, IntegrityError, StorageError: as for ``issue``.
        """
        _verify_days("days", days, _MEMBER_DAYS_MAX)
        old = identity_of(files.read_file(cert_path, "certificate"))
        target = RenewableFiles(
            cert_path, cert_path.with_suffix(".key"), cert_path.with_name("ca.crt")
        )
        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            record = _record_of(index, old.serial)
            order = _Order(old.role, old.name, verify_hosts(record.hosts), days)
            key = new_key()
            certificate, index = self._signed(index, order, key.public_key())
            self._vault.save_index(index)
        files.write_atomic(target.ca, index.trust_bundle, mode=PUBLIC)
        target.install(_chain_of(certificate, index), key)
        return IssuedCertificate(identity_of(certificate), target.cert, target.key, target.ca)

    def rotate(
        self,
        *,
        ca_days: int = 3650,
        root_key: TokenKey | None = None,
        issuer_key: TokenKey | None = None,
    ) -> Path:
        """Make a new root and a new issuer; the old root stays trusted until `retire`.

        Args:
            ca_days: the life of both, 1 to 36 500 days.
            root_key: the new root's, in a token; ``None``: a new one, in a file.
            issuer_key: the new issuer's, likewise.

        Returns:
            The path of the certificates of all trusted roots, which every member needs before
            it meets a certificate that the new issuer signed.

        Raises:
            ConflictError: an older root is not retired yet, or a token's key is in use already.
            ConfigError, NotFoundError, CertificateError, IntegrityError, StorageError: as for
                ``issue``.
        """
        _verify_days("ca_days", ca_days, _AUTHORITY_DAYS_MAX)
        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            if len(index.roots) > 1:
                raise ConflictError(
                    f"change of root must be finished before the next, got {len(index.roots)} "
                    "trusted roots; finish it with `kumiai ca retire`"
                )
            index = self._with_new_root(index, ca_days, root_key, issuer_key)
            self._vault.publish_lists(index)
            self._vault.publish_trust(index)
        return self.certificate_path

    def retire(self, *, even_if_used: bool = False) -> Path:
        """Trust the newest root alone: what the older ones have signed is worth nothing then.

        Args:
            even_if_used: whether to do so although members hold certificates in force under an
                older root.

        Returns:
            The path of the newest root's certificate, which every member needs.

        Raises:
            ConflictError: members hold such certificates, or there is no older root.
            ConfigError, NotFoundError, CertificateError, IntegrityError, StorageError: as for
                ``issue``.
        """
        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            if len(index.roots) == 1:
                raise ConflictError(
                    "an older root must be trusted, got none; `kumiai ca rotate` makes a new one"
                )
            after = index.with_newest_root_only()
            if not even_if_used:
                _verify_unused(index, after, self._clock.now())
            self._vault.publish_lists(after)
            self._vault.publish_trust(after)
        return self.certificate_path

    def renew_intermediate(self, *, days: int = 3650, issuer_key: TokenKey | None = None) -> int:
        """Make a new issuer under the newest root; what the old one has signed stays good.

        Args:
            days: its life, 1 to 36 500 days; cut to the root's end.
            issuer_key: its key, in a token; ``None``: a new one, in a file.

        Returns:
            Its serial number.

        Raises:
            ConflictError: the token's key is in use already.
            NotFoundError: there is no authority, or the root's key is not here.
            ConfigError, CertificateError, IntegrityError, StorageError: as for ``issue``.
        """
        _verify_days("days", days, _AUTHORITY_DAYS_MAX)
        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            _verify_new_keys(index, issuer_key)
            issuer = self._vault.new_issuer(
                index.roots[0], AuthorityKind.MEMBERS, days=days, token_key=issuer_key
            )
            self._vault.publish_lists(index.with_authorities(issuer))
        return issuer.serial

    def delegate(
        self,
        *,
        out_dir: Path,
        days: int = 365,
        passphrase: bytes | None = None,
        issuer_key: TokenKey | None = None,
    ) -> IssuerFiles:
        """Make an issuer for a coordinator, which may sign sites' clients and nobody else.

        Args:
            out_dir: receives ``issuer.crt`` and ``issuer.key``; created if missing.
            days: its life, 1 to 3650 days; cut to the root's end.
            passphrase: seals its key, 12 to 1024 bytes; ``None``: it lies open.
            issuer_key: its key, in a token that the coordinator reaches, too; ``None``: a new
                one. ``issuer.key`` holds its name then, and no passphrase is needed.

        Returns:
            Its serial number and where its files lie.

        Raises:
            ConflictError: one of the files exists already, or the token's key is in use.
            NotFoundError: there is no authority, or the root's key is not here.
            ConfigError, CertificateError, IntegrityError, StorageError: as for ``issue``.
        """
        _verify_days("days", days, _MEMBER_DAYS_MAX)
        if passphrase is not None:
            sealing.verify_passphrase(passphrase)
        cert_path, key_path = out_dir / "issuer.crt", out_dir / "issuer.key"

        def save(record: AuthorityRecord, key: ec.EllipticCurvePrivateKey) -> None:
            if isinstance(key, TokenKey):
                content = key.reference
            elif passphrase is None:
                content = private_pem_of(key)
            else:
                content = sealing.seal(private_pem_of(key), passphrase, label=key_label(record))
            files.write_atomic(key_path, content, mode=SECRET)

        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            _verify_new_keys(index, issuer_key)
            files.new_private_directory(out_dir)
            for path in (cert_path, key_path):
                if path.exists():
                    raise ConflictError(f"{path} must not exist yet; choose another directory")
            record = self._vault.new_issuer(
                index.roots[0], AuthorityKind.SITES, days=days, token_key=issuer_key, save=save
            )
            self._vault.save_index(index.with_authorities(record))
        files.write_atomic(cert_path, record.certificate.encode(), mode=PUBLIC)
        return IssuerFiles(record.serial, cert_path, key_path)

    def revoke(
        self,
        target: str | int,
        reason: RevocationReason | str = RevocationReason.UNSPECIFIED,
        *,
        role: Role | None = None,
    ) -> None:
        """Revoke a certificate by serial number, or all of one owner's, and publish the lists.

        Revoking again changes no date and no reason, but publishes the lists anew. An issuer is
        revoked by its serial number, for which its root's key must be here; everything that it
        has signed is worth nothing then.

        Args:
            target: the owner's name, or a serial number.
            reason: why.
            role: the owner's role, where owners of several roles have that name.

        Raises:
            NotFoundError: no such certificate was issued, there is no authority, or a root's key
                is not here.
            ConflictError: owners of several roles have that name.
            ConfigError: the reason is none of ours, or the passphrase is wrong.
            CertificateError, IntegrityError, StorageError: as for ``issue``.
        """
        reason = _verify_reason(reason)
        with files.locked(self._existing_directory()):
            index = self._vault.open_index()
            serials, roots = _serials_of(index, target, role)
            self._vault.publish_lists(
                index.with_revoked(serials, reason, self._clock.now()), roots=roots
            )

    def revocation_list(self) -> bytes:
        """Sign and write fresh revocation lists, valid for a year.

        Returns:
            The lists, PEM, each after its issuer's certificate; number and date are higher than
            any before.

        Raises:
            NotFoundError, ConfigError, CertificateError, IntegrityError, StorageError: as for
                ``issue``.
        """
        with files.locked(self._existing_directory()):
            return self._vault.publish_lists(self._vault.open_index())

    def list_issued(self) -> tuple[IssuedRecord, ...]:
        """Return every certificate issued, revoked and expired ones too, in the order of issue.

        Those that expired more than a month before the last one was issued are left out.

        Raises:
            NotFoundError: there is no authority in the directory.
            IntegrityError: the index is damaged.
            StorageError: the index cannot be read.
        """
        self._existing_directory()
        return self._vault.read_index().records

    def list_authorities(self) -> tuple[AuthorityRecord, ...]:
        """Return the trusted roots and their issuers, the newest first.

        Raises:
            NotFoundError, IntegrityError, StorageError: as for ``list_issued``.
        """
        self._existing_directory()
        return self._vault.read_index().authorities

    def _existing_directory(self) -> Path:
        self._vault.verify_exists()
        return self._vault.directory

    def _with_new_root(
        self,
        index: IssuedIndex,
        days: int,
        root_key: TokenKey | None,
        issuer_key: TokenKey | None,
    ) -> IssuedIndex:
        _verify_new_keys(index, root_key, issuer_key)
        root = self._vault.new_root(index.federation, days, root_key)
        issuer = self._vault.new_issuer(
            root, AuthorityKind.MEMBERS, days=days, token_key=issuer_key
        )
        if index.roots:
            root = self._vault.named_by(index.roots[0], root)
        return index.with_authorities(issuer, root)

    def _signed(
        self, index: IssuedIndex, order: "_Order", public_key: MemberKey
    ) -> tuple[x509.Certificate, IssuedIndex]:
        """Return a certificate that is signed, and the index that knows it, not yet written."""
        issuer, now = index.issuers[0], self._clock.now()
        issuer_certificate = self._vault.certificate_in_force(issuer)
        record = IssuedRecord(
            serial=new_serial(),
            role=order.role,
            name=order.name,
            hosts=tuple(str(host.value) for host in order.hosts),
            not_before=float(int(now - CLOCK_SKEW_SECONDS)),
            not_after=float(int(min(now + order.days * DAY_SECONDS, issuer.not_after))),
            issuer=issuer.serial,
        )
        certificate = signing.new_member_certificate(
            record,
            order.hosts,
            public_key,
            issuer=issuer_certificate,
            issuer_key=self._vault.load_key(issuer),
        )
        return certificate, index.with_issued(record, now=now)


@dataclass(frozen=True, slots=True)
class _Order:
    """Which certificate is wanted."""

    role: Role
    name: str
    hosts: tuple[x509.DNSName | x509.IPAddress, ...]
    days: int


def _record_of(index: IssuedIndex, serial: int) -> IssuedRecord:
    record = next((each for each in index.records if each.serial == serial), None)
    if record is None:
        raise NotFoundError(
            f"certificate must have been issued by this authority, got serial {serial:x}; "
            "have a new one issued with `kumiai ca issue`"
        )
    if record.is_revoked:
        raise CertificateError(
            f"certificate must not be revoked, got serial {serial:x}, which is; if its owner may "
            "come again, have a new one issued with `kumiai ca issue`"
        )
    return record


def _chain_of(certificate: x509.Certificate, index: IssuedIndex) -> bytes:
    return pem_of(certificate) + index.issuers[0].certificate.encode()


def _verified(
    role: Role, hosts: Sequence[str], days: int
) -> tuple[x509.DNSName | x509.IPAddress, ...]:
    _verify_days("days", days, _MEMBER_DAYS_MAX)
    _verify_hosts_fit(role, hosts)
    return verify_hosts(hosts)


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


def _verify_new_keys(index: IssuedIndex, *keys: TokenKey | None) -> None:
    """Check that keys in tokens can sign, and belong to no root or issuer yet."""
    used = [certificate_of(each.certificate.encode()).public_key() for each in index.authorities]
    for key in keys:
        if key is None:
            continue
        if key.public_key() in used:
            raise ConflictError(
                f"key of a root or issuer must be its own, got {key.uri}, which is another's; "
                "make a new one in the token"
            )
        key.verify_whole()
        used.append(key.public_key())


def _verify_reason(reason: RevocationReason | str) -> RevocationReason:
    try:
        return RevocationReason(reason)
    except ValueError as error:
        raise ConfigError(
            f"reason must be one of {', '.join(RevocationReason)}, got {reason[:80]!r}"
        ) from error


def _verify_unused(index: IssuedIndex, after: IssuedIndex, now: float) -> None:
    kept = {record.serial for record in after.records}
    used = [
        record
        for record in index.records
        if record.serial not in kept and not record.is_revoked and record.not_after >= now
    ]
    if used:
        names = sorted({f"{record.role} {record.name}" for record in used})
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ConflictError(
            f"older root must not be in use, got certificates in force of {', '.join(names[:5])}"
            f"{more}; issue them anew first, or retire it with --force"
        )


def _serials_of(
    index: IssuedIndex, target: str | int, role: Role | None
) -> tuple[frozenset[int], frozenset[int]]:
    """Return what is to be revoked, and the roots that have to sign a list for it."""
    issuers = [
        each
        for each in index.authorities
        if each.serial == target and each.kind is not AuthorityKind.ROOT and role is None
    ]
    if issuers:
        return frozenset({issuers[0].serial}), frozenset({issuers[0].root})
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
    return frozenset(record.serial for record in found), frozenset()
