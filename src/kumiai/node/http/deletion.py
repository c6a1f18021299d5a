"""Deleting a run over HTTP: its rows at once, its blobs as far as nobody can rely on them.

The rows go first, in one transaction; from then on nothing reaches the blobs. Those that are old
are swept away here. What is young may be a new upload under the same id, so it is left for the
sweep in the background, which also ends what is cut off here.
"""

import structlog
from fastapi import APIRouter

from kumiai.core.errors import StorageError
from kumiai.identity.audit import Act, NewEntry
from kumiai.node.auditing.actors import actor_of, subject_of
from kumiai.node.http.access import Caller, GuardedRouter
from kumiai.node.http.dependencies import Parts
from kumiai.node.http.views import DeletedRunView
from kumiai.storage import GRACE_SECONDS_MIN, BlobSweeper

__all__ = ["new_router"]


def new_router() -> APIRouter:
    """Return the route."""
    router = GuardedRouter("runs")
    router.delete("/api/v1/runs/{run_id}")(delete)
    return router


async def delete(run_id: str, parts: Parts, caller: Caller) -> DeletedRunView:
    """Delete a run that has ended, with its rounds, models and events; it takes the whole id."""
    detail = {"models": len(await parts.runs.models(run_id))}
    entry = NewEntry(Act.RUN_DELETED, actor_of(caller), subject_of("run", run_id), detail=detail)
    gone = await parts.history.delete(run_id, entry=entry)
    log = structlog.get_logger("kumiai.http").bind(run=gone.run_id, by=caller.name)
    log.info("run deleted")
    sweeper = BlobSweeper(parts.database, parts.blobs)
    try:
        report = await sweeper.sweep(grace_seconds=GRACE_SECONDS_MIN, run_id=gone.run_id)
    except StorageError as error:
        raise StorageError(
            f"run {gone.run_id} is deleted, but not all of its blobs; the next sweep deletes "
            f"them: {error}"
        ) from error
    return DeletedRunView(
        run_id=gone.run_id,
        count=report.count,
        size_bytes=report.size_bytes,
        left_count=report.seen - report.count,
    )
