"""Updates that are made ahead of their round, as job, coordinator and clients count them alike."""

import math
from collections.abc import Mapping, Sequence

from kumiai.node.job import JobSpec
from kumiai.secagg import FRESH_SCALE, BufferPolicy
from kumiai.storage import RunRepository, UpdateRecord

__all__ = [
    "ahead_seconds",
    "damping_of",
    "others_seconds",
    "policy_of",
    "scales_of",
    "versions_kept",
]


def policy_of(job: JobSpec) -> BufferPolicy | None:
    """Return what older updates of a run count; ``None``: its rounds are synchronous."""
    if job.asynchronous is None:
        return None
    return BufferPolicy(
        staleness_max=job.asynchronous.staleness_max,
        staleness_exponent=job.asynchronous.staleness_exponent,
    )


def ahead_seconds(job: JobSpec) -> float:
    """Return how long a client may train ahead of a round."""
    asynchronous = job.asynchronous
    return job.cohort.deadline_seconds if asynchronous is None else asynchronous.deadline_seconds


def versions_kept(job: JobSpec) -> int:
    """Return how many of the newest versions must keep their bytes while the run goes on."""
    oldest = 0 if job.asynchronous is None else job.asynchronous.staleness_max + 1
    return max(job.run.keep_versions, oldest)


def others_seconds(job: JobSpec) -> float:
    """Return how long an open round that lacks clients waits for others before it gives up.

    Who could take their place in an asynchronous run may train for as long as it likes.
    """
    cohort = job.cohort
    if job.asynchronous is None:
        return cohort.deadline_seconds
    return max(cohort.deadline_seconds, cohort.patience_seconds)


async def scales_of(
    runs: RunRepository, job: JobSpec, run_id: str, round_number: int
) -> dict[str, int]:
    """Return what the members of a round count, by client; nothing in a synchronous run.

    Raises:
        StorageError: the database failed.
    """
    policy, version = policy_of(job), round_number - 1
    if policy is None:
        return {}
    bases = await runs.bases(run_id, round_number, oldest=policy.oldest(version))
    return {client: policy.scale(version - base) for client, base in bases.items()}


def damping_of(
    updates: Sequence[UpdateRecord], scales: Mapping[str, int], *, weighting: str
) -> float:
    """Return by how much the mean of a round is shortened, because its updates are old.

    A mean forgets how old all of its updates are together: it is the same whether all count 16 or
    all count 4. So it is multiplied by the mean of what they count, as FedBuff divides by how many
    they are.

    Returns:
        More than 0, at most 1; 1 if all are fresh.
    """
    if not scales:
        return 1.0
    counts = [each.examples if weighting == "examples" else 1 for each in updates]
    counted = math.fsum(
        count * scales[each.client_id] for count, each in zip(counts, updates, strict=True)
    )
    return counted / (FRESH_SCALE * math.fsum(counts))
