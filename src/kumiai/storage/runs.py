"""Runs, their rounds and all that belongs to them, as one repository."""

from kumiai.storage.run_leading import RunLeading

__all__ = ["RunRepository"]


class RunRepository(RunLeading):
    """Everything the database knows about runs, and the only way to change it.

    Three parts in one class, each a module: what any replica may ask (`RunQueries`), what any
    replica may write (`RunReports`), and what only a run's leader may (`RunLeading`).

    Args:
        database: connected, its schema at this version.
        trail: takes the entries of the audit log that some calls are given.

    Every method raises ``StorageError`` when the database fails.
    """
