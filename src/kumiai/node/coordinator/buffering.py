"""Who trains ahead in an asynchronous run, who waits with an update, and who makes the next round.

Whoever is free trains from the newest version. What it makes waits at its site until as many wait
as make a group. An update that has fallen too far behind is given up, and its client begins anew.
Whoever says that it waits, and then brings nothing, stands behind the others for a while.
All of it is in the rows; a coordinator that starts again sees the same clients train and wait.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from kumiai.core import failpoints
from kumiai.core.errors import QuorumLostError
from kumiai.node.ahead import policy_of
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.secure.driving import StopAskedError
from kumiai.node.job import AsynchronousSpec, JobSpec
from kumiai.secagg import BufferPolicy, next_group
from kumiai.storage import AssignmentRecord, Lease, RunRecord

__all__ = ["UpdateBuffer", "new_buffer"]

_WAITING: Final = ("assigned", "reported")
_OVERDUE_SECONDS: Final = 30.0
_TURNS_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class _Turns:
    """What clients did when it was their turn, up to a version.

    Attributes:
        version: the newest.
        members: who was in the round that made it.
        missed: who has brought nothing in its last turn, by how many in a row.
        barred: up to which version such a client stands behind the others: as many as it missed.
    """

    version: int
    members: frozenset[str]
    missed: Mapping[str, int]
    barred: Mapping[str, int]

    @classmethod
    def of(cls, version: int, rows: Sequence[AssignmentRecord]) -> "_Turns":
        """Read the rows of these turns, the newest first."""
        members = frozenset(each.client_id for each in rows if each.round == version)
        missed, last, has_brought = Counter[str](), dict[str, int](), set[str]()
        for each in rows:
            if each.state == "reported":
                has_brought.add(each.client_id)
            elif each.client_id not in has_brought:
                missed[each.client_id] += 1
                last.setdefault(each.client_id, each.round)
        barred = {client: last[client] + missed[client] - 1 for client in missed}
        return cls(version, members, missed, barred)

    def behind(self) -> set[str]:
        """Return who stands behind the others now."""
        return {client for client, newest in self.barred.items() if newest >= self.version}

    def resting(self, most: int) -> set[str]:
        """Return who of them has missed so many turns in a row that it is better left out."""
        return {client for client in self.behind() if self.missed[client] >= most}


class UpdateBuffer:
    """The clients of one asynchronous run, while its lease holds."""

    def __init__(
        self,
        engine: RoundEngine,
        lease: Lease,
        spec: AsynchronousSpec,
        policy: BufferPolicy,
        *,
        available: Callable[[str, Collection[str]], list[str]],
        seeded: Callable[[JobSpec, int, Collection[str]], list[tuple[str, int]]],
    ) -> None:
        """Lead the clients of this lease's run.

        Args:
            engine: what every driver works with.
            lease: held.
            spec: the job's table.
            policy: how far behind an update may be.
            available: gives who is attached for an app and not left out.
            seeded: gives clients their seeds.
        """
        self._engine = engine
        self._lease = lease
        self._run_id = lease.run_id
        self._spec = spec
        self._policy = policy
        self._available = available
        self._seeded = seeded
        self._has_delivered = False
        self._turns = _Turns.of(-1, ())
        self._began = engine.clock.monotonic()
        # Who trained while nobody led needs a moment to come to a new leader and say so.
        self._overdue_at = self._began + (_OVERDUE_SECONDS if lease.epoch > 1 else 0.0)
        self._log = structlog.get_logger("kumiai.rounds").bind(run=lease.run_id)

    async def gather(
        self, run: RunRecord, job: JobSpec, version: int, left_out: Collection[str]
    ) -> dict[str, int]:
        """Return who makes the next round, by the versions that they trained from.

        Args:
            run: the run, with no round open.
            job: its job.
            version: of its newest model.
            left_out: who is not asked.

        Raises:
            StopAskedError: the run is to stop.
            QuorumLostError: there cannot be a group, or was none for as long as patience lasts.
            FencedError, StorageError: as the engine's.
        """
        clock, began, has_told = self._engine.clock, self._engine.clock.monotonic(), False
        needed, patience = self._spec.group_size, job.cohort.patience_seconds
        while True:
            waiting, hopeful_count = await self._look(run, job, version, left_out=left_out)
            has_clients = len(self._available(run.app, left_out)) >= job.cohort.min_clients
            group = next_group(waiting, version, size=needed, policy=self._policy)
            if group is not None and has_clients:
                return group
            # Patience is for clients to come: they may train for as long as they like.
            if has_clients and hopeful_count >= needed:
                began = clock.monotonic()
            elif clock.monotonic() - began >= patience:
                raise QuorumLostError(
                    f"only {hopeful_count} of {needed} clients that a group needs were there "
                    f"within {patience:.0f} s"
                )
            if hopeful_count < needed and not has_told:
                has_told = True
                await self._tell_waiting(run, hopeful_count)
            await self._engine.signals.wait(self._run_id, self._engine.times.look_seconds)
            if (await self._engine.runs.get(self._run_id)).stop_requested:
                raise StopAskedError

    async def waiting(
        self,
        run: RunRecord,
        job: JobSpec,
        version: int,
        *,
        left_out: Collection[str],
        busy: Collection[str] = (),
    ) -> dict[str, int]:
        """Let train who is free; return who is here and waits, those first who came first.

        Args:
            run: the run.
            job: its job.
            version: of its newest model.
            left_out: who is not asked.
            busy: who is in the round that is open.

        Raises:
            QuorumLostError: so many have failed that there cannot be a group.
            FencedError, StorageError: as the engine's.
        """
        return (await self._look(run, job, version, left_out=left_out, busy=busy))[0]

    async def _look(
        self,
        run: RunRecord,
        job: JobSpec,
        version: int,
        *,
        left_out: Collection[str],
        busy: Collection[str] = (),
    ) -> tuple[dict[str, int], int]:
        """Return who waits, and how many do or train."""
        await self._end_overdue()
        oldest = self._policy.oldest(version)
        # One more: what was in time for the version before, and is not for this one.
        rows = await self._engine.runs.preparing(self._run_id, version, oldest=oldest - 1)
        if any(each.state in _WAITING and each.round < oldest for each in rows):
            await self._withdraw(
                oldest - 1,
                f"its update is more than {self._policy.staleness_max} versions behind; it begins "
                "anew",
            )
        standing = [each for each in rows if each.state in _WAITING and each.round >= oldest]
        if not busy:
            standing = await self._without_left_behind(standing, version)
        available = self._available(run.app, left_out)
        spent = {each.client_id for each in rows if _is_spent(each, version, job)}
        taken = {each.client_id for each in standing}.union(busy, spent)
        free = [client for client in available if client not in taken]
        here = [each for each in standing if each.client_id in available]
        turns = await self._look_back(version)
        resting = turns.resting(job.cohort.max_attempts)
        others = {each.client_id for each in here}.union(free) - resting
        if len(others) >= self._spec.group_size:
            here = [each for each in here if each.client_id not in resting]
            free = [client for client in free if client not in resting]
        if not busy:
            coming = self._coming_back(rows, job, taken.union(available))
            hoped_for = len(standing) + len(free) + len(coming)
            self._verify_hopeful(rows, hoped_for, spent.intersection(available))
        await self._ask(run, job, version, free)
        behind = turns.behind()
        waiting = {
            each.client_id: each.round
            for each in sorted(here, key=lambda each: each.client_id in behind)
            if each.state == "reported"
        }
        return waiting, len(here) + len(free)

    async def dissolve(self, version: int, reason: str) -> None:
        """End all that is under way: the run has its last version.

        Raises:
            FencedError, StorageError: as the engine's.
        """
        await self._withdraw(version, reason)

    async def _end_overdue(self) -> None:
        """Give up, now and then, what has been trained for too long: the study may never end."""
        seconds, now = self._spec.deadline_seconds, self._engine.clock.monotonic()
        if now < self._overdue_at:
            return
        self._overdue_at = now + min(seconds / 4, _OVERDUE_SECONDS)
        reason = f"its training did not end within {seconds:g} s, asynchronous.deadline_seconds"
        for each in await self._engine.runs.fail_overdue(
            self._lease, seconds=seconds, reason=reason
        ):
            self._engine.directory.cancel(
                self._run_id, each.round, reason, kind="prepare", clients=(each.client_id,)
            )
            self._log.warning("training given up", client=each.client_id, version=each.round)

    async def _without_left_behind(
        self, standing: Sequence[AssignmentRecord], version: int
    ) -> list[AssignmentRecord]:
        """Give up what waited for the round of this version to take it in again, and was too late.

        Its client may have hidden it for that round, and then hides it for no other.
        """
        members = (await self._look_back(version)).members
        left = {
            each.client_id
            for each in standing
            if each.round < version and each.client_id in members
        }
        if left:
            await self._engine.runs.withdraw_prepared(
                self._lease,
                newest=version - 1,
                clients=sorted(left),
                reason=f"round {version} went on without its update; it begins anew",
            )
        return [each for each in standing if each.client_id not in left or each.round == version]

    async def _look_back(self, version: int) -> "_Turns":
        """Return what the clients did with their turns in the rounds up to this version."""
        if self._turns.version != version:
            oldest = version - _TURNS_KEPT + 1
            rows = await self._engine.runs.turns(self._run_id, version, oldest=oldest)
            self._turns = _Turns.of(version, rows)
        return self._turns

    async def _withdraw(self, newest: int, reason: str) -> None:
        late = await self._engine.runs.withdraw_prepared(self._lease, newest=newest, reason=reason)
        self._engine.directory.cancel(self._run_id, newest, reason, kind="prepare")
        self._log.info("updates given up", version=newest, reason=reason, clients=len(late))

    async def _ask(self, run: RunRecord, job: JobSpec, version: int, free: Sequence[str]) -> None:
        """Let these clients train from a version; the first time, tell everybody of their tasks."""
        runs = self._engine.runs
        if free:
            await runs.prepare(
                self._lease,
                version=version,
                clients=self._seeded(job, version + 1, free),
                evaluates=job.evaluation.is_due(version, run.rounds_total),
            )
            failpoints.reach("coordinator.training.asked")
        open_tasks: list[AssignmentRecord] = []
        if not self._has_delivered:
            rows = await runs.preparing(self._run_id, version)
            open_tasks = [each for each in rows if each.state == "assigned"]
        elif free:
            rows = await runs.assignments(self._run_id, version, state="assigned")
            open_tasks = [each for each in rows if each.client_id in free and each.kind != "train"]
        self._has_delivered = True
        self._engine.directory.deliver(await self._engine.tasks.orders(run, job, open_tasks))

    def _coming_back(
        self, rows: Sequence[AssignmentRecord], job: JobSpec, known: Collection[str]
    ) -> set[str]:
        """Return who took part lately and may be on its way here, after a change of leader."""
        if self._engine.clock.monotonic() - self._began >= job.cohort.grace_seconds:
            return set()
        return {each.client_id for each in rows}.difference(known)

    def _verify_hopeful(
        self, rows: Sequence[AssignmentRecord], hoped_for: int, spent: Collection[str]
    ) -> None:
        size = self._spec.group_size
        if hoped_for < size <= hoped_for + len(spent):
            reasons = [each.reason for each in rows if each.client_id in spent and each.reason]
            raise QuorumLostError(
                f"only {hoped_for} of {size} clients that a group needs can train; the others "
                f"failed: {reasons[0] if reasons else 'without a reason'}"
            )

    async def _tell_waiting(self, run: RunRecord, attached: int) -> None:
        await self._engine.runs.add_event(
            self._run_id,
            kind="waiting",
            text=f"waiting for clients: {attached} of the {self._spec.group_size} of a group with "
            f"app {run.app!r} attached",
        )


def new_buffer(
    engine: RoundEngine,
    lease: Lease,
    job: JobSpec,
    *,
    available: Callable[[str, Collection[str]], list[str]],
    seeded: Callable[[JobSpec, int, Collection[str]], list[tuple[str, int]]],
) -> UpdateBuffer | None:
    """Return who leads the clients of an asynchronous run; ``None``: the run is none."""
    policy = policy_of(job)
    if policy is None or job.asynchronous is None:
        return None
    return UpdateBuffer(engine, lease, job.asynchronous, policy, available=available, seeded=seeded)


def _is_spent(each: AssignmentRecord, version: int, job: JobSpec) -> bool:
    """Tell whether a client has failed with a version as often as it may."""
    has_failed = each.kind == "prepare" and each.state in {"failed", "refused"}
    return has_failed and each.round == version and each.attempt >= job.cohort.max_attempts
