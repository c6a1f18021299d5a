"""`kumiai.v1.Blob`: models go out, updates come in, as raw chunks that can be resumed.

A put is one header message and then chunks. The bytes are hashed and spooled while they arrive;
a connection that breaks leaves a partial file, and the client goes on where it stopped.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from kumiai.core import failpoints
from kumiai.core.digest import verify_digest_text
from kumiai.core.errors import ConflictError, IntegrityError, KumiaiError, NotFoundError
from kumiai.node.coordinator.intake import (
    FinishedUpdate,
    IntakeResult,
    UpdateIntake,
)
from kumiai.node.coordinator.namespaces import (
    model_namespace,
    sum_namespace,
    update_namespace,
)
from kumiai.node.coordinator.orders import verify_named_task
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import CHUNK_BYTES, CONTROL_BYTES_MAX, chunk_bytes_for
from kumiai.node.wire.peers import caller_of
from kumiai.storage import AcceptOutcome, BlobStore, BlobWriter, RunRepository

__all__ = ["BlobService", "TransferMeter"]

_PUTS_PER_CLIENT_MAX = 4
_GETS_PER_CLIENT_MAX = 8
_DIGESTS_PER_TASK_MAX = 4
_TASKS_REMEMBERED = 10_000
_READERS_REMEMBERED = 10_000
_READ_AHEAD = 2

_Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class TransferMeter:
    """How many bytes went which way; the metrics page reads it."""

    __slots__ = ("received_bytes", "sent_bytes")

    def __init__(self) -> None:
        """Start at zero."""
        self.received_bytes = 0
        self.sent_bytes = 0


class BlobService:
    """Serves `Put`, `Stat` and `Get` to clients."""

    def __init__(
        self,
        *,
        runs: RunRepository,
        blobs: BlobStore,
        intake: UpdateIntake,
        meter: TransferMeter,
        stall_seconds: float = 120.0,
    ) -> None:
        """Work with these; `put`, `stat` and `get` are the gRPC handlers.

        A put of which nothing comes for ``stall_seconds`` is ended.
        """
        self._runs = runs
        self._blobs = blobs
        self._intake = intake
        self._meter = meter
        self._stall_seconds = stall_seconds
        self._puts: Counter[str] = Counter()
        self._gets: Counter[str] = Counter()
        self._begun: OrderedDict[tuple[str, int, int, str], set[str]] = OrderedDict()
        self._readers: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._log = structlog.get_logger("kumiai.transfer")

    async def put(self, requests: AsyncIterator[bytes], context: _Context) -> bytes:
        """Receive one update."""
        client_id = caller_of().name
        with _one_of(self._puts, client_id, _PUTS_PER_CLIENT_MAX) as is_free:
            if not is_free:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"a client may send {_PUTS_PER_CLIENT_MAX} updates at a time",
                )
            try:
                result = await self._put(client_id, requests)
            except (KumiaiError, DecodeError, TimeoutError) as error:
                await self._refuse(error, client_id, context)
                raise
        return result.SerializeToString()

    async def stat(self, request: bytes, context: _Context) -> bytes:
        """Tell how many bytes of an update are already here."""
        client_id = caller_of().name
        try:
            stat = pb.StatRequest.FromString(request)
            verify_named_task(stat.run_id, stat.round)
            received = await self._blobs.received_bytes(
                update_namespace(stat.run_id, stat.round, client_id),
                verify_digest_text(stat.digest),
            )
        except (KumiaiError, DecodeError) as error:
            await self._refuse(error, client_id, context)
            raise
        return pb.StatResult(received_bytes=received).SerializeToString()

    async def get(self, request: bytes, context: _Context) -> AsyncIterator[bytes]:
        """Send a model of a run that this client takes part in."""
        client_id = caller_of().name
        with _one_of(self._gets, client_id, _GETS_PER_CLIENT_MAX) as is_free:
            if not is_free:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"a client may read {_GETS_PER_CLIENT_MAX} models at a time",
                )
            try:
                async for chunk in self._get(client_id, request):
                    self._meter.sent_bytes += len(chunk)
                    yield chunk
            except (KumiaiError, DecodeError) as error:
                await self._refuse(error, client_id, context)

    async def _get(self, client_id: str, request: bytes) -> AsyncIterator[bytes]:
        wanted = pb.GetRequest.FromString(request)
        digest = verify_digest_text(wanted.digest)
        verify_named_task(wanted.run_id, wanted.sum_of_round)
        if wanted.sum_of_round:
            namespace = sum_namespace(wanted.run_id, wanted.sum_of_round)
            may_read = await self._was_asked(wanted.run_id, wanted.sum_of_round, client_id)
        else:
            namespace = model_namespace(wanted.run_id)
            may_read = await self._may_read(client_id, digest)
        size = None
        if may_read:
            size = await self._blobs.find_size(namespace, digest)
        if size is None or wanted.offset > size:
            raise NotFoundError(f"no model {digest[:12]} for client {client_id!r}")
        failpoints.reach("coordinator.model.get")
        async for chunk in self._read_ahead(namespace, digest, wanted.offset, size):
            yield chunk

    async def _refuse(self, error: Exception, client_id: str, context: _Context) -> None:
        """End the call with what the client may know; our own troubles stay in our log."""
        match error:
            case IntegrityError() | DecodeError():
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            case NotFoundError():
                await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            case ConflictError():
                await context.abort(grpc.StatusCode.ABORTED, str(error))
            case TimeoutError():
                await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"nothing came for {self._stall_seconds:.0f} s",
                )
            case _:
                self._log.error("transfer failed", client=client_id, error=str(error))
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE, "the coordinator can not move blobs now"
                )

    async def _put(self, client_id: str, requests: AsyncIterator[bytes]) -> pb.PutResult:
        async with asyncio.timeout(self._stall_seconds):
            header = await _header(requests)
        namespace = update_namespace(header.run_id, header.round, client_id)
        if (known := await self._known_result(header, client_id)) is not None:
            return known
        size_max = await self._intake.size_limit(header.run_id)
        if not 0 < header.size_bytes <= size_max:
            raise IntegrityError(
                f"update must be 1 to {size_max} bytes for this model, got {header.size_bytes}"
            )
        task = (header.run_id, header.round, header.attempt, client_id)
        if not self._may_begin(task, header.digest):
            return pb.PutResult(
                outcome=pb.PUT_OUTCOME_REFUSED,
                reason=f"a client may begin at most {_DIGESTS_PER_TASK_MAX} updates of a round's "
                "attempt",
            )
        writer = await self._blobs.begin(namespace, header.digest, header.size_bytes)
        if header.offset != writer.offset:
            await writer.suspend()
            return pb.PutResult(
                outcome=pb.PUT_OUTCOME_RESUME,
                reason=f"offset must be {writer.offset}, got {header.offset}",
                received_bytes=writer.offset,
            )
        received = await self._spool(requests, writer)
        if received < header.size_bytes:
            return pb.PutResult(
                outcome=pb.PUT_OUTCOME_RESUME,
                reason=f"update must be {header.size_bytes} bytes, got {received}",
                received_bytes=received,
            )
        failpoints.reach("coordinator.update.spooled")
        result = await self._intake.finish(
            FinishedUpdate(
                run_id=header.run_id,
                round=header.round,
                attempt=header.attempt,
                client_id=client_id,
                digest=header.digest,
                size_bytes=header.size_bytes,
                examples=header.examples,
                metrics=dict(header.metrics),
            )
        )
        failpoints.reach("coordinator.update.before_ack")
        self._log_result(header, client_id, result)
        if result.outcome is AcceptOutcome.OVERTAKEN and (
            overtaken := await self._known_result(header, client_id)
        ):
            return overtaken
        return pb.PutResult(
            outcome=_outcome(result), reason=result.reason, received_bytes=header.size_bytes
        )

    def _may_begin(self, task: tuple[str, int, int, str], digest: str) -> bool:
        """Tell whether one more file may be spooled for this task.

        A client that trains again after a restart may send other bytes; one that sends ever
        other bytes and ends none of them would fill the disk.
        """
        begun = self._begun.setdefault(task, set())
        self._begun.move_to_end(task)
        if len(self._begun) > _TASKS_REMEMBERED:
            self._begun.popitem(last=False)
        if digest not in begun and len(begun) >= _DIGESTS_PER_TASK_MAX:
            return False
        begun.add(digest)
        return True

    async def _known_result(self, header: pb.PutHeader, client_id: str) -> pb.PutResult | None:
        """Answer without taking bytes, when the rows know the answer already."""
        task = await self._runs.find_train_task(header.run_id, header.round, client_id)
        if task is None:
            raise NotFoundError(f"client {client_id!r} was not asked for this round of this run")
        if task.accepted_digest is not None:
            is_same = task.accepted_digest == header.digest
            return pb.PutResult(
                outcome=pb.PUT_OUTCOME_ACCEPTED if is_same else pb.PUT_OUTCOME_LATE,
                reason="" if is_same else "another update of this client already stands",
                received_bytes=header.size_bytes,
            )
        if task.stage != "collecting":
            return pb.PutResult(outcome=pb.PUT_OUTCOME_LATE, reason="the round is closed")
        if task.attempt != header.attempt:
            return pb.PutResult(
                outcome=pb.PUT_OUTCOME_OVERTAKEN,
                reason=f"attempt must be {task.attempt}, got {header.attempt}",
                attempt=task.attempt,
            )
        if task.state != "assigned":
            return pb.PutResult(
                outcome=pb.PUT_OUTCOME_REFUSED, reason=f"this task is {task.state}: {task.reason}"
            )
        return None

    async def _spool(self, requests: AsyncIterator[bytes], writer: BlobWriter) -> int:
        """Write chunks as they come, one behind the wire; return how many bytes are held."""
        pending: asyncio.Task[None] | None = None
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._stall_seconds) as patience:
                async for chunk in requests:
                    patience.reschedule(now() + self._stall_seconds)
                    _verify_chunk(chunk)
                    if pending is not None:
                        await pending
                    self._meter.received_bytes += len(chunk)
                    pending = asyncio.create_task(_write(writer, chunk))
            if pending is not None:
                await pending
            pending = None
        except IntegrityError:
            # What came is worth nothing. Only what this upload holds: the same bytes may have
            # come, and been accepted, by another.
            await asyncio.shield(writer.discard())
            raise
        finally:
            if pending is not None:
                await asyncio.gather(pending, return_exceptions=True)
            if not writer.is_complete:
                await asyncio.shield(writer.suspend())
        if writer.is_complete:
            await writer.commit()
        return writer.offset

    async def _was_asked(self, run_id: str, round_number: int, client_id: str) -> bool:
        return await self._runs.find_train_task(run_id, round_number, client_id) is not None

    async def _may_read(self, client_id: str, digest: str) -> bool:
        key = (client_id, digest)
        if key in self._readers:
            return True
        if not await self._runs.may_read_model(client_id, digest):
            return False
        self._readers[key] = None
        if len(self._readers) > _READERS_REMEMBERED:
            self._readers.popitem(last=False)
        return True

    async def _read_ahead(
        self, namespace: str, digest: str, offset: int, size: int
    ) -> AsyncIterator[bytes]:
        """Yield the rest of a blob, the next chunks being read while one is sent."""
        reads: list[asyncio.Task[bytes]] = []
        try:
            while offset < size or reads:
                while offset < size and len(reads) < _READ_AHEAD:
                    length = min(chunk_bytes_for(self._gets.total()), size - offset)
                    reads.append(
                        asyncio.ensure_future(self._blobs.read(namespace, digest, offset, length))
                    )
                    offset += length
                yield await reads.pop(0)
        finally:
            await asyncio.gather(*reads, return_exceptions=True)

    def _log_result(self, header: pb.PutHeader, client_id: str, result: IntakeResult) -> None:
        log = self._log.bind(run=header.run_id, round=header.round, client=client_id)
        if result.is_accepted:
            log.debug("update accepted", size_bytes=header.size_bytes)
        elif result.outcome is AcceptOutcome.OVERTAKEN:
            log.info("update overtaken by another attempt", attempt=header.attempt)
        else:
            log.warning("update not accepted", reason=result.reason)


@contextlib.contextmanager
def _one_of(busy: Counter[str], client_id: str, limit: int) -> Iterator[bool]:
    """Count the body among the client's calls; the value is whether there was room for it."""
    if busy[client_id] >= limit:
        yield False
        return
    busy[client_id] += 1
    try:
        yield True
    finally:
        busy[client_id] -= 1
        if not busy[client_id]:
            del busy[client_id]


async def _header(requests: AsyncIterator[bytes]) -> pb.PutHeader:
    try:
        first = await anext(requests)
    except StopAsyncIteration:
        raise IntegrityError("a put must begin with its header") from None
    if len(first) > CONTROL_BYTES_MAX:
        raise IntegrityError(f"a put's header must be at most {CONTROL_BYTES_MAX} bytes")
    header = pb.PutHeader.FromString(first)
    verify_digest_text(header.digest)
    verify_named_task(header.run_id, header.round, header.attempt)
    return header


def _verify_chunk(chunk: bytes) -> None:
    if len(chunk) > CHUNK_BYTES:
        raise IntegrityError(f"a chunk must be at most {CHUNK_BYTES} bytes")


async def _write(writer: BlobWriter, chunk: bytes) -> None:
    await writer.write(chunk)


def _outcome(result: IntakeResult) -> pb.PutOutcome:
    if result.is_accepted:
        return pb.PUT_OUTCOME_ACCEPTED
    if result.outcome is AcceptOutcome.LATE:
        return pb.PUT_OUTCOME_LATE
    if result.outcome is AcceptOutcome.OVERTAKEN:
        return pb.PUT_OUTCOME_OVERTAKEN
    return pb.PUT_OUTCOME_REFUSED
