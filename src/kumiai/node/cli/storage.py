"""``kumiai storage``: gc, check, usage."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kumiai.core.errors import ConfigError, IntegrityError, NotFoundError
from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.output import Table, clean, emit, shown_duration, shown_size

if TYPE_CHECKING:
    from kumiai.storage import BlobSweeper, RunUsage

__all__ = ["app", "seconds_of"]

app = typer.Typer(
    help="The coordinator's models and updates; run where its settings are.", no_args_is_help=True
)

T = TypeVar("T")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command()
def gc(
    ctx: typer.Context,
    *,
    grace: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Leave what is younger; default: storage.grace_hours."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, but delete nothing.")] = False,
) -> None:
    """Delete blobs that no run needs any more; runs may go on meanwhile."""
    invocation = invocation_of(ctx)
    grace_seconds = _grace(invocation, grace)

    async def work(sweeper: "BlobSweeper") -> Any:
        return await sweeper.sweep(grace_seconds=grace_seconds, is_dry_run=dry_run)

    report = _run(invocation, work)
    told = {
        "dry_run": dry_run,
        "grace_seconds": grace_seconds,
        "seen": report.seen,
        "count": report.count,
        "size_bytes": report.size_bytes,
        "by_root": dict(sorted(report.by_root.items())),
        "examples": [
            {
                "namespace": each.namespace,
                "digest": each.digest,
                "kind": each.kind,
                "size_bytes": each.size_bytes,
                "age_seconds": each.age_seconds,
            }
            for each in report.examples
        ],
    }
    rows = [
        (each.kind, f"{each.namespace}/{each.digest}", shown_size(each.size_bytes),
         shown_duration(each.age_seconds))
        for each in report.examples
    ]  # fmt: skip
    more = report.count - len(report.examples)
    note = (
        f"{'would delete' if dry_run else 'deleted'} {report.count} of {report.seen} blobs and "
        f"uploads, {shown_size(report.size_bytes)}" + (f"; {more} not shown" if more > 0 else "")
    )
    emit(invocation.output, told, Table(("kind", "blob", "size", "age"), rows, note=note))


@app.command()
def check(
    ctx: typer.Context,
    *,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read all bytes and compare their digests.")
    ] = False,
) -> None:
    """See that every blob that a run needs is there; exit code 7 if one is not."""
    invocation = invocation_of(ctx)

    async def work(sweeper: "BlobSweeper") -> Any:
        return await sweeper.check(reads_data=read_data)

    report = _run(invocation, work)
    told = {
        "read_data": read_data,
        "count": report.count,
        "size_bytes": report.size_bytes,
        "problem_count": report.problem_count,
        "problems": [
            {
                "run_id": each.blob.run_id,
                "what": each.blob.what,
                "namespace": each.blob.namespace,
                "digest": each.blob.digest,
                "problem": each.problem,
            }
            for each in report.problems
        ],
    }
    rows = [
        (each.blob.run_id, each.blob.what, f"{each.blob.namespace}/{each.blob.digest}",
         each.problem)
        for each in report.problems
    ]  # fmt: skip
    note = (
        f"{report.count} needed blobs, {shown_size(report.size_bytes)}: "
        + ("all there" if not report.problem_count else f"{report.problem_count} not as they must")
        + ("" if not read_data or report.problem_count else ", every byte right")
    )
    emit(invocation.output, told, Table(("run", "what", "blob", "problem"), rows, note=note))
    if report.problems:
        raise IntegrityError(f"every needed blob must be there and whole, got {report.problems[0]}")


@app.command()
def usage(
    ctx: typer.Context,
) -> None:
    """Show what each run takes, and what `gc` would give back."""
    invocation = invocation_of(ctx)
    grace_seconds = _grace(invocation, None)

    async def work(sweeper: "BlobSweeper") -> "list[RunUsage]":
        return await sweeper.usage(grace_seconds=grace_seconds)

    runs = _run(invocation, work)
    size_bytes = sum(each.size_bytes.total() for each in runs)
    reclaimable_bytes = sum(each.reclaimable_bytes for each in runs)
    count = sum(each.counts.total() for each in runs)
    told = {
        "runs": [
            {
                "run_id": each.run_id,
                "is_known": each.is_known,
                "counts": dict(sorted(each.counts.items())),
                "size_bytes": dict(sorted(each.size_bytes.items())),
                "reclaimable_bytes": each.reclaimable_bytes,
            }
            for each in runs
        ],
        "count": count,
        "size_bytes": size_bytes,
        "reclaimable_bytes": reclaimable_bytes,
    }
    names = ("models", "states", "updates", "uploads")
    rows = [
        (
            clean(each.run_id) + ("" if each.is_known else " (unknown)"),
            *(
                f"{each.counts[name]}: {shown_size(each.size_bytes[name])}"
                if each.counts[name]
                else "-"
                for name in names
            ),
            shown_size(each.reclaimable_bytes),
        )
        for each in runs
    ]
    note = (
        f"{count} blobs and uploads, {shown_size(size_bytes)}; "
        f"{shown_size(reclaimable_bytes)} reclaimable by `kumiai storage gc`"
    )
    emit(invocation.output, told, Table(("run", *names, "reclaimable"), rows, note=note))


def seconds_of(text: str) -> float:
    """Return a duration such as ``90m``, ``24h`` or ``2d`` in seconds.

    Raises:
        ConfigError: it is no such thing.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"duration must be a number and s, m, h or d, such as 24h, got {text[:40]!r}"
        )
    return float(found[1]) * _SECONDS[found[2]]


def _grace(invocation: Invocation, text: str | None) -> float:
    from kumiai.storage import GRACE_SECONDS_MIN

    if text is None:
        return invocation.settings.storage.grace_hours * 3600
    seconds = seconds_of(text)
    if seconds < GRACE_SECONDS_MIN:
        raise ConfigError(
            f"--grace must be at least {GRACE_SECONDS_MIN / 60:.0f}m, got {text!r}: what is put "
            "now needs that time to be written down in the database"
        )
    return seconds


def _run(invocation: Invocation, work: "Callable[[BlobSweeper], Awaitable[T]]") -> T:
    import asyncio
    import tempfile

    from kumiai.node.assembly.blobs import new_blob_store
    from kumiai.node.assembly.database import database_file, new_database
    from kumiai.storage import BlobSweeper

    settings = invocation.settings
    file = database_file(settings)
    if file is not None and not file.exists():
        # Connecting would create it, and of an empty one every blob is garbage.
        raise NotFoundError(
            f"database must exist, got no file {file}; run this where the coordinator's settings "
            "are, or name them with --config"
        )

    async def connected(cache_folder: Path) -> T:
        database = new_database(settings)
        blobs = new_blob_store(settings, cache_folder=cache_folder)
        try:
            await database.connect()
            await database.verify_schema()
            await blobs.check()
            return await work(BlobSweeper(database, blobs))
        finally:
            await blobs.close()
            await database.close()

    with tempfile.TemporaryDirectory(prefix="kumiai-") as folder:
        return asyncio.run(connected(Path(folder)))
