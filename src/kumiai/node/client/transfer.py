"""Moves models in and updates out over the bulk channel; picks up where it was cut off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import grpc
import grpc.aio

from kumiai.core import failpoints
from kumiai.core.digest import StreamingDigest
from kumiai.core.errors import (
    CertificateError,
    DeadlineError,
    DeniedError,
    IntegrityError,
    StorageError,
    TransportError,
)
from kumiai.node.client.backoff import Backoff
from kumiai.node.client.coordinator_check import CoordinatorCheck, Question
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import CHUNK_BYTES, GET, PUT, STAT

__all__ = ["BlobTransfer", "ModelFile", "PutReport", "Upload"]

_T = TypeVar("_T")
_STALL_SECONDS = 60.0
_CHUNK_BYTES_MIN = 64 << 10

_MAY_PASS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is on this site's disk, whole and checked."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class PutReport:
    """What an update brings along."""

    run_id: str
    round: int
    attempt: int
    examples: int
    metrics: dict[str, float]


class Upload(Protocol):
    """Bytes that can be made again from any offset."""

    @property
    def digest(self) -> str:
        """Of all of them."""
        ...

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        ...

    def chunks(self, offset: int, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the bytes from ``offset`` on, in pieces of at most ``chunk_bytes``."""
        ...


class BlobTransfer:
    """Gets and puts over one channel, one after the other.

    They may overlap, but the channel that one opens anew cuts off what another moves, which then
    goes on where it was.
    """

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        executor: Executor,
        *,
        check: CoordinatorCheck | None = None,
        first_pause_seconds: float = 0.1,
        longest_pause_seconds: float = 5.0,
    ) -> None:
        """Open a channel; it connects at the first call.

        Args:
            open_channel: called again when the coordinator is back after an interruption.
            executor: hashing and file access happen there.
            check: judges who takes updates; ``None``: whoever TLS lets.
            first_pause_seconds: the pause after the first attempt that failed.
            longest_pause_seconds: what the pauses grow to.
        """
        self._open_channel = open_channel
        self._channel = open_channel()
        self._executor = executor
        self._check = check
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._pauses: set[asyncio.Future[None]] = set()
        self._checked: set[str] = set()
        self._moving_count = 0
        self._is_outdated = False

    @property
    def is_pausing(self) -> bool:
        """Whether a transfer waits for its next attempt."""
        return bool(self._pauses)

    def end_pauses(self) -> None:
        """Try again at once what waits for its next attempt: the coordinator is there."""
        for pause in self._pauses:
            if not pause.done():
                pause.set_result(None)

    def renew_channel_when_idle(self) -> None:
        """Open a channel anew, with renewed certificates, once nothing moves over this one."""
        self._is_outdated = True

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def fetch_model(
        self, run_id: str, digest: str, size_bytes: int, folder: Path, *, until: Callable[[], float]
    ) -> ModelFile:
        """Return the model's file; what is on disk already is not fetched again.

        Args:
            run_id: the run whose model it is.
            digest: of the model.
            size_bytes: of the model.
            folder: the site's model cache; a partial file there is continued.
            until: returns the event loop's time at which to give up; it may move.

        Raises:
            DeadlineError: it did not come in time.
            DeniedError: the coordinator does not give it to this client.
            StorageError: it can not be written here.
        """
        path = folder / f"{digest}.safetensors"
        fetch = _Fetch(run_id, digest, size_bytes, folder / f".{digest}.part", path)
        loop = asyncio.get_running_loop()
        # A file of an earlier process may have lost its end with the machine's power: its name
        # is believed once its bytes were hashed by this one.
        is_checked = digest in self._checked
        if not await loop.run_in_executor(self._executor, fetch.is_here, is_checked):
            await self._with_retries(lambda: self._fetch(fetch), until, f"model {digest[:12]}")
        self._checked.add(digest)
        return ModelFile(path, digest)

    async def fetch_sum(
        self, run_id: str, round_number: int, digest: str, size_bytes: int, *, until: float
    ) -> bytes:
        """Return the sum of a round's hidden updates.

        Args:
            run_id: the run.
            round_number: its round.
            digest: of the sum.
            size_bytes: of the sum.
            until: the event loop's time at which to give up.

        Raises:
            DeadlineError: it did not come in time.
            DeniedError: the coordinator does not give it to this client.
        """

        async def attempt() -> bytes:
            return await self._received_sum(run_id, round_number, digest, size_bytes)

        return await self._with_retries(attempt, lambda: until, f"sum of round {round_number}")

    async def send_update(
        self,
        upload: Upload,
        report: PutReport,
        *,
        chunk_bytes: int = 0,
        until: Callable[[], float],
    ) -> pb.PutResult:
        """Send an update and return the coordinator's answer: accepted, late, refused or overtaken.

        Args:
            upload: the update's bytes.
            report: what it brings along.
            chunk_bytes: how much to send at a time, as the coordinator wishes; 0: no wish.
            until: returns the event loop's time at which to give up; it may move.

        Raises:
            DeadlineError: no answer in time.
            DeniedError: the coordinator does not take it from this client.
        """
        offset = 0
        # Within what both ends can bear, whatever the coordinator says.
        chunk_bytes = min(max(chunk_bytes or CHUNK_BYTES, _CHUNK_BYTES_MIN), CHUNK_BYTES)

        async def attempt() -> pb.PutResult:
            nonlocal offset
            try:
                result = await self._send(upload, report, offset, chunk_bytes)
            except (grpc.aio.AioRpcError, TransportError):
                offset = 0  # forget what was assumed, then ask what has arrived
                with contextlib.suppress(grpc.aio.AioRpcError):
                    offset = await self._received(upload, report)
                raise
            if result.outcome == pb.PUT_OUTCOME_RESUME:
                offset = result.received_bytes
                raise TransportError(result.reason)
            return result

        return await self._with_retries(attempt, until, f"update of round {report.round}")

    async def _with_retries(
        self,
        attempt: Callable[[], Coroutine[None, None, _T]],
        until: Callable[[], float],
        what: str,
    ) -> _T:
        """Call until it succeeds, is refused for good, or time is up."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(
            first_seconds=self._first_pause_seconds, longest_seconds=self._longest_pause_seconds
        )
        last = "no attempt was made"
        while (left := until() - loop.time()) > 0:
            try:
                async with asyncio.timeout(left), self._moving():
                    return await attempt()
            except TimeoutError:
                last = "no answer"
            except grpc.aio.AioRpcError as error:
                last = error.details() or error.code().name
                if error.code() not in _MAY_PASS:
                    raise DeniedError(f"{what}: {last}") from None
            except (TransportError, IntegrityError) as error:
                last = str(error)
            await self._pause(min(backoff.next_seconds(), max(until() - loop.time(), 0)))
        raise DeadlineError(f"{what} was not moved before the deadline: {last}")

    @contextlib.asynccontextmanager
    async def _moving(self) -> AsyncIterator[None]:
        """Move something in the block, over a channel with the newest certificates if it can."""
        if self._is_outdated and not self._moving_count:
            await self._renew_channel()
        self._moving_count += 1
        try:
            yield
        finally:
            self._moving_count -= 1

    async def _pause(self, seconds: float) -> None:
        pause: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pauses.add(pause)
        try:
            await asyncio.wait({pause}, timeout=seconds)
            if pause.done():
                # gRPC pauses before it connects again, too; a new channel begins without.
                await self._renew_channel()
        finally:
            self._pauses.discard(pause)

    async def _renew_channel(self) -> None:
        with contextlib.suppress(OSError):  # a certificate that is being replaced: the old one
            fresh = self._open_channel()
            self._is_outdated = False
            old, self._channel = self._channel, fresh
            await old.close()

    async def _fetch(self, fetch: "_Fetch") -> None:
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(self._executor, fetch.open)
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_if_open)
            raise
        try:
            request = pb.GetRequest(run_id=fetch.run_id, digest=fetch.digest, offset=file.offset)
            call = self._channel.unary_stream(GET)(request.SerializeToString())
            while True:
                async with asyncio.timeout(_STALL_SECONDS):
                    chunk = await call.read()
                if chunk is grpc.aio.EOF:
                    break
                await loop.run_in_executor(self._executor, file.write, chunk)
            failpoints.reach("client.model.fetched")
            await loop.run_in_executor(self._executor, file.finish)
        finally:
            file.close()

    async def _received_sum(
        self, run_id: str, round_number: int, digest: str, size_bytes: int
    ) -> bytes:
        request = pb.GetRequest(run_id=run_id, digest=digest, sum_of_round=round_number)
        call = self._channel.unary_stream(GET)(request.SerializeToString())
        content, found = bytearray(), StreamingDigest()
        while True:
            async with asyncio.timeout(_STALL_SECONDS):
                chunk = await call.read()
            if chunk is grpc.aio.EOF:
                break
            content += chunk
            found.update(chunk)
            if len(content) > size_bytes:
                break
        if found.hexdigest() != digest:
            raise IntegrityError(f"sum of round {round_number} must be {digest[:12]}, got another")
        return bytes(content)

    async def _send(
        self, upload: Upload, report: PutReport, offset: int, chunk_bytes: int
    ) -> pb.PutResult:
        header = pb.PutHeader(
            run_id=report.run_id,
            round=report.round,
            attempt=report.attempt,
            digest=upload.digest,
            size_bytes=upload.size_bytes,
            offset=offset,
            examples=report.examples,
            metrics=report.metrics,
        )

        async def messages() -> AsyncIterator[bytes]:
            yield header.SerializeToString()
            failpoints.reach("client.update.header_sent")
            for chunk in upload.chunks(offset, chunk_bytes):
                yield chunk
            failpoints.reach("client.update.sent")

        return pb.PutResult.FromString(await self._put(messages()))

    async def _put(self, messages: AsyncIterator[bytes]) -> bytes:
        if self._check is None or not await self._check.insists():
            return bytes(await self._channel.stream_unary(PUT)(messages))
        question, is_trusted = Question(), asyncio.Event()

        async def held_back() -> AsyncIterator[bytes]:
            await is_trusted.wait()
            async for message in messages:
                yield message

        call = self._channel.stream_unary(PUT)(held_back(), metadata=question.metadata)
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                await self._check.verify(call, question)
        except CertificateError as error:
            raise TransportError(f"update is not sent to whoever answers: {error}") from error
        else:
            is_trusted.set()
            return bytes(await call)
        finally:
            call.cancel()

    async def _received(self, upload: Upload, report: PutReport) -> int:
        request = pb.StatRequest(run_id=report.run_id, round=report.round, digest=upload.digest)
        stat = self._channel.unary_unary(STAT)
        answer = await stat(request.SerializeToString(), timeout=_STALL_SECONDS)
        return min(pb.StatResult.FromString(answer).received_bytes, upload.size_bytes)


@dataclass(frozen=True, slots=True)
class _Fetch:
    run_id: str
    digest: str
    size_bytes: int
    part: Path
    path: Path

    def is_here(self, is_checked: bool) -> bool:  # noqa: FBT001 - called by an executor
        """Tell whether the model is on disk already, whole; blocking."""
        try:
            if self.path.stat().st_size != self.size_bytes:
                return False
            if is_checked:
                return True
            digest = StreamingDigest()
            with self.path.open("rb") as file:
                while block := file.read(CHUNK_BYTES):
                    digest.update(block)
        except OSError:
            return False
        return digest.hexdigest() == self.digest

    def open(self) -> "_PartialFile":
        return _PartialFile(self)


class _PartialFile:
    """A model file that grows; blocking, for a worker thread."""

    def __init__(self, fetch: _Fetch) -> None:
        self._fetch = fetch
        self._digest = StreamingDigest()
        try:
            fetch.part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = fetch.part.open("a+b")
        except OSError as error:
            raise StorageError(f"client.state_dir must be a folder to write to: {error}") from None
        if self._file.tell() > fetch.size_bytes:
            self._file.truncate(0)  # no part of this model, whatever it is
        self._file.seek(0)
        while block := self._file.read(1 << 20):
            self._digest.update(block)

    @property
    def offset(self) -> int:
        return self._digest.size_bytes

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        if self._digest.size_bytes > self._fetch.size_bytes:
            self._discard()
            raise IntegrityError(f"model must be {self._fetch.size_bytes} bytes, got more")
        try:
            self._file.write(chunk)
        except OSError as error:
            raise StorageError(f"model can not be written to {self._fetch.part}: {error}") from None

    def finish(self) -> None:
        if self._digest.size_bytes < self._fetch.size_bytes:
            raise TransportError(
                f"model must be {self._fetch.size_bytes} bytes, got {self._digest.size_bytes}"
            )
        if self._digest.hexdigest() != self._fetch.digest:
            self._discard()
            raise IntegrityError("model must have the digest that the task names, got another")
        self._file.flush()
        self._fetch.part.replace(self._fetch.path)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _discard(self) -> None:
        self._fetch.part.unlink(missing_ok=True)


def _close_if_open(opening: "asyncio.Future[_PartialFile]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
