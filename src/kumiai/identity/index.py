"""What an authority has issued and revoked, as one value that is written to one file.

The index is the authority's memory: a certificate enters it before it is handed out, so that
none exists that cannot be revoked; and whom the federation trusts follows from it, so that one
write changes roots and issuers at once. Everything here is pure; ``vault.py`` reads and writes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self, TypeVar

from kumiai.core.errors import IntegrityError
from kumiai.identity.names import Role

__all__ = [
    "AuthorityKind",
    "AuthorityRecord",
    "IssuedIndex",
    "IssuedRecord",
    "Revocation",
    "RevocationReason",
]

_VERSION: Final = 2
_KEPT_SECONDS: Final = 30 * 86_400.0
"""How long an expired certificate stays in the index, for whoever asks what it was."""

T = TypeVar("T")
R = TypeVar("R", "AuthorityRecord", "IssuedRecord")


class RevocationReason(StrEnum):
    """Why a certificate was revoked.

    The reasons of RFC 5280 section 5.3.1 that end a certificate for good.
    """

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


class AuthorityKind(StrEnum):
    """What a certificate that signs others is for."""

    ROOT = "root"
    """Trusted by everybody; signs issuers, and its key may lie offline."""
    MEMBERS = "members"
    """Signs members of any role, here."""
    SITES = "sites"
    """Signs sites' clients at a coordinator, which has its key."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A certificate that is not good any more.

    Attributes:
        serial: its serial number.
        at: since when, seconds since 1970-01-01 UTC.
        reason: why.
    """

    serial: int
    at: float
    reason: RevocationReason


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """A root or an issuer.

    Attributes:
        serial: its serial number, > 0.
        kind: what it is for.
        root: the serial number of the root that signed it.
        certificate: PEM.
        not_after: when its life ends, seconds since 1970-01-01 UTC.
        revoked_at: when it was revoked, same; ``None`` if it was not.
        reason: why it was revoked; ``None`` if it was not.
        list_pem: a root's last revocation list, PEM; empty before the first.
        succession: by which the root before it names this one, PEM; empty: it does not.
    """

    serial: int
    kind: AuthorityKind
    root: int
    certificate: str
    not_after: float
    revoked_at: float | None = None
    reason: RevocationReason | None = None
    list_pem: str = ""
    succession: str = ""

    @property
    def revocation(self) -> Revocation | None:
        """Its revocation, if it is revoked."""
        return _revocation_of(self)


@dataclass(frozen=True, slots=True)
class IssuedRecord:
    """One certificate of a member.

    Attributes:
        serial: its serial number, > 0.
        role: what its owner is.
        name: its owner's name.
        hosts: DNS names and IP addresses it answers for; empty unless a coordinator's.
        not_before: when its life begins, seconds since 1970-01-01 UTC.
        not_after: when its life ends, same.
        revoked_at: when it was revoked, same; ``None`` if it was not.
        reason: why it was revoked; ``None`` if it was not.
        issuer: the serial number of the issuer that signed it.
    """

    serial: int
    role: Role
    name: str
    hosts: tuple[str, ...]
    not_before: float
    not_after: float
    revoked_at: float | None = None
    reason: RevocationReason | None = None
    issuer: int = 0

    @property
    def is_revoked(self) -> bool:
        """Whether the certificate was revoked."""
        return self.revoked_at is not None

    @property
    def revocation(self) -> Revocation | None:
        """Its revocation, if it is revoked."""
        return _revocation_of(self)


@dataclass(frozen=True, slots=True)
class IssuedIndex:
    """Every certificate of one federation, and the state of its revocation lists.

    Attributes:
        federation: the federation's name.
        list_number: the number of the last revocation list, 0 before the first.
        list_updated_at: that list's ``thisUpdate``, whole seconds since 1970-01-01 UTC.
        authorities: the trusted roots and their issuers, the newest first.
        records: members' certificates in the order of issue.
    """

    federation: str
    list_number: int = 0
    list_updated_at: int = 0
    authorities: tuple[AuthorityRecord, ...] = ()
    records: tuple[IssuedRecord, ...] = ()

    @property
    def roots(self) -> tuple[AuthorityRecord, ...]:
        """The trusted roots, the newest first."""
        return self._of_kind(AuthorityKind.ROOT)

    @property
    def issuers(self) -> tuple[AuthorityRecord, ...]:
        """The issuers of members whose keys lie here, the newest first."""
        return self._of_kind(AuthorityKind.MEMBERS)

    @property
    def trust_bundle(self) -> bytes:
        """The roots' certificates, PEM, the newest first: what ``ca.crt`` holds."""
        return "".join(root.certificate for root in self.roots).encode()

    @property
    def successions(self) -> bytes:
        """By what the trusted roots were named by those before them, PEM."""
        return "".join(root.succession for root in self.roots).encode()

    def with_authorities(self, *records: AuthorityRecord) -> Self:
        """Return the index with these before the others."""
        return replace(self, authorities=(*records, *self.authorities))

    def with_newest_root_only(self) -> Self:
        """Return the index without the older roots and what they have signed."""
        root = self.roots[0].serial
        kept = tuple(each for each in self.authorities if each.root == root)
        issuers = {each.serial for each in kept}
        records = tuple(record for record in self.records if record.issuer in issuers)
        return replace(self, authorities=kept, records=records)

    def with_root_list(self, root: int, list_pem: str) -> Self:
        """Return the index with a root's newest revocation list."""
        authorities = tuple(
            replace(each, list_pem=list_pem) if each.serial == root else each
            for each in self.authorities
        )
        return replace(self, authorities=authorities)

    def with_issued(self, record: IssuedRecord, *, now: float) -> Self:
        """Return the index with one record more, and without those that expired long ago."""
        kept = (each for each in self.records if each.not_after + _KEPT_SECONDS >= now)
        return replace(self, records=(*kept, record))

    def revoked_of(self, issuer: int) -> tuple[Revocation, ...]:
        """Return what was revoked of a root's issuers, or of an issuer's members."""
        issuers = [each.revocation for each in self.authorities if each.root == issuer]
        members = [each.revocation for each in self.records if each.issuer == issuer]
        return tuple(each for each in (*issuers, *members) if each is not None)

    def _of_kind(self, kind: AuthorityKind) -> tuple[AuthorityRecord, ...]:
        return tuple(each for each in self.authorities if each.kind is kind)

    def with_revoked(self, serials: frozenset[int], reason: RevocationReason, at: float) -> Self:
        """Return the index with these certificates revoked.

        One that is revoked already keeps its first date and reason.
        """

        def after(record: R) -> R:
            if record.serial not in serials or record.revoked_at is not None:
                return record
            return replace(record, revoked_at=at, reason=reason)

        return replace(
            self,
            authorities=tuple(after(each) for each in self.authorities),
            records=tuple(after(each) for each in self.records),
        )

    def with_list(self, updated_at: int) -> Self:
        """Return the index after one more revocation list."""
        return replace(self, list_number=self.list_number + 1, list_updated_at=updated_at)

    def to_bytes(self) -> bytes:
        """Return the index as JSON."""
        fields = {
            "kumiai_issued": _VERSION,
            "federation": self.federation,
            "list_number": self.list_number,
            "list_updated_at": self.list_updated_at,
            "authorities": [_authority_fields_of(record) for record in self.authorities],
            "certificates": [_fields_of(record) for record in self.records],
        }
        return (json.dumps(fields, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Return the index that ``to_bytes`` wrote.

        Raises:
            IntegrityError: the bytes are damaged or of another version.
        """
        try:
            return cls._from_fields(json.loads(content))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise IntegrityError(
                f"index of issued certificates must be one of version {_VERSION}, "
                f"got {len(content)} bytes that are not; restore it from a backup, or, if an older "
                "version of Kumiai wrote it, make a new authority with `kumiai ca init`"
            ) from error

    @classmethod
    def _from_fields(cls, fields: Any) -> Self:
        if _taken(fields, "kumiai_issued", int) != _VERSION:
            raise ValueError("another version")
        authorities = _taken(fields, "authorities", list)
        return cls(
            federation=_taken(fields, "federation", str),
            list_number=_taken(fields, "list_number", int),
            list_updated_at=_taken(fields, "list_updated_at", int),
            authorities=tuple(_authority_of(item) for item in authorities),
            records=tuple(_record_of(item) for item in _taken(fields, "certificates", list)),
        )


def _revocation_of(record: AuthorityRecord | IssuedRecord) -> Revocation | None:
    if record.revoked_at is None or record.reason is None:
        return None
    return Revocation(record.serial, record.revoked_at, record.reason)


def _authority_fields_of(record: AuthorityRecord) -> dict[str, object]:
    return {
        "serial": f"{record.serial:x}",
        "kind": record.kind.value,
        "root": f"{record.root:x}",
        "certificate": record.certificate,
        "not_after": record.not_after,
        "revoked_at": record.revoked_at,
        "reason": None if record.reason is None else record.reason.value,
        "list_pem": record.list_pem,
        "succession": record.succession,
    }


def _authority_of(fields: Any) -> AuthorityRecord:
    revoked_at, reason = _revoked_in(fields)
    return AuthorityRecord(
        serial=_serial_in(fields, "serial"),
        kind=AuthorityKind(_taken(fields, "kind", str)),
        root=_serial_in(fields, "root"),
        certificate=_taken(fields, "certificate", str),
        not_after=_number_of(fields["not_after"]),
        revoked_at=revoked_at,
        reason=reason,
        list_pem=_taken(fields, "list_pem", str),
        # Those that were written before there were any have none.
        succession=_taken({"succession": "", **fields}, "succession", str),
    )


def _fields_of(record: IssuedRecord) -> dict[str, object]:
    return {
        "serial": f"{record.serial:x}",
        "role": record.role.value,
        "name": record.name,
        "hosts": list(record.hosts),
        "not_before": record.not_before,
        "not_after": record.not_after,
        "revoked_at": record.revoked_at,
        "reason": None if record.reason is None else record.reason.value,
        "issuer": f"{record.issuer:x}",
    }


def _record_of(fields: Any) -> IssuedRecord:
    revoked_at, reason = _revoked_in(fields)
    return IssuedRecord(
        serial=_serial_in(fields, "serial"),
        role=Role(_taken(fields, "role", str)),
        name=_taken(fields, "name", str),
        hosts=tuple(str(host) for host in _taken(fields, "hosts", list)),
        not_before=_number_of(fields["not_before"]),
        not_after=_number_of(fields["not_after"]),
        revoked_at=revoked_at,
        reason=reason,
        issuer=_serial_in(fields, "issuer"),
    )


def _revoked_in(fields: Any) -> tuple[float | None, RevocationReason | None]:
    if (fields["revoked_at"] is None) != (fields["reason"] is None):
        raise ValueError("half revoked")
    return (
        _optional(_number_of, fields["revoked_at"]),
        _optional(RevocationReason, fields["reason"]),
    )


def _serial_in(fields: Any, name: str) -> int:
    # Hexadecimal, as openssl prints it; JSON readers would round a number of this size.
    return int(_taken(fields, name, str), 16)


def _taken(fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = fields[name]
    if type(value) is not kind:
        raise TypeError(name)
    return value


def _number_of(value: object) -> float:
    if type(value) is not float and type(value) is not int:
        raise TypeError("not a number")
    return float(value)


def _optional(convert: Callable[[Any], T], value: object) -> T | None:
    return None if value is None else convert(value)
