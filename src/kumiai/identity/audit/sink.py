"""How the rest of Kumiai tells the audit log what happened, without knowing where it is kept."""

from typing import Protocol

from kumiai.identity.audit.entries import Act, Actor, Detail, Outcome

__all__ = ["AuditSink"]


class AuditSink(Protocol):
    """Takes acts that are no database transaction of their own.

    What is one is recorded in that transaction instead (`kumiai.storage.AuditLog.append`), so
    that act and entry stand or fall together.
    """

    def record(
        self, act: Act, subject: str, outcome: Outcome, actor: Actor, detail: Detail
    ) -> None:
        """Take note; returns at once, and is on disk a moment later.

        Args:
            act: what was done.
            subject: to what: ``run/<id>``; empty: to nothing.
            outcome: how it ended.
            actor: by whom.
            detail: what else, small and without secrets.

        Raises:
            ValueError: an argument is larger than an entry may hold.
        """
        ...

    def record_refusal(
        self, act: Act, subject: str, actor: Actor, detail: Detail, *, caller: str = ""
    ) -> None:
        """Take note of a refusal; of those that repeat themselves some are only counted.

        Args:
            act: what was refused.
            subject: as for `record`.
            actor: whom; of a stranger what is claimed.
            detail: as for `record`.
            caller: a name for whoever is proved to have called, by which refusals are counted;
                empty: a stranger, who counts by address.
        """
        ...

    async def written(self) -> None:
        """Return once what was noted so far is on disk; after some seconds in any case."""
        ...
