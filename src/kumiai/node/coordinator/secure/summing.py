"""One attempt to sum a round: the protocol's server with a disk, a network and a clock around it.

What the server asks for is done in its order: records are durable before anything is said. All
computing happens in a worker thread, one call after the other.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import structlog

from kumiai.core import failpoints
from kumiai.core.digest import Buffer
from kumiai.core.errors import CryptoError, KumiaiError, SecureAggregationError
from kumiai.identity import Role
from kumiai.identity.audit import Act, Actor, NewEntry
from kumiai.identity.audit import Outcome as Ended
from kumiai.node.auditing.actors import said_by_stranger, subject_of
from kumiai.node.coordinator.namespaces import sum_namespace, update_namespace
from kumiai.node.coordinator.secure.mailbox import Letter
from kumiai.node.coordinator.secure.reruns import encode_wrong
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.secagg import (
    Action,
    Exclude,
    KeptSum,
    Outcome,
    Persist,
    Publish,
    RoundDescriptor,
    Send,
    ServerPhase,
    ServerRound,
    Stop,
)
from kumiai.storage import (
    BlobStore,
    ClientExclusion,
    Lease,
    SecureRoundRecord,
    SecureRoundRepository,
    UpdateRecord,
)

__all__ = ["Carrier", "SecureSum", "SumParts"]

_T = TypeVar("_T")
_BLOCK_BYTES: Final = 1 << 20


class Carrier(Protocol):
    """Brings the coordinator's messages to clients that are there."""

    def carry(
        self, clients: Collection[str], attempt: SecureRoundRecord, content: pb.SecureContent
    ) -> None:
        """Send a message to each of these clients that is attached; the others ask later."""
        ...


@dataclass(frozen=True, slots=True)
class SumParts:
    """What every sum works with."""

    repository: SecureRoundRepository
    blobs: BlobStore
    carrier: Carrier
    worker: Executor

    async def in_worker(self, call: Callable[..., _T], *arguments: object) -> _T:
        """Return what a call gives that may take long."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.worker, lambda: call(*arguments))


@dataclass(slots=True)
class _Result:
    """What came of an attempt so far."""

    outcome: Outcome | None = None
    stopped: Stop | None = None


class SecureSum:
    """An attempt that is under way."""

    def __init__(
        self,
        parts: SumParts,
        lease: Lease,
        attempt: SecureRoundRecord,
        server: ServerRound,
        *,
        record_count: int,
    ) -> None:
        """Go on with an attempt.

        Args:
            parts: shared with others.
            lease: of the run.
            attempt: which.
            server: new, or restored from the attempt's records.
            record_count: how many there are.
        """
        self._parts = parts
        self._lease = lease
        self._attempt = attempt
        self._server = server
        self._record_count = record_count
        self._result = _Result(stopped=server.stopped)
        self._opening = pb.SecureContent(opening=pb.SecureOpening.FromString(attempt.opening))
        self._descriptor = RoundDescriptor.decode(self._opening.opening.descriptor)
        self._log = structlog.get_logger("kumiai.secure").bind(
            run=attempt.run_id, round=attempt.round, attempt=attempt.attempt
        )

    @property
    def attempt(self) -> SecureRoundRecord:
        """Which attempt this is."""
        return self._attempt

    @property
    def descriptor(self) -> RoundDescriptor:
        """What was agreed on."""
        return self._descriptor

    @property
    def roster(self) -> frozenset[str]:
        """Who was invited."""
        return frozenset(member.name for member in self._descriptor.roster)

    @property
    def survivors_least(self) -> int:
        """How many updates there must be for a sum."""
        return self._descriptor.minimum_survivors

    @property
    def phase(self) -> ServerPhase:
        """What it waits for."""
        return self._server.phase

    @property
    def turn(self) -> object:
        """What is asked of the clients now; what is asked next has a time of its own."""
        return self._server.turn

    @property
    def awaited(self) -> frozenset[str]:
        """Whose answers may still come in this phase."""
        return frozenset(self._server.awaited)

    @property
    def outcome(self) -> Outcome | None:
        """The sum, once a quorum of clients has checked it."""
        return self._result.outcome

    @property
    def stopped(self) -> str | None:
        """Why there will be no sum, if that is so."""
        stopped = self._result.stopped
        return None if stopped is None else stopped.reason

    @property
    def is_over(self) -> bool:
        """Whether there is a sum, or will be none."""
        return self.outcome is not None or self.stopped is not None

    async def announce(self, clients: Collection[str]) -> None:
        """Tell clients of the round and of its present phase: at its begin, and who comes back.

        Raises:
            StorageError: the sum cannot be stored for them.
        """
        self._parts.carrier.carry(clients, self._attempt, self._opening)
        for action in await self._parts.in_worker(self._server.announce):
            match action:
                case Publish(outcome):
                    self._result.outcome = outcome
                case Send() if self._result.outcome is None:
                    await self._say(action, set(action.recipients) & set(clients))
                case _:
                    pass

    async def take(self, letters: Iterable[Letter]) -> None:
        """Hear what clients said, and do what follows.

        Raises:
            FencedError: another leads the run.
            StorageError: records could not be written; begin again from what is written.
        """
        key = (self._attempt.run_id, self._attempt.round, self._attempt.attempt)
        actions: list[Action] = []
        for letter in letters:
            if letter.key != key:
                continue
            try:
                actions += await self._parts.in_worker(
                    self._server.receive, letter.client_id, letter.envelope, letter.attachment
                )
            except KumiaiError as error:  # the message's fault: nothing has changed
                self._log.warning("message refused", client=letter.client_id, reason=str(error))
        await self._do(actions)

    async def add(self, updates: Sequence[UpdateRecord]) -> None:
        """Add the masked vectors that have come; those that are in the sum are passed over.

        Raises:
            FencedError: another leads the run.
            StorageError: as `take`, or a vector cannot be read.
        """
        for update in updates:
            named = self._server.named_uploads.get(update.client_id)
            if named is None:
                continue
            try:
                self._verify_named(update, named)
                actions = await self._parts.in_worker(
                    self._server.add_upload, update.client_id, self._blocks_of(update)
                )
            except (SecureAggregationError, CryptoError) as error:
                actions = await self._parts.in_worker(
                    self._server.exclude, update.client_id, f"uploaded what it must not: {error}"
                )
            await self._do(actions)

    def lacks(self, updates: Sequence[UpdateRecord]) -> bool:
        """Tell whether a vector is here whose client has not named it yet: its word is on the way.

        The two come over connections of their own.
        """
        if self.phase is not ServerPhase.COLLECTING:
            return False
        here = {update.client_id for update in updates}
        return not here.isdisjoint(self._server.awaited)

    async def end_phase(self) -> None:
        """End the phase with those who have answered.

        Raises:
            FencedError: another leads the run.
            StorageError: as `take`.
        """
        self._log.info(
            "phase ended", phase=self.phase.name.lower(), without=len(self._server.awaited)
        )
        await self._do(await self._parts.in_worker(self._server.end_phase))

    async def conclude(self) -> None:
        """End the attempt with its sum; what makes the receipts is kept with it.

        Raises:
            FencedError: another leads the run.
            StorageError: as `take`; calling again is safe.
            SecureAggregationError: there is no sum.
        """
        outcome = self._result.outcome
        if outcome is None:
            raise SecureAggregationError("attempt must have a sum to end with, got none")
        namespace = sum_namespace(self._attempt.run_id, self._attempt.round)
        digest = await self._parts.blobs.put(namespace, [outcome.total.data.cast("B")])
        kept = KeptSum.of(outcome, bytes.fromhex(digest), self._server.proven)
        await self._parts.repository.end(self._lease, self._attempt, "done", result=kept.encode())

    async def abort(self, reason: str) -> None:
        """End the attempt without a sum, and tell everybody who is there.

        Raises:
            FencedError: another leads the run.
            StorageError: as `take`; calling again is safe.
        """
        if self.phase < ServerPhase.PUBLISHED:
            await self._do(await self._parts.in_worker(self._server.abandon, reason))
        stopped = self._result.stopped or Stop(reason)
        if stopped.wrong is None:
            await self._parts.repository.end(self._lease, self._attempt, "aborted", stopped.reason)
        else:
            result = encode_wrong(stopped.wrong)
            await self._parts.repository.end(
                self._lease, self._attempt, "wrong", stopped.reason, result=result
            )

    # ------------------------------------------------------------------------------------ actions

    async def _do(self, actions: Sequence[Action]) -> None:
        """Do what the server asks for; all records go first, in one transaction."""
        records = [action.record for action in actions if isinstance(action, Persist)]
        if records:
            await self._parts.repository.append(
                self._lease,
                self._attempt,
                self._record_count,
                records,
                exclusions=[
                    self._exclusion(action) for action in actions if isinstance(action, Exclude)
                ],
            )
            self._record_count += len(records)
            failpoints.reach("coordinator.secure.recorded")
        for action in actions:
            match action:
                case Send() if self._result.outcome is None:
                    await self._say(action, action.recipients)
                case Exclude(client, reason):
                    self._log.error("client excluded", client=client, reason=reason)
                case Publish(outcome):
                    self._result.outcome = outcome
                case Stop(reason):
                    self._result.stopped = action
                    self._log.warning("sum abandoned", reason=reason)
                case _:
                    pass

    def _exclusion(self, action: Exclude) -> ClientExclusion:
        attempt = self._attempt
        entry = NewEntry(
            Act.CLIENT_EXCLUDED,
            Actor(Role.CLIENT.value, action.client),
            subject_of("run", attempt.run_id),
            Ended.REFUSED,
            {
                "round": attempt.round,
                "attempt": attempt.attempt,
                "reason": said_by_stranger(action.reason),
                "evidence": hashlib.sha256(action.evidence).hexdigest() if action.evidence else "",
            },
        )
        return ClientExclusion(action.client, action.reason, entry)

    async def _say(self, send: Send, clients: Collection[str]) -> None:
        if not clients:
            return
        message = pb.SecureMessage(envelope=send.message, attachment=send.attachment)
        if send.vector is not None:
            namespace = sum_namespace(self._attempt.run_id, self._attempt.round)
            message.vector_digest = await self._parts.blobs.put(namespace, [send.vector])
            message.vector_size_bytes = send.vector.nbytes
        self._parts.carrier.carry(clients, self._attempt, pb.SecureContent(message=message))

    def _verify_named(self, update: UpdateRecord, named: bytes) -> None:
        if update.digest != named.hex():
            raise SecureAggregationError(
                f"vector must be {named.hex()[:12]}, which its client signed, "
                f"got {update.digest[:12]}"
            )

    def _blocks_of(self, update: UpdateRecord) -> Callable[[], Iterator[Buffer]]:
        namespace = update_namespace(self._attempt.run_id, self._attempt.round, update.client_id)

        def blocks() -> Iterator[Buffer]:
            with self._parts.blobs.open_buffer(namespace, update.digest) as buffer:
                view = memoryview(buffer)
                for start in range(0, view.nbytes, _BLOCK_BYTES):
                    yield view[start : start + _BLOCK_BYTES]

        return blocks
