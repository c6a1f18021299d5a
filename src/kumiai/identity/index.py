"""What an authority has issued and revoked, as one value that is written to one file.

The index is the authority's memory: a certificate enters it before it is handed out, so that
none exists that cannot be revoked. Everything here is pure; ``authority.py`` reads and writes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self, TypeVar

from kumiai.core.errors import IntegrityError
from kumiai.identity.names import Role

__all__ = ["IssuedIndex", "IssuedRecord", "RevocationReason"]

_VERSION: Final = 1

T = TypeVar("T")


class RevocationReason(StrEnum):
    """Why a certificate was revoked.

    The reasons of RFC 5280 section 5.3.1 that end a member's certificate for good.
    """

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


@dataclass(frozen=True, slots=True)
class IssuedRecord:
    """One certificate that the authority has signed.

    Attributes:
        serial: its serial number, > 0.
        role: what its owner is.
        name: its owner's name.
        hosts: DNS names and IP addresses it answers for; empty unless a coordinator's.
        not_before: when its life begins, seconds since 1970-01-01 UTC.
        not_after: when its life ends, same.
        revoked_at: when it was revoked, same; ``None`` if it was not.
        reason: why it was revoked; ``None`` if it was not.
    """

    serial: int
    role: Role
    name: str
    hosts: tuple[str, ...]
    not_before: float
    not_after: float
    revoked_at: float | None = None
    reason: RevocationReason | None = None

    @property
    def is_revoked(self) -> bool:
        """Whether the certificate was revoked."""
        return self.revoked_at is not None


@dataclass(frozen=True, slots=True)
class IssuedIndex:
    """Every certificate of one authority, and the state of its revocation list.

    Attributes:
        federation: the federation's name.
        list_number: the number of the last revocation list, 0 before the first.
        list_updated_at: that list's ``thisUpdate``, whole seconds since 1970-01-01 UTC.
        records: in the order of issue.
    """

    federation: str
    list_number: int = 0
    list_updated_at: int = 0
    records: tuple[IssuedRecord, ...] = ()

    def with_issued(self, record: IssuedRecord) -> Self:
        """Return the index with one record more."""
        return replace(self, records=(*self.records, record))

    def with_revoked(self, serials: frozenset[int], reason: RevocationReason, at: float) -> Self:
        """Return the index with these certificates revoked.

        One that is revoked already keeps its first date and reason.
        """
        records = tuple(
            replace(record, revoked_at=at, reason=reason)
            if record.serial in serials and not record.is_revoked
            else record
            for record in self.records
        )
        return replace(self, records=records)

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
                f"got {len(content)} bytes that are not; restore it from a backup"
            ) from error

    @classmethod
    def _from_fields(cls, fields: Any) -> Self:
        if _taken(fields, "kumiai_issued", int) != _VERSION:
            raise ValueError("another version")
        return cls(
            federation=_taken(fields, "federation", str),
            list_number=_taken(fields, "list_number", int),
            list_updated_at=_taken(fields, "list_updated_at", int),
            records=tuple(_record_of(item) for item in _taken(fields, "certificates", list)),
        )


def _fields_of(record: IssuedRecord) -> dict[str, object]:
    return {
        # Hexadecimal, as openssl prints it; JSON readers would round a number of this size.
        "serial": f"{record.serial:x}",
        "role": record.role.value,
        "name": record.name,
        "hosts": list(record.hosts),
        "not_before": record.not_before,
        "not_after": record.not_after,
        "revoked_at": record.revoked_at,
        "reason": None if record.reason is None else record.reason.value,
    }


def _record_of(fields: Any) -> IssuedRecord:
    if (fields["revoked_at"] is None) != (fields["reason"] is None):
        raise ValueError("half revoked")
    return IssuedRecord(
        serial=int(_taken(fields, "serial", str), 16),
        role=Role(_taken(fields, "role", str)),
        name=_taken(fields, "name", str),
        hosts=tuple(str(host) for host in _taken(fields, "hosts", list)),
        not_before=_number_of(fields["not_before"]),
        not_after=_number_of(fields["not_after"]),
        revoked_at=_optional(_number_of, fields["revoked_at"]),
        reason=_optional(RevocationReason, fields["reason"]),
    )


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
