"""The round engine: the one loop that leads a run from its first round to its end.

    submitted ─► running ─► finished | failed | stopped
                   │
       per round:  collecting ─► closed ─► published

The driver keeps nothing that matters in memory. Each step reads the rows, decides, and writes
one fenced transaction; after a crash the next driver stands at the same step with the same rows.
What may have been done twice (an aggregation, a purge) gives the same bytes or does nothing.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from kumiai.core import failpoints
from kumiai.core.arrays import NamedArrays
from kumiai.core.error_kinds import kind_of
from kumiai.core.errors import (
    ConfigError,
    FencedError,
    KumiaiError,
    QuorumLostError,
    StorageError,
)
from kumiai.identity import Role
from kumiai.identity.audit import Act, Actor, NewEntry, Outcome
from kumiai.learning import weighted_metrics
from kumiai.node.ahead import others_seconds, scales_of, versions_kept
from kumiai.node.coordinator.buffering import UpdateBuffer, new_buffer
from kumiai.node.coordinator.central import CentralRounds, new_central_rounds
from kumiai.node.coordinator.collection import (
    Close,
    Extend,
    GiveUp,
    MarkQuorum,
    Stop,
    Wait,
    decide,
)
from kumiai.node.coordinator.engine import EngineTimes, RoundEngine
from kumiai.node.coordinator.local import LocalRounds, new_local_rounds
from kumiai.node.coordinator.namespaces import (
    model_namespace,
    state_namespace,
    update_namespace,
)
from kumiai.node.coordinator.secure.driving import (
    SecureRoundDriver,
    StopAskedError,
)
from kumiai.node.coordinator.secure.paying import new_payer
from kumiai.node.job import JobSpec, parse_job
from kumiai.node.noised_rounds import mean_of
from kumiai.storage import (
    AssignmentRecord,
    Lease,
    RoundRecord,
    RunRecord,
    SealedCharge,
    UpdateRecord,
)

__all__ = ["EngineTimes", "RoundEngine", "RunDriver", "client_seed", "select_cohort"]

_END_ACTS: Final = {
    "finished": Act.RUN_FINISHED,
    "failed": Act.RUN_FAILED,
    "stopped": Act.RUN_STOPPED,
}


class _RunStopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """Leaves the loop when a stop was asked for."""


def client_seed(run_seed: int, round_number: int, client_id: str) -> int:
    """Return the seed of one client's task, 0 to 2**63 - 1; the same inputs, the same seed.

    The run's id does not enter it, so that a repeated study repeats its numbers.
    """
    text = f"kumiai.v1.client-seed\n{run_seed}\n{round_number}\n{client_id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def select_cohort(
    available: Sequence[str], wanted: int, *, run_seed: int, round_number: int
) -> list[str]:
    """Return ``wanted`` of the available clients, drawn uniformly, sorted.

    The draw depends on the seed, the round and who is there, on nothing else.
    """
    if wanted >= len(available):
        return sorted(available)
    generator = np.random.Generator(np.random.PCG64([run_seed, round_number]))
    chosen = generator.choice(len(available), size=wanted, replace=False)
    return sorted(sorted(available)[index] for index in chosen)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a round has gathered.

    Attributes:
        updates: of those who count.
        mean: of hidden or noised updates; ``None``: it is made of the updates.
        charge: what it was paid with, if it is private.
        metrics: what is told of the sum besides.
        carried: what the next rounds need of it.
    """

    updates: list[UpdateRecord]
    mean: NDArray[np.float32] | None = None
    charge: SealedCharge | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    carried: NamedArrays = field(default_factory=dict)


class RunDriver:
    """Leads one run while its lease holds."""

    def __init__(self, engine: RoundEngine, lease: Lease) -> None:
        """Lead the run of this lease."""
        self._engine = engine
        self._lease = lease
        self._run_id = lease.run_id
        self._has_opened = False
        self._secure: SecureRoundDriver | None = None
        self._central: CentralRounds | None = None
        self._resting: frozenset[str] = frozenset()
        self._local: LocalRounds | None = None
        self._buffer: UpdateBuffer | None = None
        self._log = structlog.get_logger("kumiai.rounds").bind(run=lease.run_id)

    async def drive(self) -> None:
        """Lead the run to its end.

        Raises:
            FencedError: another coordinator leads it now.
            StorageError: the database or the blobs failed; drive again later.
        """
        runs = self._engine.runs
        run = await runs.start(self._lease)
        try:
            job = parse_job(run.job)
            self._buffer = new_buffer(
                self._engine,
                self._lease,
                job,
                available=self._available,
                seeded=self._with_seeds,
            )
            self._secure = self._secure_driver(job)
            self._central = new_central_rounds(self._engine, self._lease, job)
            self._local = new_local_rounds(self._engine, self._lease, job)
            if self._engine.budgets is not None:
                await self._engine.budgets.open_run(run)
            await self._drive_rounds(run, job)
            await self._last_evaluation(job, run.rounds_total)
        except (_RunStopped, StopAskedError):
            run = await runs.get(self._run_id)
            await self._finish("stopped", run.stop_reason or "stopped by an operator")
        except (FencedError, StorageError):
            raise
        except KumiaiError as error:
            self._log.warning("run failed", error=str(error))
            await self.fail(str(error), error)
        else:
            await self._finish("finished", f"all {run.rounds_total} rounds are done")

    async def fail(self, reason: str, error: BaseException) -> None:
        """End the run as failed.

        Args:
            reason: in words.
            error: whose kind is written beside them.

        Raises:
            FencedError: another coordinator leads it now.
            StorageError: the database failed; the run goes on when it is driven again.
        """
        await self._finish("failed", reason, end_kind=kind_of(error))

    def _secure_driver(self, job: JobSpec) -> SecureRoundDriver | None:
        if not job.secure_aggregation.is_on:
            return None
        if self._engine.secure is None:
            raise ConfigError(
                "secure_aggregation.mode must be 'none' here: this coordinator has no signing key"
            )
        return SecureRoundDriver(
            self._engine,
            self._engine.secure,
            self._lease,
            deliver=self._deliver,
            seeded=self._with_seeds,
            buffer=self._buffer,
            payer=new_payer(self._engine.budgets, self._lease, job),
        )

    def _available(self, app: str, suspects: Collection[str]) -> list[str]:
        """Return who is attached, can do what this run asks for and is not left out of it."""
        available = list(self._engine.directory.available(app))
        able = available if self._secure is None else self._secure.able(available)
        return [client for client in able if client not in suspects and client not in self._resting]

    async def _let_rest(self, number: int) -> None:
        """Ask nobody for a round who must rest after an earlier one, where that is promised."""
        if self._central is not None:
            self._resting = await self._central.resting(number)

    async def _suspects(self) -> frozenset[str]:
        return frozenset() if self._secure is None else await self._secure.suspects()

    async def _drive_rounds(self, run: RunRecord, job: JobSpec) -> None:
        while True:
            run = await self._engine.runs.get(self._run_id)
            if run.stop_requested:
                raise _RunStopped
            current = await self._engine.runs.round(self._run_id, run.round)
            match current.stage:
                case "published" if current.round == run.rounds_total:
                    return
                case "published" if self._buffer is not None:
                    await self._open_group(self._buffer, run, job, current)
                case "published":
                    await self._open(run, job, current)
                case "collecting" if self._secure is not None:
                    await self._secure.collect(run, job, current)
                    await self._clean_up(job, current.round - 1)
                case "collecting":
                    await self._collect(run, job, current)
                case _:
                    await self._publish(run, job, current)

    async def _open(self, run: RunRecord, job: JobSpec, previous: RoundRecord) -> None:
        number = previous.round + 1
        await self._let_rest(number)
        available = await self._wait_for_clients(
            run, job, await self._expected(job, previous), await self._suspects()
        )
        self._has_opened = True
        target = job.cohort.size or len(available)
        wanted = math.ceil(target * (1 + job.cohort.over_selection))
        cohort = select_cohort(available, wanted, run_seed=job.run.seed, round_number=number)
        target = min(target, len(cohort))
        if self._central is not None:
            await self._central.verify_affordable(run, number, cohort)
        if self._local is not None:
            await self._local.verify_affordable(run, number, cohort)
        evaluates = job.evaluation.is_due(previous.round, run.rounds_total)
        await self._engine.runs.open_round(
            self._lease,
            round=number,
            base_digest=run.model_digest,
            target_reports=target,
            min_reports=min(job.cohort.quorum(target), target),
            deadline_seconds=job.cohort.deadline_seconds,
            clients=self._with_seeds(job, number, cohort),
            evaluate_clients=available if evaluates else (),
            evaluate_round=previous.round if evaluates else None,
        )
        failpoints.reach("coordinator.round.opened")
        self._log.info("round opened", round=number, clients=len(cohort))

    async def _open_group(
        self, buffer: UpdateBuffer, run: RunRecord, job: JobSpec, previous: RoundRecord
    ) -> None:
        """Open a round of those who have trained ahead, as soon as they are enough."""
        number = previous.round + 1
        group = await buffer.gather(run, job, previous.round, await self._suspects())
        await self._engine.runs.open_round(
            self._lease,
            round=number,
            base_digest=run.model_digest,
            target_reports=len(group),
            min_reports=min(job.cohort.quorum(len(group)), len(group)),
            deadline_seconds=job.cohort.deadline_seconds,
            clients=self._with_seeds(job, number, group),
            joined=group,
        )
        failpoints.reach("coordinator.round.opened")
        self._log.info("round opened", round=number, clients=len(group), versions=group)

    def _with_seeds(
        self, job: JobSpec, number: int, clients: Collection[str]
    ) -> list[tuple[str, int]]:
        return [(client, client_seed(job.run.seed, number, client)) for client in clients]

    async def _expected(self, job: JobSpec, previous: RoundRecord) -> set[str]:
        """Return who should be back before a round asks "all clients", after a change of leader.

        They come back one by one, and the first must not be taken for all.
        """
        if self._has_opened or job.cohort.size is not None:
            return set()
        assignments = await self._engine.runs.assignments(self._run_id, previous.round)
        return {each.client_id for each in assignments if each.kind == "train"}

    async def _wait_for_clients(
        self,
        run: RunRecord,
        job: JobSpec,
        expected: Collection[str],
        suspects: Collection[str],
    ) -> list[str]:
        """Return the clients that offer the study, once there are enough of them.

        The whole cohort is waited for as long as a round waits after its quorum, then a quorum
        of clients is enough, then patience ends the run.
        """
        cohort, began, has_told = job.cohort, self._engine.clock.monotonic(), False
        expected = set(expected).difference(suspects)
        wanted = max(cohort.min_clients, (cohort.size or 1) - len(suspects), len(expected))
        enough = max(cohort.min_clients, cohort.quorum(cohort.size or 1))
        while True:
            available = self._available(run.app, suspects)
            waited = self._engine.clock.monotonic() - began
            is_patient = waited < cohort.grace_seconds
            if len(available) >= (wanted if is_patient else enough) and not (
                is_patient and expected.difference(available)
            ):
                return available
            if waited >= cohort.patience_seconds:
                raise QuorumLostError(
                    f"only {len(available)} of {enough} needed clients with app {run.app!r} "
                    f"attached within {cohort.patience_seconds:.0f} s"
                )
            if not has_told:
                has_told = True
                await self._tell_waiting(run, len(available), wanted)
            await self._engine.directory.wait_for_change(self._engine.times.look_seconds)
            if (await self._engine.runs.get(self._run_id)).stop_requested:
                raise _RunStopped

    async def _tell_waiting(self, run: RunRecord, attached: int, wanted: int) -> None:
        await self._engine.runs.add_event(
            self._run_id,
            kind="waiting",
            text=f"waiting for clients: {attached} of {wanted} with app {run.app!r} attached",
        )

    async def _collect(self, run: RunRecord, job: JobSpec, current: RoundRecord) -> None:
        """Hand out the tasks, wait until the round may close, close it."""
        runs, number = self._engine.runs, current.round
        if self._local is not None:
            await self._local.pay(run, number)
        await self._deliver(run, job, number)
        failpoints.reach("coordinator.round.delivered")
        # Only now: deleting hundreds of megabytes takes longer than telling the clients.
        await self._clean_up(job, number - 1)
        while True:
            progress = await runs.progress(self._run_id, number)
            decision = decide(
                progress,
                job.cohort,
                target_reports=current.target_reports,
                min_reports=current.min_reports,
            )
            match decision:
                case Wait(seconds, reports):
                    look = min(max(seconds, 0.0), self._engine.times.look_seconds)
                    await self._engine.signals.wait(self._run_id, look, reports=reports)
                case MarkQuorum():
                    await runs.mark_quorum(self._lease, number)
                case Close(reason):
                    failpoints.reach("coordinator.round.before_close")
                    await runs.close_round(self._lease, number, reason)
                    failpoints.reach("coordinator.round.closed")
                    self._log.info("round closed", round=number, reason=reason)
                    return
                case Extend(reason):
                    await self._extend(run, job, number, reason)
                case GiveUp(reason):
                    raise QuorumLostError(f"round {number}: {reason}")
                case Stop():
                    raise _RunStopped

    async def _deliver(self, run: RunRecord, job: JobSpec, number: int) -> None:
        """Send every open task to its client, if it is attached; a client drops repetitions."""
        runs = self._engine.runs
        waiting = await runs.assignments(self._run_id, number, state="assigned")
        waiting += await runs.assignments(self._run_id, number - 1, state="assigned")
        self._engine.directory.deliver(await self._engine.tasks.orders(run, job, waiting))

    async def _extend(self, run: RunRecord, job: JobSpec, number: int, reason: str) -> None:
        runs = self._engine.runs
        clients, joined = await self._wait_for_others(run, job, number)
        await runs.extend_round(
            self._lease,
            round=number,
            deadline_seconds=job.cohort.deadline_seconds,
            clients=self._with_seeds(job, number, clients),
            joined=joined,
        )
        self._log.warning("round extended", round=number, reason=reason, clients=len(clients))
        if self._local is not None:
            await self._local.pay(run, number)
        await self._deliver(run, job, number)

    async def _wait_for_others(
        self, run: RunRecord, job: JobSpec, number: int
    ) -> tuple[list[str], dict[str, int]]:
        """Return who has not reported, once that may be enough for the quorum.

        And who of them comes anew with an update that was made ahead, by its version.

        After a restart of the coordinator nobody is attached for a moment; asking nobody would
        spend the run's attempts. The longest wait is one deadline, or in an asynchronous run as
        long as patience lasts: then an attempt is spent.
        """
        runs, began, has_told = self._engine.runs, self._engine.clock.monotonic(), False
        needed = (await runs.round(self._run_id, number)).min_reports
        await self._let_rest(number)
        while True:
            states = {
                each.client_id: each.state
                for each in await runs.assignments(self._run_id, number)
                if each.kind == "train"
            }
            has_reported = {client for client, state in states.items() if state == "reported"}
            still_open = {client for client, state in states.items() if state == "assigned"}
            attached, joined = self._engine.directory.available(run.app), dict[str, int]()
            if self._buffer is not None:
                busy = has_reported | still_open
                joined = await self._buffer.waiting(
                    run, job, number - 1, left_out=await self._suspects(), busy=busy
                )
                attached = [*(still_open.intersection(attached)), *joined]
            clients = sorted(
                client
                for client in attached
                if client not in has_reported and client not in self._resting
            )
            hoped_for = len(has_reported | still_open | set(clients))
            left = others_seconds(job) - self._engine.clock.monotonic() + began
            if hoped_for >= needed or left <= 0:
                return clients, joined
            if not has_told:
                has_told = True
                await self._tell_waiting(run, len(clients), needed - len(has_reported))
            look = min(left, self._engine.times.look_seconds)
            await self._engine.directory.wait_for_change(look)
            if (await runs.get(self._run_id)).stop_requested:
                raise _RunStopped

    async def _publish(self, run: RunRecord, job: JobSpec, current: RoundRecord) -> None:
        runs, number = self._engine.runs, current.round
        counted = await self._counted(run, job, current)
        if counted is None:
            return
        new = await self._engine.aggregator.aggregate(
            run,
            job,
            round_number=number,
            base_digest=current.base_digest,
            updates=counted.updates,
            mean=counted.mean,
            scales=await scales_of(runs, job, self._run_id, number),
            carried=counted.carried,
        )
        failpoints.reach("coordinator.round.aggregated")
        await self._close_evaluation(number - 1)
        reports = len(counted.updates)
        await runs.publish_round(
            self._lease,
            round=number,
            model_digest=new.digest,
            model_size_bytes=new.size_bytes,
            state_digest=new.state_digest,
            reports=reports,
            examples=new.examples,
            metrics={**new.metrics, **counted.metrics},
            charge=counted.charge,
            entry=NewEntry(
                Act.MODEL_PUBLISHED,
                Actor(Role.COORDINATOR.value, self._lease.leader),
                f"model/{self._run_id}.{number}",
                detail={"digest": new.digest, "examples": new.examples, "reports": reports},
            ),
        )
        failpoints.reach("coordinator.round.published")
        await self._tell_published(number, new.central_failure)
        self._log.info("round published", round=number, reports=reports, **new.metrics)

    async def _counted(self, run: RunRecord, job: JobSpec, current: RoundRecord) -> _Counted | None:
        """Return what becomes the new model, paid for; ``None``: the round goes on."""
        updates = await self._engine.runs.updates(self._run_id, current.round)
        if self._secure is not None:
            checked = await self._secure.sum_up(run, job, current)
            if checked is None:
                return None
            outcome = checked.outcome
            survivors = [each for each in updates if each.client_id in outcome.survivors]
            mean = mean_of(outcome, job.privacy, invited=checked.invited_count)
            return _Counted(survivors, mean, checked.charge)
        if self._central is not None:
            noised = await self._central.noised(run, current, updates)
            return _Counted(updates, noised.mean, noised.charge, noised.metrics, noised.carried)
        if self._local is not None:
            return _Counted(updates, charge=await self._local.sealed(run, current, updates))
        return _Counted(updates)

    async def _tell_published(self, number: int, central_failure: str | None) -> None:
        if self._secure is not None:
            await self._secure.finish(number)
        if central_failure is not None:
            await self._engine.runs.add_event(
                self._run_id,
                kind="central_evaluation_failed",
                text=central_failure,
                level="warning",
                round=number,
            )
        self._engine.directory.cancel(self._run_id, number, "the round is over")

    async def _close_evaluation(self, number: int) -> None:
        """Average what the clients measured on the model of this round."""
        runs = self._engine.runs
        await runs.close_evaluation(self._lease, number)
        reports = await runs.evaluations(self._run_id, number)
        if reports:
            metrics = weighted_metrics([(each.examples, each.metrics) for each in reports])
            await runs.record_evaluation(self._lease, number, metrics, len(reports))
            failpoints.reach("coordinator.evaluation.recorded")

    async def _last_evaluation(self, job: JobSpec, number: int) -> None:
        """Measure the last model on all clients; nobody's silence costs more than the deadline."""
        runs = self._engine.runs
        run = await runs.get(self._run_id)
        if self._buffer is not None:
            await self._buffer.dissolve(number, "the run has its last version")
        if job.evaluation.is_due(number, run.rounds_total):
            available = await self._wait_for_evaluators(run, job)
            await runs.open_evaluation(self._lease, number, available)
            failpoints.reach("coordinator.evaluation.opened")
            await self._wait_for_evaluations(run, job, number)
            await self._close_evaluation(number)
        await self._clean_up(job, number)
        await self._drop_all_but_models()

    async def _wait_for_evaluators(self, run: RunRecord, job: JobSpec) -> list[str]:
        """Return who is there, once as many are as took part in the last round.

        After a restart of the coordinator the clients need a moment to come back. They are waited
        for as long as a round waits for the others once its quorum stands.
        """
        wanted = (await self._engine.runs.round(self._run_id, run.round)).reports or 0
        began = self._engine.clock.monotonic()
        while True:
            available = list(self._engine.directory.available(run.app))
            left = job.cohort.grace_seconds - self._engine.clock.monotonic() + began
            if len(available) >= wanted or left <= 0:
                return available
            look = min(left, self._engine.times.look_seconds)
            await self._engine.directory.wait_for_change(look)
            if (await self._engine.runs.get(self._run_id)).stop_requested:
                raise _RunStopped

    async def _wait_for_evaluations(self, run: RunRecord, job: JobSpec, number: int) -> None:
        began = self._engine.clock.monotonic()
        waiting = await self._open_evaluations(number)
        self._engine.directory.deliver(await self._engine.tasks.orders(run, job, waiting))
        while still_open := len(await self._open_evaluations(number)):
            left = job.evaluation.deadline_seconds - self._engine.clock.monotonic() + began
            if left <= 0:
                return
            if (await self._engine.runs.get(self._run_id)).stop_requested:
                raise _RunStopped
            look = min(left, self._engine.times.look_seconds)
            await self._engine.signals.wait(self._run_id, look, reports=still_open)

    async def _open_evaluations(self, number: int) -> list[AssignmentRecord]:
        return [
            each
            for each in await self._engine.runs.assignments(self._run_id, number, state="assigned")
            if each.kind == "evaluate"
        ]

    async def _clean_up(self, job: JobSpec, number: int) -> None:
        """Delete what the published round no longer needs; safe to repeat, harmless to miss."""
        blobs = self._engine.blobs
        try:
            if self._central is not None:
                await self._central.forget(number)
            await blobs.delete_namespace(update_namespace(self._run_id, number))
            if number > 0:
                await blobs.delete_namespace(state_namespace(self._run_id, number - 1))
            await self._forget_old_models(job, number)
        except KumiaiError as error:
            self._log.warning("clean-up failed", round=number, error=str(error))

    async def _forget_old_models(self, job: JobSpec, number: int) -> None:
        """Delete the bytes of the version that nobody needs any more; at the end, of all such.

        Its row, with metrics and digest, stays.
        """
        oldest = number - versions_kept(job)
        is_last = number == job.run.rounds
        newest = number - job.run.keep_versions if is_last else oldest
        if newest < 1:
            return
        models = await self._engine.runs.models(self._run_id)
        kept = {each.digest for each in models if each.round == 0 or each.round > newest}
        old = {each.digest for each in models if oldest <= each.round <= newest}
        for digest in sorted(old - kept):
            await self._engine.blobs.delete(model_namespace(self._run_id), digest)

    async def _finish(
        self,
        state: Literal["finished", "failed", "stopped"],
        reason: str,
        *,
        end_kind: str | None = None,
    ) -> None:
        if self._secure is not None:
            await self._secure.abort(f"the run has {state}")
        failpoints.reach("coordinator.run.before_finish")
        await self._engine.runs.finish(
            self._lease, state, reason, end_kind=end_kind, entry=self._end_entry(state, end_kind)
        )
        failpoints.reach("coordinator.run.finished")
        self._engine.directory.cancel(self._run_id, None, f"the run has {state}")
        self._log.info("run ended", state=state, reason=reason, kind=end_kind)
        # Not before: until then the updates of an open round may still be needed.
        await self._drop_all_but_models()

    def _end_entry(
        self, state: Literal["finished", "failed", "stopped"], end_kind: str | None
    ) -> NewEntry:
        # Without the reason: it may quote what a study at a site has said.
        return NewEntry(
            _END_ACTS[state],
            Actor(Role.COORDINATOR.value, self._lease.leader),
            f"run/{self._run_id}",
            Outcome.FAILED if state == "failed" else Outcome.DONE,
            {} if end_kind is None else {"kind": end_kind},
        )

    async def _drop_all_but_models(self) -> None:
        try:
            await self._engine.blobs.delete_namespace(update_namespace(self._run_id))
            await self._engine.blobs.delete_namespace(state_namespace(self._run_id))
        except KumiaiError as error:
            self._log.warning("clean-up failed", error=str(error))
