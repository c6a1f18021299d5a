"""`kumiai.v1.Session/Attach`: one stream per client, for as long as the client is there.

The order at the beginning matters: the session is taken into the hub before the open tasks are
read from the rows. A round that opens in between is delivered twice, never not at all, and the
client knows a task that it already has by its key.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from kumiai import __version__
from kumiai.core.clock import Clock
from kumiai.core.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    KumiaiError,
    NotFoundError,
    UpdateRejectedError,
)
from kumiai.core.ids import verify_name
from kumiai.identity import Principal, Refusal
from kumiai.identity.audit import Act, AuditSink, Outcome
from kumiai.node.auditing.actors import actor_of
from kumiai.node.coordinator.checkpoint_offers import CheckpointOffers, size_of
from kumiai.node.coordinator.evaluations import EvaluationIntake
from kumiai.node.coordinator.orders import TaskKey, verify_named_task
from kumiai.node.coordinator.secure.desk import SecureDesk
from kumiai.node.coordinator.sessions import ClientSession, SessionHub, order_to_wire
from kumiai.node.coordinator.signals import RunSignals
from kumiai.node.coordinator.sites import SiteOffice
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.coordinator.trust_offers import TrustOffers
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, CONTROL_BYTES_MAX, PROTOCOL_VERSION
from kumiai.node.wire.peers import caller_of, refusal_of
from kumiai.node.wire.secure_parts import PartCollector
from kumiai.storage import AssignmentKind, ClientRegistryRepository, RunRepository

__all__ = ["SessionService", "SessionTimes"]

_APPS_MAX = 64
_REASON_CHARACTERS_MAX = 2_000
_KINDS: dict[pb.TaskKind, AssignmentKind] = {
    pb.TASK_KIND_TRAIN: "train",
    pb.TASK_KIND_EVALUATE: "evaluate",
    pb.TASK_KIND_PREPARE: "prepare",
}
_PHASES = {
    pb.TASK_PHASE_FETCHING: "fetching the model",
    pb.TASK_PHASE_COMPUTING: "computing",
    pb.TASK_PHASE_UPLOADING: "uploading",
}

_Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """How long the coordinator waits for a client's word."""

    heartbeat_seconds: float = 5.0
    silence_seconds: float = 20.0
    """A session without any message for this long is over."""
    hello_seconds: float = 10.0
    takeover_seconds: float = 2.0
    """How long a present twin has to prove that it is alive before a newcomer replaces it."""


class SessionService:
    """Serves the sessions of all clients."""

    def __init__(
        self,
        *,
        coordinator_id: str,
        hub: SessionHub,
        runs: RunRepository,
        clients: ClientRegistryRepository,
        evaluations: EvaluationIntake,
        tasks: TaskWriter,
        signals: RunSignals,
        clock: Clock,
        times: SessionTimes,
        checkpoints: CheckpointOffers,
        audit: AuditSink,
        sites: SiteOffice,
        trust: TrustOffers,
        secure: SecureDesk,
    ) -> None:
        """Work with these; `attach` is the gRPC handler."""
        self._coordinator_id = coordinator_id
        self._hub = hub
        self._runs = runs
        self._clients = clients
        self._evaluations = evaluations
        self._tasks = tasks
        self._signals = signals
        self._clock = clock
        self._times = times
        self._checkpoints = checkpoints
        self._audit = audit
        self._sites = sites
        self._trust = trust
        self._secure = secure
        self._log = structlog.get_logger("kumiai.session")

    async def attach(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        """Serve one client until either side ends the session."""
        caller = caller_of()
        session = await self._greet(caller, requests, context)
        log = self._log.bind(client=session.client_id, address=session.address)
        try:
            await self._register(session)
            await self._send_open_tasks(session)
            self._secure.arrive(session.client_id)
            self._audit.record(Act.CLIENT_ATTACHED, "", Outcome.DONE, actor_of(caller), {})
            log.info("client attached", apps=list(session.apps), version=session.software_version)
            await self._serve(session, requests, context)
        except asyncio.CancelledError:
            refusal = refusal_of()
            session.end("the connection was lost" if refusal is None else str(refusal))
            if refusal is not None:
                await self._drop(session)
            raise
        except KumiaiError as error:  # not in gRPC's words: they would show the client our insides
            await self._end_for(error, session, context)
        finally:
            self._hub.detach(session)
            self._audit.record(Act.CLIENT_DETACHED, "", Outcome.DONE, actor_of(caller), {})
            log.info("client detached", reason=session.end_reason)
            with contextlib.suppress(KumiaiError):
                await self._clients.detach(session.client_id, session.instance_id)

    async def _greet(
        self, caller: Principal, requests: AsyncIterator[bytes], context: _Context
    ) -> ClientSession:
        try:
            async with asyncio.timeout(self._times.hello_seconds):
                first = await anext(requests)
            hello = _parse_hello(first)
        except (TimeoutError, StopAsyncIteration, DecodeError, ValueError):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a hello"
            )
        if hello.protocol_version != PROTOCOL_VERSION:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"protocol version must be {PROTOCOL_VERSION}, got {hello.protocol_version}: "
                f"install a client of the coordinator's version ({__version__})",
            )
        if (fault := _fault_of(hello)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, fault)
        session = ClientSession(
            client_id=caller.name,
            instance_id=hello.instance_id,
            address=context.peer(),
            software_version=hello.software_version[:64],
            apps=tuple(hello.apps),
            attached_at=self._clock.now(),
            last_heard=self._clock.monotonic(),
            clock_skew_seconds=hello.wall_time - self._clock.now(),
            known_audit_size=hello.audit_size,
            signing_key=await self._secure.signing_key(caller, hello.voucher),
        )
        await self._make_room(session)
        try:
            # Before the hub knows of it: a round that opens then sends its tasks at once.
            session.send(await self._new_welcome(session))
            self._hub.attach(session)
        except ConflictError as error:
            self._log.warning("twin refused", client=session.client_id, address=session.address)
            await self._tell_refused(Refusal.ALREADY_ATTACHED)
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
        except KumiaiError as error:
            self._log.error("session failed", client=session.client_id, error=str(error))
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "the coordinator can not welcome this client now"
            )
        return session

    async def _make_room(self, newcomer: ClientSession) -> None:
        """Give a present session of the same client the time to prove that it is alive.

        A process that was killed on a machine that went away leaves its session behind; its
        successor must not wait for the time-out. A living twin keeps its place.
        """
        present = self._hub.find(newcomer.client_id)
        if present is None or present.instance_id == newcomer.instance_id:
            return
        asked_at = self._clock.monotonic()
        present.send(pb.ServerMessage(heartbeat=pb.Heartbeat(sequence=0)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._times.takeover_seconds):
                await present.ended.wait()
        if present.last_heard < asked_at:
            present.end("a newer process of this client took its place")
            self._hub.detach(present)

    async def _register(self, session: ClientSession) -> None:
        await self._clients.attach(
            client_id=session.client_id,
            instance_id=session.instance_id,
            software_version=session.software_version,
            apps=list(session.apps),
            address=session.address,
        )

    async def _new_welcome(self, session: ClientSession) -> pb.ServerMessage:
        offered = await self._checkpoints.offer(session.known_audit_size)
        session.audit_size = session.known_audit_size if offered is None else size_of(offered)
        return pb.ServerMessage(
            welcome=pb.Welcome(
                protocol_version=PROTOCOL_VERSION,
                coordinator_id=self._coordinator_id,
                heartbeat_seconds=self._times.heartbeat_seconds,
                wall_time=self._clock.now(),
                software_version=__version__,
                audit=offered,
                trust=self._trust.offer_to(session),
            )
        )

    async def _send_open_tasks(self, session: ClientSession) -> None:
        for order in await self._tasks.open_orders(session.client_id):
            session.send(order_to_wire(order))

    async def _serve(
        self, session: ClientSession, requests: AsyncIterator[bytes], context: _Context
    ) -> None:
        workers = {
            asyncio.create_task(self._write(session, context)),
            asyncio.create_task(self._read(session, requests)),
            asyncio.create_task(self._watch(session)),
            asyncio.create_task(session.ended.wait()),
        }
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        for worker in done:
            if (error := worker.exception()) is not None:
                await self._end_for(error, session, context)
        if session.ended.is_set() and session.end_reason:
            # Cancelling the handler's task would leave the client waiting; abort tells it.
            await context.abort(grpc.StatusCode.UNAVAILABLE, session.end_reason)

    async def _end_for(
        self, error: BaseException, session: ClientSession, context: _Context
    ) -> None:
        match error:
            case DecodeError() | ValueError():
                session.end("a message could not be read")
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, session.end_reason)
            case KumiaiError():
                session.end("the coordinator can not record this client's messages now")
                self._log.error("session failed", client=session.client_id, error=str(error))
                await context.abort(grpc.StatusCode.UNAVAILABLE, session.end_reason)
            case _:
                session.end("the connection was lost")
                raise error

    async def _write(self, session: ClientSession, context: _Context) -> None:
        while True:
            message = await session.outgoing.get()
            await context.write(message.SerializeToString())

    async def _read(self, session: ClientSession, requests: AsyncIterator[bytes]) -> None:
        collector = self._secure.collector()
        async for raw in requests:
            message = _parse(raw)
            session.last_heard = self._clock.monotonic()
            match message.WhichOneof("body"):
                case "heartbeat":
                    session.send(pb.ServerMessage(heartbeat=message.heartbeat))
                case "progress":
                    self._note_progress(session, message.progress)
                case "failure":
                    await self._take_failure(session, message.failure)
                case "evaluation":
                    await self._take_evaluation(session, message.evaluation)
                case "prepared":
                    await self._take_prepared(session, message.prepared)
                case "renewal":
                    await self._take_renewal(session, message.renewal)
                case "secure":
                    await self._take_secure(session, message.secure, collector)
                case "trust":
                    self._trust.take(session, message.trust, by=actor_of(caller_of()))
                case _:
                    raise ValueError("a session's message must have a known body")
        session.end("the client ended the session")

    async def _take_secure(
        self, session: ClientSession, part: pb.SecurePart, collector: PartCollector
    ) -> None:
        for answer in await self._secure.take(session.client_id, part, collector):
            session.send(pb.ServerMessage(secure=answer))

    async def _watch(self, session: ClientSession) -> None:
        """End the session of a client that is silent."""
        while True:
            await asyncio.sleep(min(self._times.heartbeat_seconds, 5.0) / 2)
            silence = self._clock.monotonic() - session.last_heard
            if silence > self._times.silence_seconds:
                session.end(f"no word for {silence:.0f} s")

    async def _drop(self, session: ClientSession) -> None:
        """Give up the open tasks of a client that is sent away for good: nobody waits for it."""
        if self._hub.find(session.client_id) is not session:
            return
        try:
            for task in await self._runs.open_assignments(session.client_id):
                await self._runs.fail_assignment(
                    task.run_id,
                    task.round,
                    task.client_id,
                    task.kind,
                    state="failed",
                    reason=session.end_reason,
                )
                self._signals.wake(task.run_id)
        except KumiaiError as error:
            # The round's deadline gives them up then.
            self._log.error("tasks not given up", client=session.client_id, error=str(error))

    async def _tell_refused(self, refusal: Refusal) -> None:
        """Let the audit log have it before the client has its answer."""
        actor, detail = actor_of(caller_of()), {"refusal": refusal.value, "call": ATTACH}
        self._audit.record_refusal(
            Act.AUTHENTICATION_REFUSED, "", actor, detail, caller=f"{actor.role}/{actor.name}"
        )
        await self._audit.written()

    def _note_progress(self, session: ClientSession, progress: pb.TaskProgress) -> None:
        phase = _PHASES.get(progress.phase, "idle")
        session.phase = f"round {progress.key.round}: {phase}"
        if progress.fraction > 0:
            session.phase += f" ({min(progress.fraction, 1.0):.0%})"

    async def _take_failure(self, session: ClientSession, failure: pb.TaskFailure) -> None:
        kind = _KINDS.get(failure.key.kind, "train")
        reason = failure.reason[:_REASON_CHARACTERS_MAX]
        session.phase = "idle"
        try:
            verify_named_task(failure.key.run_id, failure.key.round, failure.attempt)
        except NotFoundError as error:
            _answer(session, failure.key, accepted=False, reason=str(error))
            return
        await self._runs.fail_assignment(
            failure.key.run_id,
            failure.key.round,
            session.client_id,
            kind,
            state="failed",
            reason=reason,
            attempt=failure.attempt,
        )
        _answer(session, failure.key, accepted=True)
        self._signals.wake(failure.key.run_id)

    async def _take_evaluation(self, session: ClientSession, report: pb.EvaluationReport) -> None:
        key = TaskKey(report.key.run_id, report.key.round, "evaluate", session.client_id)
        session.phase = "idle"
        try:
            verify_named_task(key.run_id, key.round)
            accepted = await self._evaluations.accept(key, report.examples, dict(report.metrics))
        except UpdateRejectedError as error:
            # Else the run would wait for another report, which can not come.
            await self._runs.fail_assignment(
                key.run_id,
                key.round,
                session.client_id,
                "evaluate",
                state="refused",
                reason=str(error),
            )
            _answer(session, report.key, accepted=False, reason=str(error))
            self._signals.wake(key.run_id)
        except (NotFoundError, ConflictError) as error:
            _answer(session, report.key, accepted=False, reason=str(error))
        else:
            _answer(session, report.key, accepted=accepted)

    async def _take_prepared(self, session: ClientSession, prepared: pb.Prepared) -> None:
        run_id, version = prepared.key.run_id, prepared.key.round
        session.phase = "idle"
        try:
            verify_named_task(run_id, version)
        except NotFoundError as error:
            _answer(session, prepared.key, accepted=False, reason=str(error))
            return
        waits = await self._runs.report_prepared(run_id, version, session.client_id)
        _answer(session, prepared.key, accepted=waits)
        self._signals.wake(run_id)

    async def _take_renewal(self, session: ClientSession, wanted: pb.CertificateRequest) -> None:
        try:
            done = await self._sites.renew(
                session.client_id,
                wanted.request.encode("ascii", "replace"),
                address=session.address,
            )
        except (DeniedError, ConflictError) as error:
            self._log.warning("not renewed", client=session.client_id, reason=str(error))
            await self._tell_refused(Refusal.BAD_ENROLMENT)
            answer = pb.CertificateAnswer(reason=str(error))
        else:
            answer = pb.CertificateAnswer(chain=done.chain.decode("ascii"))
        session.send(pb.ServerMessage(renewed=answer))


def _answer(session: ClientSession, key: pb.TaskKey, *, accepted: bool, reason: str = "") -> None:
    session.send(pb.ServerMessage(receipt=pb.Receipt(key=key, accepted=accepted, reason=reason)))


def _fault_of(hello: pb.Hello) -> str | None:
    """Return what is wrong with what a client says of itself; it is shown to operators."""
    if not hello.instance_id or len(hello.apps) > _APPS_MAX:
        return f"hello must carry an instance id and at most {_APPS_MAX} apps"
    if not math.isfinite(hello.wall_time):
        return f"wall_time must be finite, got {hello.wall_time}"
    try:
        for name in (hello.instance_id, *hello.apps):
            verify_name("instance id and each app", name)
    except ConfigError as error:
        return str(error)
    return None


def _parse(raw: bytes) -> pb.ClientMessage:
    if len(raw) > CONTROL_BYTES_MAX:
        raise ValueError(f"a message must be at most {CONTROL_BYTES_MAX} bytes, got {len(raw)}")
    return pb.ClientMessage.FromString(raw)


def _parse_hello(raw: bytes) -> pb.Hello:
    message = _parse(raw)
    if message.WhichOneof("body") != "hello":
        raise ValueError("a session must begin with a hello")
    return message.hello
