"""Takes finished updates in: check, record, and only then say so.

An update is accepted when its bytes are durable under its digest, they parse as named arrays
of the model's layout with finite numbers, its metrics have names that a client may use, and its
row is committed. One path for updates that came over gRPC and for those of virtual clients.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kumiai.core import failpoints
from kumiai.core.codec import decode
from kumiai.core.errors import CodecError, UpdateRejectedError
from kumiai.learning import dimension_of, verify_report, verify_update
from kumiai.node.central_rounds import central_round_of
from kumiai.node.coordinator.central import contribution_in
from kumiai.node.coordinator.metric_names import verify_client_metric_names
from kumiai.node.coordinator.namespaces import update_namespace
from kumiai.node.coordinator.run_facts import RunFacts, RunFactsCache
from kumiai.node.coordinator.signals import RunSignals
from kumiai.privacy import ClippedSum
from kumiai.storage import (
    AcceptOutcome,
    AcceptRequest,
    BlobStore,
    RunRepository,
    UpdateInbox,
)

__all__ = ["FinishedUpdate", "IntakeResult", "UpdateIntake"]

_HEADER_SLACK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FinishedUpdate:
    """An update whose bytes are all there, sent for an attempt of its round."""

    run_id: str
    round: int
    attempt: int
    client_id: str
    digest: str
    size_bytes: int
    examples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What became of it, and why, in words for the client's log."""

    outcome: AcceptOutcome | None
    """``None``: refused for its content."""
    reason: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether the update stands in the sum."""
        return self.outcome in {AcceptOutcome.ACCEPTED, AcceptOutcome.DUPLICATE}


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0


class UpdateIntake:
    """Checks and records finished updates."""

    def __init__(
        self,
        *,
        runs: RunRepository,
        inbox: UpdateInbox,
        blobs: BlobStore,
        signals: RunSignals,
        facts: RunFactsCache,
        executor: Executor | None,
    ) -> None:
        """Work on these stores.

        Content is checked in ``executor``; ``None`` checks at once, for models so small that
        waking a thread would take longer.
        """
        self._runs = runs
        self._inbox = inbox
        self._blobs = blobs
        self._signals = signals
        self._executor = executor
        self._facts = facts
        self._finishing: dict[tuple[str, int, str], _Turn] = {}

    async def size_limit(self, run_id: str) -> int:
        """Return how large an update of this run may be, in bytes.

        Raises:
            NotFoundError: no such run.
        """
        facts = await self._facts.get(run_id)
        if facts.job.secure_aggregation.is_on:
            return masked_size_limit(facts)
        if _central_round(facts) is not None:
            # A number in steps takes four bytes, whatever the model's numbers take.
            return 4 * dimension_of(facts.layout) + _HEADER_SLACK_BYTES
        return facts.model_size_bytes + _HEADER_SLACK_BYTES

    async def finish(self, update: FinishedUpdate) -> IntakeResult:
        """Check and record an update whose blob is committed.

        Raises:
            StorageError: nothing was acknowledged; the same call may be made again.
        """
        async with self._turn(update):
            return await self._finish(update)

    @asynccontextmanager
    async def _turn(self, update: FinishedUpdate) -> AsyncIterator[None]:
        """Let one client's updates of one round follow one another.

        A refused one takes its blob along; the same bytes must not be on their way into the sum.
        """
        key = (update.run_id, update.round, update.client_id)
        turn = self._finishing.setdefault(key, _Turn())
        turn.count += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.count -= 1
            if not turn.count:
                del self._finishing[key]

    async def _finish(self, update: FinishedUpdate) -> IntakeResult:
        facts = await self._facts.get(update.run_id)
        try:
            verify_client_metric_names(update.metrics)
            _verify_tells_nothing(update, facts)
            await self._check_content(update, facts)
        except (UpdateRejectedError, CodecError) as error:
            return await self._refuse(update, str(error))
        failpoints.reach("coordinator.update.checked")
        outcome = await self._inbox.accept(
            AcceptRequest(
                run_id=update.run_id,
                round=update.round,
                attempt=update.attempt,
                client_id=update.client_id,
                digest=update.digest,
                size_bytes=update.size_bytes,
                examples=update.examples,
                metrics=dict(update.metrics),
            )
        )
        failpoints.reach("coordinator.update.accepted")
        # What was hidden for an attempt is of no use in another; what was not comes again.
        is_hidden = facts.job.secure_aggregation.is_on
        if outcome in _USELESS or (outcome is AcceptOutcome.OVERTAKEN and is_hidden):
            await self._drop(update)
        self._signals.report(update.run_id)
        return IntakeResult(outcome, _REASONS[outcome])

    async def _refuse(self, update: FinishedUpdate, reason: str) -> IntakeResult:
        was_open = await self._runs.fail_assignment(
            update.run_id,
            update.round,
            update.client_id,
            "train",
            state="refused",
            reason=reason,
            attempt=update.attempt,
        )
        if was_open:  # else the same bytes, told of otherwise, may stand in the sum already
            await self._drop(update)
        self._signals.wake(update.run_id)
        return IntakeResult(None, reason)

    async def _drop(self, update: FinishedUpdate) -> None:
        # By digest: another update of the same client may stand in the sum already.
        await self._blobs.delete(
            update_namespace(update.run_id, update.round, update.client_id), update.digest
        )

    async def _check_content(self, update: FinishedUpdate, facts: RunFacts) -> None:
        if facts.job.secure_aggregation.is_on:
            # Nothing in it can be read here; whoever sums checks it against what its client signed.
            verify_report(update.examples, update.metrics, examples_max=facts.job.examples_max)
            return
        if self._executor is None:
            self._verify(update, facts)
        else:
            await asyncio.get_running_loop().run_in_executor(
                self._executor, self._verify, update, facts
            )

    def _verify(self, update: FinishedUpdate, facts: RunFacts) -> None:
        namespace = update_namespace(update.run_id, update.round, update.client_id)
        with self._blobs.open_buffer(namespace, update.digest) as buffer:
            if (this := _central_round(facts)) is not None:
                contribution_in(buffer, this, dimension_of(facts.layout))
                return
            verify_update(
                decode(buffer).arrays,
                facts.layout,
                update.examples,
                update.metrics,
                examples_max=facts.job.examples_max,
            )


def _central_round(facts: RunFacts) -> ClippedSum | None:
    """Return what contributions are checked by; ``None``: they are no such thing."""
    privacy = facts.job.privacy
    if privacy is None or privacy.noise != "central":
        return None
    # In steps a contribution is as long whatever the clip, so that the first round's will do.
    return central_round_of(facts.job, privacy, privacy.clip)


def _verify_tells_nothing(update: FinishedUpdate, facts: RunFacts) -> None:
    if facts.job.privacy is not None and (update.examples != 1 or update.metrics):
        raise UpdateRejectedError(
            # Not how many: these words are kept and shown.
            "update of a private round must come without metrics and count as one example, got "
            "more, which would be told without noise"
        )


def masked_size_limit(facts: RunFacts) -> int:
    """Return how large a hidden vector may be, in bytes: the numbers, the weight, the blindings."""
    words = (dimension_of(facts.layout) + 1) * facts.job.secure_aggregation.ring_bits // 8
    masked = words + words // 64 + _HEADER_SLACK_BYTES
    # A ciphertext is twice as long as what is in it, and that has room for the sum of all.
    return 4 * masked if facts.job.secure_aggregation.mode == "paillier" else masked


_USELESS = {AcceptOutcome.LATE, AcceptOutcome.NOT_ASSIGNED}
_REASONS = {
    AcceptOutcome.ACCEPTED: "",
    AcceptOutcome.DUPLICATE: "",
    AcceptOutcome.CONFLICT: "another update of this client already stands for this round",
    AcceptOutcome.LATE: "the round is closed",
    AcceptOutcome.OVERTAKEN: "another attempt of the round is asked for",
    AcceptOutcome.NOT_ASSIGNED: "the client is not asked for this round",
}
