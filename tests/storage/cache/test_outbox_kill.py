"""kill -9 of a process that writes late, at any point: what it has acknowledged arrives."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from kumiai.storage import DatabaseManager
from kumiai.storage.cache.draining import OutboxDrain
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.outbox import CacheOutbox
from kumiai.storage.cache.patterns import CachePattern
from kumiai.storage.cache.write_behind import WriteBehind
from kumiai.testing.crash import KILL_AT
from tests.storage.cache.programs.late_writer import SETTINGS, TOPIC, FileSink
from tests.zygote import Child, Zygote

KEYS = 8
POINTS = [
    "storage.outbox.append.commit.before",
    "storage.outbox.append.commit.after",
    "storage.outbox.apply.before",
    "storage.outbox.apply.after",
    "storage.outbox.settle.commit.before",
    "storage.outbox.settle.commit.after",
]


class Lives:
    """One process after the other on the same database, each killed; what they acknowledged."""

    def __init__(self, zygote: Zygote, url: str, folder: Path) -> None:
        self.url = url
        self.sink = folder / "sink"
        self.acknowledged: list[tuple[str, int, int]] = []
        self._zygote = zygote
        self._folder = folder
        self._count = 0

    async def live(self, *, kill_at: str = "", writes: int | None = None) -> Child:
        """Run until the point or so many acknowledged writes; return what was killed."""
        # Far beyond what the last life can have had under way.
        first, self._count = self._count * 1_000_000, self._count + 1
        told = self._folder / f"told-{self._count}"
        os.mkfifo(told)
        async with _lines_of(told) as lines, asyncio.timeout(30):
            child = await self._zygote.fork(
                [self.url, str(self.sink), str(first), str(KEYS)],
                program="tests.storage.cache.programs.late_writer",
                environment={KILL_AT: kill_at},
                log=self._folder / "log",
                output=told,
            )
            count = 0
            async for line in lines:
                key, value, seq = line.split()
                self.acknowledged.append((key.decode(), int(value), int(seq)))
                count += 1
                if count == writes:
                    child.send(signal.SIGKILL)
            await child.ended()
        return child

    async def drain(self) -> None:
        database = DatabaseManager(self.url)
        await database.connect()
        outbox = CacheOutbox(database)
        behind = WriteBehind(CachePattern(MemoryKeyValue()), outbox, topic=TOPIC)
        sink = FileSink(self.sink)
        drain = OutboxDrain(outbox, TOPIC, behind.handler(sink.write), settings=SETTINGS)
        await drain.start()
        deadline = time.monotonic() + 30
        while (await outbox.state(TOPIC)).depth and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await drain.close()
        assert (await outbox.state(TOPIC)).depth == 0
        await database.close()

    def lost(self) -> list[tuple[str, int, int]]:
        """Return the acknowledged writes that did not arrive and were not superseded."""
        arrived: dict[str, int] = {}
        for key, _, seq in self.arrivals():
            arrived[key] = max(seq, arrived.get(key, 0))
        return [write for write in self.acknowledged if arrived.get(write[0], 0) < write[2]]

    def last_values(self) -> dict[str, int]:
        return {key: value for key, value, _ in self.arrivals()}

    def arrivals(self) -> Iterator[tuple[str, int, int]]:
        for line in self.sink.read_text().splitlines():
            key, value, seq = line.split()
            yield key, int(value), int(seq)


@contextlib.asynccontextmanager
async def _lines_of(fifo: Path) -> AsyncIterator[asyncio.StreamReader]:
    """Lend what is written into a named pipe, to its end."""
    reader = asyncio.StreamReader()
    # Not blocking: the writer does not exist yet.
    pipe = os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        yield reader
    finally:
        transport.close()


@pytest.fixture
def lives(zygote: Zygote, database_url: str, tmp_path: Path) -> Lives:
    return Lives(zygote, database_url, tmp_path)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_acknowledged_write_is_lost_wherever_the_process_is_killed(lives: Lives) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    chance = np.random.default_rng(seed)
    for point in POINTS:
        child = await lives.live(kill_at=f"{point}:{chance.integers(2, 30)}")
        assert child.was_killed, child.last_lines()
    while len(lives.acknowledged) < 10_000:
        await lives.live(writes=int(chance.integers(200, 2500)))

    await lives.drain()

    assert len(lives.acknowledged) >= 10_000
    assert lives.lost() == []
    latest = {key: value for key, value, _ in lives.acknowledged}
    assert all(lives.last_values()[key] >= value for key, value in latest.items())


@pytest.mark.integration
@pytest.mark.parametrize("point", ["storage.outbox.append.commit.after"])
async def test_what_was_acknowledged_before_a_kill_arrives_after_it(
    lives: Lives, point: str
) -> None:
    child = await lives.live(kill_at=f"{point}:20")
    assert child.was_killed, child.last_lines()
    await lives.live(writes=100)

    await lives.drain()

    assert len(lives.acknowledged) >= 100
    assert lives.lost() == []


@pytest.mark.integration
async def test_a_write_that_was_acknowledged_too_early_would_be_missed(lives: Lives) -> None:
    await lives.live(writes=20)
    key, value, seq = lives.acknowledged[-1]
    lives.acknowledged.append((key, value + 1, seq + 1_000_000))

    await lives.drain()

    assert lives.lost() == [(key, value + 1, seq + 1_000_000)]
