"""``kumiai db``: migrate, status, check."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kumiai.core.errors import ConfigError, NotFoundError
from kumiai.node.cli.exit_codes import ExitCode
from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.output import Table, clean, emit

if TYPE_CHECKING:
    from kumiai.storage import DatabaseHealth, DatabaseManager, MigrationStep

__all__ = ["app"]

app = typer.Typer(
    help="The coordinator's database; run where its settings are.", no_args_is_help=True
)

T = TypeVar("T")


@app.command()
def migrate(
    ctx: typer.Context,
    *,
    to: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Another revision than the newest.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Go down to an older revision: what is newer is lost.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, but change nothing.")] = False,
) -> None:
    """Bring the tables to the newest revision, as a coordinator does when it starts."""
    invocation = invocation_of(ctx)

    async def work(database: "DatabaseManager") -> "list[MigrationStep]":
        planned = await database.planned_migration(to)
        if dry_run:
            return planned
        if any(step.direction == "down" for step in planned) and not yes:
            raise ConfigError(
                f"--yes must be given to go down to revision {to}, got none; what the newer "
                "revisions hold is lost: stop every coordinator and back up the database first"
            )
        return await database.migrate(to)

    steps = _run(invocation, work, may_create=not dry_run)
    verb = "would go" if dry_run else "went"
    told = [
        {
            "revision": step.revision,
            "direction": step.direction,
            "text": step.text,
            "dry_run": dry_run,
        }
        for step in steps
    ]
    rows = [(f"{verb} {step.direction}", step.revision, step.text) for step in steps]
    emit(invocation.output, told, Table((), rows, "" if steps else "nothing to do"))


@app.command()
def status(ctx: typer.Context) -> None:
    """Show how the database is; exit code 1 if its schema is not that of this version."""
    invocation = invocation_of(ctx)
    health = _run(invocation, lambda database: database.health())
    emit(invocation.output, _told(health), Table((), _rows(health)))
    if not health.is_schema_current:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def check(ctx: typer.Context) -> None:
    """Look for damage and wrong settings, reading everything; exit code 1 if one is wrong."""
    from kumiai.core.clock import SystemClock

    invocation = invocation_of(ctx)
    findings = _run(
        invocation, lambda database: database.examine(SystemClock()), is_connected=False
    )
    told = [
        {"check": each.check, "state": each.state, "text": each.text, "mend": each.mend}
        for each in findings
    ]
    rows = [
        (
            "WRONG" if each.is_wrong else each.state,
            each.check,
            clean(f"{each.text}; {each.mend}" if each.mend else each.text),
        )
        for each in findings
    ]
    emit(invocation.output, told, Table(("", "check", "found"), rows))
    if any(each.is_wrong for each in findings):
        raise typer.Exit(ExitCode.FAILED)


def _run(
    invocation: Invocation,
    work: "Callable[[DatabaseManager], Awaitable[T]]",
    *,
    may_create: bool = False,
    is_connected: bool = True,
) -> T:
    import asyncio

    from kumiai.node.assembly.database import database_file, new_database

    settings = invocation.settings
    file = database_file(settings)
    if file is not None and not may_create and not file.exists():
        # Connecting would create it.
        raise NotFoundError(
            f"database must exist, got no file {file}; a coordinator creates it when it starts, "
            "or `kumiai db migrate`"
        )

    async def connected() -> T:
        database = new_database(settings)
        try:
            if is_connected:
                await database.connect()
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(connected())


def _told(health: "DatabaseHealth") -> dict[str, Any]:
    return {
        "dialect": health.dialect,
        "server_version": health.server_version,
        "address": health.address,
        "latency_seconds": health.latency_seconds,
        "is_read_only": health.is_read_only,
        "journal_mode": health.journal_mode,
        "schema_revision": health.schema_revision,
        "schema_head": health.schema_head,
        "is_schema_current": health.is_schema_current,
        "pool_size": health.pool_size,
    }


def _rows(health: "DatabaseHealth") -> list[tuple[str, str]]:
    if health.is_schema_current:
        schema = f"{health.schema_revision}, that of this version"
    else:
        schema = f"{health.schema_revision or 'none'}, this version needs {health.schema_head}"
    rows = [
        ("database", f"{health.dialect} {health.server_version}"),
        ("answers in", f"{1000 * health.latency_seconds:.1f} ms"),
        ("takes writes", "no" if health.is_read_only else "yes"),
        ("schema", schema),
        ("connections", f"up to {health.pool_size}"),
    ]
    if health.address is not None:
        rows.insert(1, ("address", health.address))
    if health.journal_mode is not None:
        rows.insert(1, ("journal", health.journal_mode))
    return rows
