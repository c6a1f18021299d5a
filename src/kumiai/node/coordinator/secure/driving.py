"""What the round engine does differently when updates are hidden.

    collecting   keys are exchanged while the clients train; masked vectors come in
    closed       survivors agree, unmask the sum, check it
    published    as always; then each client gets its receipt

An attempt that cannot come to a sum is begun anew with those who are there, with new keys and
without anything of the first; after as many attempts as the job allows, the run fails.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from kumiai.core.errors import (
    BudgetExhaustedError,
    KumiaiError,
    QuorumLostError,
    SecureAggregationError,
)
from kumiai.node.ahead import others_seconds, scales_of
from kumiai.node.coordinator.collection import (
    Close,
    Extend,
    GiveUp,
    MarkQuorum,
    Stop,
    decide,
)
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.namespaces import update_namespace
from kumiai.node.coordinator.secure.paying import RoundPayer
from kumiai.node.coordinator.secure.planning import members_least, survivors_least
from kumiai.node.coordinator.secure.reruns import Rerun
from kumiai.node.coordinator.secure.summing import SecureSum
from kumiai.node.coordinator.secure.sums import SecureSums
from kumiai.node.job import JobSpec
from kumiai.privacy.ledger import ChargeKey
from kumiai.secagg import Outcome, RoundDescriptor, ServerPhase
from kumiai.storage import (
    Lease,
    RoundProgress,
    RoundRecord,
    RunRecord,
    SealedCharge,
    SecureRoundRecord,
)

__all__ = ["CheckedSum", "SecureRoundDriver", "StopAskedError"]

_EXCHANGING: Final = frozenset(
    {
        ServerPhase.ADVERTISING,
        ServerPhase.ADVERTISING_HIDDEN,
        ServerPhase.REVEALING,
        ServerPhase.SHARING,
    }
)


@dataclass(frozen=True, slots=True)
class CheckedSum:
    """A round's sum, as a quorum of clients has checked it.

    Attributes:
        outcome: the sum.
        invited_count: how many were asked for an update, if it is private.
        charge: what it was paid with, if it is private.
    """

    outcome: Outcome
    invited_count: int = 0
    charge: SealedCharge | None = None


class StopAskedError(Exception):
    """Somebody asked the run to stop."""


class WaitingClients(Protocol):
    """Who waits for a round with an update that was made ahead."""

    async def waiting(
        self,
        run: RunRecord,
        job: JobSpec,
        version: int,
        *,
        left_out: Collection[str],
        busy: Collection[str] = (),
    ) -> dict[str, int]:
        """Return who waits, by the version of its update, those first who came first."""
        ...


class _Turn:
    """How long the clients have had already for what they are asked."""

    def __init__(self, now: Callable[[], float], turn: object) -> None:
        self._now = now
        self._turn = turn
        self._began = now()

    def seconds(self, turn: object) -> float:
        if turn != self._turn:
            self._turn, self._began = turn, self._now()
        return self._now() - self._began


class SecureRoundDriver:
    """Leads the secure rounds of one run while its lease holds."""

    def __init__(
        self,
        engine: RoundEngine,
        secure: SecureSums,
        lease: Lease,
        *,
        deliver: Callable[[RunRecord, JobSpec, int], Awaitable[None]],
        seeded: Callable[[JobSpec, int, Collection[str]], list[tuple[str, int]]],
        buffer: WaitingClients | None = None,
        payer: RoundPayer | None = None,
    ) -> None:
        """Lead the rounds of this lease's run.

        Args:
            engine: what every driver works with.
            secure: what secure rounds need besides.
            lease: held.
            deliver: sends the open tasks of a round.
            seeded: gives clients their seeds.
            buffer: of an asynchronous run; ``None``: the run is none.
            payer: pays for private rounds; ``None``: the run is not private.
        """
        self._engine = engine
        self._secure = secure
        self._lease = lease
        self._run_id = lease.run_id
        self._deliver = deliver
        self._seeded = seeded
        self._buffer = buffer
        self._payer = payer
        self._sum: SecureSum | None = None
        self._rerun: Rerun | None = None
        self._log = structlog.get_logger("kumiai.rounds").bind(run=lease.run_id)

    def able(self, clients: Collection[str]) -> list[str]:
        """Return those of the clients that can take part in a secure round."""
        return self._secure.able(clients)

    async def suspects(self) -> frozenset[str]:
        """Return who is left out of the run, because its wrong sums point to them.

        Raises:
            StorageError: as the engine's.
        """
        return await self._secure.suspects(self._run_id)

    async def collect(self, run: RunRecord, job: JobSpec, current: RoundRecord) -> None:
        """Exchange keys, wait for masked vectors and close the round; or begin it anew.

        Raises:
            StopAskedError: the run is to stop.
            QuorumLostError: too few clients, for the last time.
            FencedError, StorageError: as the engine's.
        """
        runs, number = self._engine.runs, current.round
        found = await self._found(run, job, current)
        await self._deliver(run, job, number)
        if found is None:
            return
        await found.announce(found.roster)
        turn = _Turn(self._engine.clock.monotonic, found.turn)
        while True:
            await self._hear(found)
            await found.add(await runs.updates(self._run_id, number))
            if found.stopped is not None:
                await self._go_on(run, job, current, found.stopped)
                return
            if found.phase > ServerPhase.COLLECTING:
                await runs.close_round(self._lease, number, "all wanted reports are in")
                return
            progress = await runs.progress(self._run_id, number)
            if progress.stop_requested:
                raise StopAskedError
            is_late = turn.seconds(found.turn) >= job.secure_aggregation.phase_seconds
            if found.phase in _EXCHANGING and (
                is_late or not await self._is_awaited(found, number)
            ):
                await found.end_phase()
            elif await self._decide(run, job, current, progress, found):
                return
            else:
                await self._engine.signals.wait(self._run_id, self._engine.times.look_seconds)

    async def sum_up(self, run: RunRecord, job: JobSpec, current: RoundRecord) -> CheckedSum | None:
        """Return the sum of a closed round, checked by a quorum; ``None``: it begins anew.

        Raises:
            StopAskedError: the run is to stop.
            QuorumLostError: there is no sum, for the last time.
            BudgetExhaustedError: a privacy budget does not allow it.
            FencedError, StorageError: as the engine's.
        """
        outcome = await self._secure.summed(current)
        if outcome is None and await self._conclude(run, job, current):
            outcome = await self._secure.summed(current)
            if outcome is None:
                await self._go_on(run, job, current, "the next part is to be summed")
        if outcome is None:
            return None
        await self._settle(job, current)
        return await self._checked(run, current, outcome)

    async def _conclude(self, run: RunRecord, job: JobSpec, current: RoundRecord) -> bool:
        """Unmask the sum and have it checked; return whether there is one now."""
        found = await self._found(run, job, current)
        if found is None:
            return False
        if self._payer is not None:
            await self._pay(self._payer, run, current, found.descriptor)
        if not found.is_over:
            await self._add_all(found, job, current.round)
            if found.phase is ServerPhase.COLLECTING:
                await found.end_phase()
            else:
                await found.announce(found.roster)
        turn = _Turn(self._engine.clock.monotonic, found.turn)
        while not found.is_over:
            await self._hear(found)
            if (await self._engine.runs.get(self._run_id)).stop_requested:
                raise StopAskedError
            if turn.seconds(found.turn) >= job.secure_aggregation.phase_seconds:
                await found.end_phase()
            elif not found.is_over:
                await self._engine.signals.wait(self._run_id, self._engine.times.look_seconds)
        if found.stopped is not None:
            await self._go_on(run, job, current, found.stopped)
            return False
        await found.conclude()
        self._sum = None
        return True

    async def _pay(
        self, payer: RoundPayer, run: RunRecord, current: RoundRecord, descriptor: RoundDescriptor
    ) -> ChargeKey:
        """Pay for what is about to become known; paying again changes nothing."""
        updates = await self._engine.runs.updates(self._run_id, current.round)
        clients = [each.client_id for each in updates]
        return await payer.pay(run, current.attempt, descriptor, clients)

    async def _checked(self, run: RunRecord, current: RoundRecord, outcome: Outcome) -> CheckedSum:
        if self._payer is None:
            return CheckedSum(outcome)
        descriptor = await self._secure.descriptor(self._run_id, current.round)
        key = await self._pay(self._payer, run, current, descriptor)
        charge = await self._payer.seal(key, outcome)
        return CheckedSum(outcome, descriptor.client_count, charge)

    async def finish(self, number: int) -> None:
        """Hand out the receipts of the round that was just published, to those who are there.

        Raises:
            StorageError: as the engine's.
        """
        await self._secure.hand_out(self._run_id, number)

    async def abort(self, reason: str) -> None:
        """End what is under way with the run; who cannot be told so finds out by waiting."""
        if self._sum is not None and self._sum.outcome is None:
            try:
                await self._sum.abort(reason)
            except KumiaiError as error:
                self._log.warning("attempt not ended", error=str(error))
        self._sum = None
        self._secure.mailbox.close(self._run_id)

    # --------------------------------------------------------------------------------- one attempt

    async def _found(self, run: RunRecord, job: JobSpec, current: RoundRecord) -> SecureSum | None:
        """Return the present attempt, begun now if it must; ``None``: it could not go on."""
        sums, held = self._secure, self._sum
        if held is not None and (held.attempt.round, held.attempt.attempt) == (
            current.round,
            current.attempt,
        ):
            return held
        attempt = await sums.find(self._run_id, current.round)
        is_new = attempt is None or attempt.attempt < current.attempt
        if attempt is None or is_new:
            try:
                attempt = await self._begun(job, current)
            except SecureAggregationError as error:
                await self._go_on(run, job, current, str(error))
                return None
        if attempt.state != "open":
            await self._go_on(run, job, current, attempt.reason or "it was ended")
            return None
        try:
            self._sum = await sums.resume(self._lease, attempt)
            self._rerun = await sums.rerun(self._run_id, current.round)
        except SecureAggregationError as error:
            await sums.end(self._lease, attempt, str(error))
            await self._go_on(run, job, current, str(error))
            return None
        if is_new:
            await self._verify_affordable(run, self._sum)
        return self._sum

    async def _verify_affordable(self, run: RunRecord, found: SecureSum) -> None:
        """Check that a private round can be paid for, before anybody is asked to work for it."""
        if self._payer is None:
            return
        try:
            await self._payer.verify_affordable(run, found.attempt.attempt, found.descriptor)
        except BudgetExhaustedError as error:
            await self._secure.end(self._lease, found.attempt, str(error))
            self._sum = None
            raise

    async def _begun(self, job: JobSpec, current: RoundRecord) -> SecureRoundRecord:
        asked = await self._asked(current.round)
        await self._wait_for(asked, job)
        rerun = await self._secure.rerun(self._run_id, current.round)
        needed = max(current.min_reports, members_least(job.secure_aggregation, len(asked)))
        if rerun is not None:
            needed = len(rerun.pending[0]) if rerun.pending else 0
        scales = await scales_of(self._engine.runs, job, self._run_id, current.round)
        try:
            return await self._secure.begin(
                self._lease, job, current, clients=asked, needed=needed, rerun=rerun, scales=scales
            )
        except SecureAggregationError as error:
            if rerun is not None:
                await self._secure.skip(self._lease, current, str(error))
            raise

    async def _wait_for(self, asked: Collection[str], job: JobSpec) -> None:
        """Give those who were asked the time to be there: after a restart nobody is at first."""
        clock, began = self._engine.clock, self._engine.clock.monotonic()
        while len(self.able(asked)) < len(asked):
            left = job.secure_aggregation.phase_seconds - clock.monotonic() + began
            if left <= 0:
                return
            await self._engine.directory.wait_for_change(min(left, self._engine.times.look_seconds))

    async def _add_all(self, found: SecureSum, job: JobSpec, number: int) -> None:
        """Add every vector that was counted, also those whose clients' word is on the way."""
        clock, began = self._engine.clock, self._engine.clock.monotonic()
        updates = await self._engine.runs.updates(self._run_id, number)
        while True:
            await found.add(updates)
            left = job.secure_aggregation.phase_seconds - clock.monotonic() + began
            if left <= 0 or found.is_over or not found.lacks(updates):
                return
            await self._engine.signals.wait(
                self._run_id, min(left, self._engine.times.look_seconds)
            )
            await self._hear(found)

    async def _hear(self, found: SecureSum) -> None:
        letters, arrived = self._secure.mailbox.drain(self._run_id)
        if back := arrived & found.roster:
            await found.announce(back)
        await found.take(letters)

    async def _members(self, number: int) -> set[str]:
        """Return whose updates of a round may be hidden anew."""
        return {
            each.client_id
            for each in await self._engine.runs.assignments(self._run_id, number)
            if each.kind == "train" and each.state in {"assigned", "reported", "late"}
        }

    async def _asked(self, number: int) -> list[str]:
        return [
            each.client_id
            for each in await self._engine.runs.assignments(self._run_id, number, state="assigned")
            if each.kind == "train"
        ]

    async def _is_awaited(self, found: SecureSum, number: int) -> bool:
        """Tell whether anybody who has not answered still works for this round."""
        return not found.awaited.isdisjoint(await self._asked(number))

    async def _decide(
        self,
        run: RunRecord,
        job: JobSpec,
        current: RoundRecord,
        progress: RoundProgress,
        found: SecureSum,
    ) -> bool:
        """Do what the counters of the round ask for; return whether the collecting is over."""
        target = max(current.target_reports, len(found.roster))
        least = max(current.min_reports, found.survivors_least)
        if self._rerun is not None:
            target = least = len(self._rerun.counted) + len(found.roster)
        decision = decide(progress, job.cohort, target_reports=target, min_reports=least)
        match decision:
            case MarkQuorum():
                await self._engine.runs.mark_quorum(self._lease, current.round)
            case Close(reason) if found.phase is ServerPhase.COLLECTING:
                await self._engine.runs.close_round(self._lease, current.round, reason)
                return True
            case Extend(reason) | GiveUp(reason):
                await self._go_on(run, job, current, reason)
                return True
            case Stop():
                raise StopAskedError
            case _:
                pass
        return False

    async def _go_on(self, run: RunRecord, job: JobSpec, current: RoundRecord, reason: str) -> None:
        """End the attempt, and let the round go on: in parts if its sum was wrong, else anew.

        Raises:
            StopAskedError: the run is to stop.
            QuorumLostError: it cannot go on.
        """
        if self._sum is not None:
            await self._sum.abort(reason)
            self._sum = None
        rerun = await self._secure.rerun(self._run_id, current.round)
        if rerun is None:
            await self._begin_anew(run, job, current, reason)
        elif rerun.pending:
            await self._begin_part(job, current, rerun, reason)
        else:
            await self._settle(job, current)
            await self._engine.runs.close_round(self._lease, current.round, "all parts are summed")

    async def _begin_part(
        self, job: JobSpec, current: RoundRecord, rerun: Rerun, reason: str
    ) -> None:
        """Ask the next group of those whose sum was wrong; the groups before it stay counted."""
        number, group = current.round, rerun.pending[0]
        await self._engine.runs.restart_round(
            self._lease,
            round=number,
            deadline_seconds=job.cohort.deadline_seconds,
            clients=self._seeded(job, number, group),
            reason=reason,
            counted=rerun.counted,
        )
        self._log.warning("part of the round begins", round=number, reason=reason, clients=group)

    async def _settle(self, job: JobSpec, current: RoundRecord) -> None:
        """Tell which parts of a round are left out; check that the others are enough.

        Raises:
            QuorumLostError: they are not.
        """
        rerun = await self._secure.rerun(self._run_id, current.round)
        if rerun is None:
            return
        if rerun.wrong:
            await self._secure.blame(self._lease, current, rerun.wrong)
        counted, number = len(rerun.counted), current.round
        # The default of two thirds would let one liar stop a small federation.
        if counted < max(1, job.cohort.min_reports or 0):
            raise QuorumLostError(
                f"round {number}: the sum was not that of what its clients had committed to, and "
                f"in parts only {counted} updates could be summed"
            )

    async def _begin_anew(
        self, run: RunRecord, job: JobSpec, current: RoundRecord, reason: str
    ) -> None:
        """Ask those again who are there; the spool of the attempt is emptied."""
        runs, number = self._engine.runs, current.round
        if current.attempt >= job.cohort.max_attempts:
            raise QuorumLostError(f"round {number}: {reason}")
        excluded = {*await self._secure.exclusions(self._run_id, number), *await self.suspects()}
        clients, joined = await self._enough(run, job, current, excluded)
        await self._engine.blobs.delete_namespace(update_namespace(self._run_id, number))
        await runs.restart_round(
            self._lease,
            round=number,
            deadline_seconds=job.cohort.deadline_seconds,
            clients=self._seeded(job, number, clients),
            reason=reason,
            joined=joined,
        )
        self._log.warning("round begins anew", round=number, reason=reason, clients=len(clients))

    async def _enough(
        self, run: RunRecord, job: JobSpec, current: RoundRecord, excluded: Collection[str]
    ) -> tuple[list[str], dict[str, int]]:
        """Return who can be asked now, once that may be enough for a sum.

        And who of them comes anew with an update that was made ahead, by its version.

        Raises:
            StopAskedError: the run is to stop.
            QuorumLostError: it was not enough for as long as a round may last.
        """
        clock, began = self._engine.clock, self._engine.clock.monotonic()
        spec = job.secure_aggregation
        needed = max(current.min_reports, survivors_least(spec, 3), spec.threshold or 0)
        patience = max(others_seconds(job), job.secure_aggregation.phase_seconds)
        while True:
            available = self.able(self._engine.directory.available(run.app))
            joined: dict[str, int] = {}
            if self._buffer is not None:
                members = await self._members(current.round)
                joined = await self._buffer.waiting(
                    run, job, current.round - 1, left_out=excluded, busy=members
                )
                available = [each for each in available if each in members or each in joined]
            clients = [client for client in available if client not in excluded]
            if len(clients) >= needed:
                return clients, {name: joined[name] for name in joined if name in clients}
            left = patience - clock.monotonic() + began
            if left <= 0:
                raise QuorumLostError(
                    f"round {current.round}: only {len(clients)} of {needed} clients that a sum "
                    "needs are attached"
                )
            if (await self._engine.runs.get(self._run_id)).stop_requested:
                raise StopAskedError
            await self._engine.directory.wait_for_change(min(left, self._engine.times.look_seconds))
