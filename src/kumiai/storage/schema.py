"""The version of the database's schema: bringing it up, and refusing a foreign one.

The revisions stand in ``migrations/versions``. Everything here runs on a connection that is
already in a transaction, so a migration that fails leaves the schema as it was.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from kumiai.core.errors import SchemaError

__all__ = ["head", "upgrade", "verify"]

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any fixed number does; it must stay the same in all versions.
_ADVISORY_LOCK = 0x6B756D696169


def head() -> str:
    """Return the revision that this version of Kumiai works with."""
    revision = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    return "" if revision is None else revision


def upgrade(connection: Connection) -> None:
    """Bring the schema to `head`; whoever comes second waits and then finds nothing to do.

    Args:
        connection: in a transaction, which on SQLite holds the write lock.

    Raises:
        SchemaError: the schema is newer than this version.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
    _verify_known(_revision_of(connection))
    config = Config()
    # Alembic reads "%" as the beginning of a variable.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def verify(connection: Connection) -> None:
    """Check that the schema is at `head`.

    Raises:
        SchemaError: it is older or newer.
    """
    found = _revision_of(connection)
    _verify_known(found)
    if found != head():
        raise SchemaError(
            f"schema of the database must be revision {head()}, got {found or 'none'}; "
            "migrate it first"
        )


def _revision_of(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _verify_known(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaError(
            f"schema of the database must be revision {head()} or older, got {revision}; "
            "a newer version of Kumiai has migrated it: upgrade this one"
        )
