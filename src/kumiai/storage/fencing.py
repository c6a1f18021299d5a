"""The fence: what a leader writes, it writes in a transaction that begins by proving its lease.

The run's row is touched under the lease's epoch and leader, which locks it; no row means that
another leads.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, and_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kumiai.core.errors import ConflictError, FencedError
from kumiai.storage.records import Lease
from kumiai.storage.rows import table_of
from kumiai.storage.tables import TrainingSession, clock_sql

__all__ = ["LIVE_STATES", "fence", "fenced", "held"]

LIVE_STATES: Final = ("submitted", "running")

_RUNS = table_of(TrainingSession)


def held(lease: Lease) -> Any:
    """Return the condition that the run is led under this lease."""
    return and_(
        _RUNS.c.run_id == lease.run_id,
        _RUNS.c.epoch == lease.epoch,
        _RUNS.c.leader == lease.leader,
    )


def fenced(lease: Lease) -> FencedError:
    """Return the error of a leader whose lease is not in force."""
    return FencedError(
        f"lease of run {lease.run_id} must be of the present epoch, got epoch {lease.epoch} of "
        f"{lease.leader}; another coordinator leads the run, or it has ended"
    )


async def fence(
    connection: AsyncConnection, lease: Lease, *, states: Sequence[str] = ("running",)
) -> Row[Any]:
    """Lock the run's row under the lease; return how the run stands.

    Raises:
        FencedError: another leads.
        ConflictError: the run is in none of ``states``.
    """
    row = (
        await connection.execute(
            update(_RUNS)
            .where(held(lease))
            .values(updated_at=clock_sql())
            .returning(_RUNS.c.state, _RUNS.c.round, _RUNS.c.model_digest, _RUNS.c.name)
        )
    ).one_or_none()
    if row is None:
        raise fenced(lease)
    if row.state not in states:
        raise ConflictError(f"run {lease.run_id} must be {' or '.join(states)}, got {row.state}")
    return row
