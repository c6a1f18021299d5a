"""Who has to hear of a change: the port through which repositories tell what they have written.

A note is written in the transaction of the change, so it is neither lost when the process dies
right after the commit, nor told when the transaction is rolled back.
"""

from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["CLIENTS", "ChangeNotes", "NoNotes", "subject_of_run"]

CLIENTS = "clients"
"""The subject of all clients together."""


def subject_of_run(run_id: str) -> str:
    """Return the subject of a run with its rounds and models."""
    return f"run:{run_id}"


class ChangeNotes(Protocol):
    """Hears of changes."""

    async def note(self, connection: AsyncConnection, subject: str) -> Any:
        """Write the note in the caller's transaction; return what `heard` takes.

        Raises:
            StorageError: the database failed, or there are too many notes already.
        """
        ...

    async def heard(self, note: Any) -> None:
        """Return once everybody has heard, or after a short while; call it after the commit."""
        ...


class NoNotes:
    """Nobody has to hear."""

    async def note(self, connection: AsyncConnection, subject: str) -> None:
        """Do nothing."""

    async def heard(self, note: None) -> None:
        """Return at once."""
