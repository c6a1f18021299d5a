"""The version of the database's schema: moving it up or down, and refusing a foreign one.

The revisions stand in ``migrations/versions``. Everything here runs on a connection that is
already in a transaction, so a migration that fails leaves the schema as it was.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from kumiai.core.errors import ConfigError, SchemaError

__all__ = ["MigrationStep", "head", "migrate", "plan", "revision_of", "revisions", "verify"]

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any fixed number does; it must stay the same in all versions.
_ADVISORY_LOCK = 0x6B756D696169


@dataclass(frozen=True, slots=True)
class MigrationStep:
    """One revision that is put on or taken off.

    Attributes:
        revision: its number.
        direction: "up" brings its tables and columns, "down" takes them and what is in them.
        text: what the revision is about.
    """

    revision: str
    direction: Literal["up", "down"]
    text: str


def head() -> str:
    """Return the revision that this version of Kumiai works with."""
    return revisions()[-1]


def revisions() -> list[str]:
    """Return the revisions that this version knows, the oldest first."""
    return list(_known())


@functools.cache
def _known() -> Mapping[str, str]:
    """Return what each revision is about, the oldest first; read once: Alembic runs every file."""
    scripts = [*ScriptDirectory(str(_MIGRATIONS)).walk_revisions()][::-1]
    return {script.revision: (script.doc or "").rstrip(".") for script in scripts}


def migrate(connection: Connection, to: str | None = None) -> list[MigrationStep]:
    """Bring the schema to a revision; whoever comes second waits and finds nothing to do.

    Args:
        connection: in a transaction, which on SQLite holds the write lock; foreign keys are not
            enforced in it, and are checked at the end.
        to: the revision; ``None`` for `head`.

    Returns:
        What was done, in order.

    Raises:
        ConfigError: there is no revision ``to``.
        SchemaError: the schema is newer than this version, or rows have lost what they refer to.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
    steps = plan(connection, to)
    if not steps:
        return []
    config = Config()
    # Alembic reads "%" as the beginning of a variable.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    move = command.upgrade if steps[0].direction == "up" else command.downgrade
    move(config, to or head())
    _verify_references(connection)
    return steps


def plan(connection: Connection, to: str | None = None) -> list[MigrationStep]:
    """Return what `migrate` would do; nothing changes.

    Raises:
        ConfigError: there is no revision ``to``.
        SchemaError: the schema is newer than this version.
    """
    known = revisions()
    if to is not None and to not in known:
        raise ConfigError(f"revision must be one of {', '.join(known)}, got {to[:40]!r}")
    found = revision_of(connection)
    _verify_known(found)
    present = known.index(found) if found is not None else -1
    wanted = known.index(to or known[-1])
    if wanted >= present:
        return _steps(known[present + 1 : wanted + 1], "up")
    return _steps(known[wanted + 1 : present + 1][::-1], "down")


def verify(connection: Connection) -> None:
    """Check that the schema is at `head`.

    Raises:
        SchemaError: it is older or newer.
    """
    found = revision_of(connection)
    _verify_known(found)
    if found != head():
        raise SchemaError(
            f"schema of the database must be revision {head()}, got {found or 'none'}; "
            "migrate it first, with `kumiai db migrate`"
        )


def revision_of(connection: Connection) -> str | None:
    """Return the schema's revision, ``None`` for a database without tables of ours.

    Raises:
        SchemaError: the table that holds it is damaged.
    """
    try:
        return MigrationContext.configure(connection).get_current_revision()
    except CommandError as error:
        raise SchemaError(
            "schema of the database must have one revision, got several in alembic_version; "
            "restore the database from its backup"
        ) from error


def _steps(numbers: Sequence[str], direction: Literal["up", "down"]) -> list[MigrationStep]:
    return [MigrationStep(number, direction, _known()[number]) for number in numbers]


def _verify_known(revision: str | None) -> None:
    if revision is not None and revision not in revisions():
        raise SchemaError(
            f"schema of the database must be revision {head()} or older, got {revision[:40]}; "
            "a newer version of Kumiai has migrated it: upgrade this one"
        )


def _verify_references(connection: Connection) -> None:
    # PostgreSQL has checked them all along.
    if connection.dialect.name != "sqlite":
        return
    lost = connection.execute(text("PRAGMA foreign_key_check")).first()
    if lost is not None:
        raise SchemaError(
            f"rows of {lost[0]} must refer to rows of {lost[2]} that exist, got one that does not; "
            "the schema is as it was before: find the row with `kumiai db check`"
        )
