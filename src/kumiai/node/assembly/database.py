"""How the database of a coordinator is put together from its settings."""

from pathlib import Path

from kumiai.core.errors import ConfigError
from kumiai.node.settings import Settings
from kumiai.storage import DatabaseManager

__all__ = ["database_file", "database_url", "new_database"]

_IDLE_SECONDS = 3.0
_IDLE_SHARE = 0.6


def new_database(settings: Settings) -> DatabaseManager:
    """Return the database, not connected yet.

    Args:
        settings: with absolute paths.

    Raises:
        ConfigError: the URL is of no use, or a transaction may stand idle for longer than a lease
            lasts: a leader that is halted in one would keep its successor from the rows.
    """
    storage, lease_seconds = settings.storage, settings.coordinator.lease_seconds
    idle_seconds = storage.idle_in_transaction_timeout_seconds
    if idle_seconds is None:
        idle_seconds = min(_IDLE_SECONDS, _IDLE_SHARE * lease_seconds)
    if idle_seconds >= lease_seconds:
        raise ConfigError(
            "storage.idle_in_transaction_timeout_seconds must be below coordinator.lease_seconds "
            f"({lease_seconds:g}), got {idle_seconds:g}; leave it out, or make the lease longer"
        )
    return DatabaseManager(
        database_url(settings),
        pool_size=storage.pool_size,
        statement_timeout_seconds=storage.statement_timeout_seconds,
        lock_timeout_seconds=storage.lock_timeout_seconds,
        idle_in_transaction_timeout_seconds=idle_seconds,
    )


def database_url(settings: Settings) -> str:
    """Return the URL that is set, or that of the file in the data directory."""
    if settings.storage.database is not None:
        return settings.storage.database.get_secret_value()
    return f"sqlite:///{settings.coordinator.data_dir.resolve() / 'kumiai.db'}"


def database_file(settings: Settings) -> Path | None:
    """Return the file of an SQLite database, ``None`` for PostgreSQL."""
    url = database_url(settings)
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
