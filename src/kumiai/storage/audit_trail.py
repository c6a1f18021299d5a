"""How a repository records an act in the transaction that does it.

What an entry looks like is the business of those who make it; a repository only hands it on, and
only when its transaction has changed something.
"""

from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["AuditTrail", "NoTrail"]


class AuditTrail(Protocol):
    """Takes entries of the audit log."""

    async def append(self, connection: AsyncConnection, entry: Any) -> int:
        """Write the entry in the caller's transaction; return its place.

        Raises:
            StorageError: the database failed; the transaction must not commit.
        """
        ...


class NoTrail:
    """Nobody keeps a log: in tests, and in the simulation."""

    async def append(self, connection: AsyncConnection, entry: Any) -> int:
        """Do nothing."""
        return 0
