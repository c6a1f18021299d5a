"""What a transfer does between its attempts."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kumiai.core.digest import digest_of
from kumiai.core.errors import DeadlineError
from kumiai.node.client.transfer import BlobTransfer

MODEL = b"a model"
DIGEST = digest_of([MODEL])
LONG_SECONDS = 1_000.0


def unavailable() -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "no route")


class Call:
    """An answer to a get, or none."""

    def __init__(self, *, answers: bool) -> None:
        self._parts: list[Any] = [MODEL, grpc.aio.EOF] if answers else []

    async def read(self) -> Any:
        if not self._parts:
            raise unavailable()
        return self._parts.pop(0)


class Channel:
    """A channel to a coordinator that is there, or not."""

    def __init__(self, *, answers: bool) -> None:
        self.answers, self.closed, self.asked = answers, False, asyncio.Event()

    def unary_stream(self, _method: str) -> Any:
        def get(_request: bytes) -> Call:
            self.asked.set()
            return Call(answers=self.answers)

        return get

    async def close(self) -> None:
        self.closed = True


class Channels:
    """Channels as they are opened: the first to nobody, the others to a coordinator."""

    def __init__(self) -> None:
        self.opened: list[Channel] = []
        self.error: OSError | None = None

    def open(self) -> Any:
        if self.error is not None:
            raise self.error
        self.opened.append(Channel(answers=bool(self.opened)))
        return self.opened[-1]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def begin(transfer: BlobTransfer, folder: Path, seconds: float = 10 * LONG_SECONDS) -> Any:
    """Begin a fetch; the loop's clock tells when it gives up."""
    until = asyncio.get_running_loop().time() + seconds
    return asyncio.create_task(
        transfer.fetch_model("run-a", DIGEST, len(MODEL), folder, until=lambda: until)
    )


async def has_paused(transfer: BlobTransfer) -> None:
    while not transfer.is_pausing:
        await asyncio.sleep(0)


async def test_a_pause_ends_when_the_coordinator_is_back(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    channels = Channels()
    transfer = BlobTransfer(channels.open, executor, first_pause_seconds=LONG_SECONDS)
    fetching = begin(transfer, tmp_path)

    async with asyncio.timeout(30):
        await has_paused(transfer)
        transfer.end_pauses()
        model = await fetching

    assert model.path.read_bytes() == MODEL
    assert [each.closed for each in channels.opened] == [True, False]


async def test_a_channel_that_can_not_be_opened_anew_is_kept(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    channels = Channels()
    transfer = BlobTransfer(channels.open, executor, first_pause_seconds=LONG_SECONDS)
    (first,) = channels.opened
    fetching = begin(transfer, tmp_path)

    async with asyncio.timeout(30):
        await has_paused(transfer)
        channels.error = FileNotFoundError("the certificate is being replaced")
        first.answers = True
        transfer.end_pauses()
        await fetching

    assert channels.opened == [first]
    assert not first.closed


async def test_without_a_pause_nothing_is_opened_anew(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    channels = Channels()
    channels.opened.append(Channel(answers=False))  # the next one answers
    transfer = BlobTransfer(channels.open, executor)

    transfer.end_pauses()
    await begin(transfer, tmp_path)
    await transfer.close()

    assert len(channels.opened) == 2
    assert channels.opened[1].closed


async def test_a_renewed_certificate_is_shown_over_a_channel_of_its_own(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    channels = Channels()
    transfer = BlobTransfer(channels.open, executor)
    channels.error = FileNotFoundError("the certificate is being replaced")
    channels.opened[0].answers = True

    transfer.renew_channel_when_idle()
    await begin(transfer, tmp_path / "first")
    channels.error = None
    await begin(transfer, tmp_path / "second")
    await begin(transfer, tmp_path / "third")

    assert [each.closed for each in channels.opened] == [True, False]


async def test_what_moves_is_not_cut_off_by_a_renewed_certificate(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    channels = Channels()
    transfer = BlobTransfer(channels.open, executor)
    (first,) = channels.opened
    first.answers = True

    async with transfer._moving():
        transfer.renew_channel_when_idle()
        await begin(transfer, tmp_path / "first")
        was_closed = first.closed
    await begin(transfer, tmp_path / "second")

    assert not was_closed
    assert first.closed


async def test_an_attempt_follows_a_pause_without_being_called(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    channels = Channels()
    transfer = BlobTransfer(channels.open, executor, first_pause_seconds=0.001)
    fetching = begin(transfer, tmp_path)

    async with asyncio.timeout(30):
        await has_paused(transfer)
        channels.opened[0].answers = True
        await fetching

    assert len(channels.opened) == 1


async def test_a_pause_does_not_outlast_the_deadline(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    transfer = BlobTransfer(Channels().open, executor, first_pause_seconds=LONG_SECONDS)

    with pytest.raises(DeadlineError, match="was not moved before the deadline: no route"):
        await begin(transfer, tmp_path, seconds=0.05)
