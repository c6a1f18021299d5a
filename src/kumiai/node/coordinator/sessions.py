"""The sessions that are open right now, one per client.

This is the only state of the coordinator that is not in the database, and it can be: a session
ends with its connection, and a client that attaches again gets its open tasks from the rows.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kumiai.core.clock import Clock
from kumiai.core.errors import ConflictError
from kumiai.node.coordinator.orders import TaskKey, TaskOrder
from kumiai.node.coordinator.secure.sums import VouchedMember
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.secure_parts import parts_of
from kumiai.privacy import ScheduledSum
from kumiai.storage import AssignmentKind, SecureRoundRecord

__all__ = ["ClientSession", "SessionHub", "key_to_wire", "order_to_wire"]

_QUEUE_LIMIT = 1_000
_KINDS: dict[AssignmentKind, pb.TaskKind] = {
    "train": pb.TASK_KIND_TRAIN,
    "evaluate": pb.TASK_KIND_EVALUATE,
    "prepare": pb.TASK_KIND_PREPARE,
}
_UNITS = {"record": pb.PRIVACY_UNIT_RECORD, "client": pb.PRIVACY_UNIT_CLIENT}


def key_to_wire(key: TaskKey) -> pb.TaskKey:
    """Return the key as a message."""
    return pb.TaskKey(run_id=key.run_id, round=key.round, kind=_KINDS[key.kind])


def order_to_wire(order: TaskOrder) -> pb.ServerMessage:
    """Return the order as a message to its client."""
    return pb.ServerMessage(
        task=pb.Task(
            key=key_to_wire(order.key),
            app=order.app,
            rounds_total=order.rounds_total,
            model_digest=order.model_digest,
            model_size_bytes=order.model_size_bytes,
            config_json=order.config_json,
            seed=order.seed,
            deadline_seconds=order.deadline_seconds,
            attempt=order.attempt,
            chunk_bytes=order.chunk_bytes,
            secure=_secure_task(order),
            training=_training_task(order),
            central=_central_task(order),
            ahead=_ahead_task(order),
        )
    )


def _secure_task(order: TaskOrder) -> pb.SecureTask | None:
    if order.examples_per_weight is None:
        return None
    terms = order.privacy
    return pb.SecureTask(
        examples_per_weight=order.examples_per_weight,
        privacy=(
            None
            if terms is None
            else pb.PrivateTask(unit=_UNITS[terms.unit], clip=terms.clip, step=terms.step)
        ),
    )


def _training_task(order: TaskOrder) -> pb.TrainingTask | None:
    terms = order.training
    if terms is None:
        return None
    return pb.TrainingTask(
        clip=terms.clip,
        noise_multiplier=terms.noise_multiplier,
        sampling_rate=terms.sampling_rate,
        steps=terms.steps,
        batch=terms.batch,
        learning_rate=terms.learning_rate,
    )


def _central_task(order: TaskOrder) -> pb.CentralTask | None:
    terms = order.central
    if terms is None:
        return None
    return pb.CentralTask(
        clip=terms.round.clipping_norm,
        noise_multiplier=terms.round.noise_multiplier,
        cohort_size=terms.round.cohort_size,
        counts_unclipped=terms.round.sign_steps > 0,
        opening=terms.opening,
        separation=terms.round.separation if isinstance(terms.round, ScheduledSum) else 1,
    )


def _ahead_task(order: TaskOrder) -> pb.AheadTask | None:
    if order.ahead is None:
        return None
    return pb.AheadTask(
        version=order.ahead.version,
        staleness_max=order.ahead.policy.staleness_max,
        staleness_exponent=order.ahead.policy.staleness_exponent,
    )


@dataclass(eq=False, slots=True)
class ClientSession:
    """One attached client: what it offers, what waits to be sent, how it is doing."""

    client_id: str
    instance_id: str
    address: str
    software_version: str
    apps: tuple[str, ...]
    attached_at: float
    last_heard: float
    clock_skew_seconds: float = 0.0
    known_audit_size: int = 0
    """How many entries of the audit log the client knew to be signed when it came."""
    audit_size: int | None = None
    """How many it has been told since; ``None`` before its welcome."""
    open_trust_offers: int = 0
    """Whether it was offered other roots, and has not answered yet."""
    signing_key: VouchedMember | None = None
    """With which it signs in secure rounds; ``None``: it cannot take part in them."""
    phase: str = "idle"
    outgoing: asyncio.Queue[pb.ServerMessage] = field(
        default_factory=lambda: asyncio.Queue(_QUEUE_LIMIT)
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    end_reason: str = ""

    def send(self, message: pb.ServerMessage) -> None:
        """Queue a message; a client that stops reading for so long is cut off."""
        try:
            self.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self.end("the client does not read its messages")

    def end(self, reason: str) -> None:
        """Let the stream's handler end the session."""
        if not self.ended.is_set():
            self.end_reason = reason
            self.ended.set()


class SessionHub:
    """All attached clients; the engine's `ClientDirectory` over gRPC."""

    def __init__(self, clock: Clock, *, on_change: Callable[[], None] = lambda: None) -> None:
        """Start with no client attached."""
        self._clock = clock
        self._sessions: dict[str, ClientSession] = {}
        self._changed = asyncio.Event()
        self._on_change = on_change

    def attach(self, session: ClientSession) -> None:
        """Take a client in.

        Raises:
            ConflictError: another process with the same identity is attached.
        """
        present = self._sessions.get(session.client_id)
        if present is not None and present.instance_id != session.instance_id:
            raise ConflictError(
                f"client {session.client_id!r} is already attached from {present.address}; "
                "stop that process, or give this site a certificate of its own"
            )
        if present is not None:
            present.end("the same process attached again")
        self._sessions[session.client_id] = session
        self._notify()

    def detach(self, session: ClientSession) -> None:
        """Let a client go; nothing happens if a newer session took its place."""
        session.end("detached")
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
            self._notify()

    def find(self, client_id: str) -> ClientSession | None:
        """Return the client's session."""
        return self._sessions.get(client_id)

    def sessions(self) -> list[ClientSession]:
        """Return all sessions, sorted by client."""
        return [self._sessions[client_id] for client_id in sorted(self._sessions)]

    def available(self, app: str) -> Sequence[str]:
        """Return the ids of the attached clients that offer ``app``, sorted."""
        return sorted(
            client_id for client_id, session in self._sessions.items() if app in session.apps
        )

    def deliver(self, orders: Sequence[TaskOrder]) -> None:
        """Send each order to its client if it is attached."""
        for order in orders:
            if session := self._sessions.get(order.key.client_id):
                session.send(order_to_wire(order))

    def cancel(
        self,
        run_id: str,
        round_number: int | None,
        reason: str,
        *,
        kind: Literal["prepare"] | None = None,
        clients: Collection[str] | None = None,
    ) -> None:
        """Tell every attached client, or these, to drop its tasks of this run, round and kind."""
        key = pb.TaskKey(run_id=run_id, round=round_number or 0)
        if kind is not None:
            key.kind = _KINDS[kind]
        told = self._sessions if clients is None else self._sessions.keys() & set(clients)
        for session in [self._sessions[client_id] for client_id in told]:
            session.send(pb.ServerMessage(cancel=pb.Cancel(key=key, reason=reason)))

    def vouched(self, clients: Collection[str]) -> Mapping[str, VouchedMember]:
        """Return those of the clients that are attached with a signing key, by name."""
        found = {}
        for client_id in clients:
            session = self._sessions.get(client_id)
            if session is not None and session.signing_key is not None:
                found[client_id] = session.signing_key
        return found

    def carry(
        self, clients: Collection[str], attempt: SecureRoundRecord, content: pb.SecureContent
    ) -> None:
        """Send a message of a secure round to each of these clients that is attached."""
        key = (attempt.run_id, attempt.round, attempt.attempt)
        parts = [pb.ServerMessage(secure=part) for part in parts_of(key, content)]
        for client_id in clients:
            if session := self._sessions.get(client_id):
                for part in parts:
                    session.send(part)

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return when a client attached or left, or after the time."""
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await changed.wait()

    def end_all(self, reason: str) -> None:
        """End every session, for a shutdown."""
        for session in self.sessions():
            session.end(reason)

    def _notify(self) -> None:
        # Everybody who waits holds the old event; those who come later wait for the next.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._on_change()
