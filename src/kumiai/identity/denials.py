"""Whom the federation refuses for now although its certificate is good: suspended, or removed.

A revocation list names serial numbers and travels as a file. A denial is a decision at a
coordinator, kept in SQL and seen by all replicas within seconds; who keeps it is behind a
Protocol, because this room knows no database.
"""

from enum import StrEnum
from typing import Protocol

from kumiai.identity.names import Identity

__all__ = ["Denial", "Denials", "NoDenials"]


class Denial(StrEnum):
    """Why an owner of a good certificate is refused."""

    SUSPENDED = "suspended"
    """For now; an operator may let it in again."""
    REMOVED = "removed"
    """For good; only a new enrolment lets a site of this name in."""
    REVOKED = "revoked"
    """This certificate, by its serial number; another of the same owner may be good."""


class Denials(Protocol):
    """Tells who is denied; asked at every call, so it answers from memory."""

    def is_denied(self, identity: Identity) -> Denial | None:
        """Return why the identity is refused, ``None`` if it is not."""
        ...


class NoDenials:
    """Denies nobody: for those who keep no sites."""

    def is_denied(self, identity: Identity) -> Denial | None:
        """Return ``None``."""
        return None
