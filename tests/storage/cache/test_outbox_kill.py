"""kill -9 of a process that writes late, at any point: what it has acknowledged arrives."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
from tests.meta.repository import ROOT
from tests.storage.cache.programs.late_writer import SETTINGS, TOPIC, FileSink

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

    def __init__(self, url: str, sink: Path) -> None:
        self.url = url
        self.sink = sink
        self.acknowledged: list[tuple[str, int, int]] = []
        self._first = 0

    def live(self, *, kill_at: str = "", seconds: float = 30.0, writes: int | None = None) -> int:
        """Run until the point, so many acknowledged writes, or the time; return the exit code."""
        # Far beyond what the last life can have had under way.
        first, self._first = self._first, self._first + 1_000_000
        arguments = [self.url, str(self.sink), str(first), str(KEYS)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.storage.cache.programs.late_writer", *arguments],
            cwd=ROOT,
            env={**os.environ, KILL_AT: kill_at},
            stdout=subprocess.PIPE,
            text=True,
        )
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        with process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout, start=1):
                key, value, seq = line.split()
                self.acknowledged.append((key, int(value), int(seq)))
                if count == writes:
                    process.kill()
        timer.cancel()
        return process.returncode

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


@pytest.fixture
def lives(database_url: str, tmp_path: Path) -> Lives:
    return Lives(database_url, tmp_path / "sink")


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_acknowledged_write_is_lost_wherever_the_process_is_killed(lives: Lives) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    chance = np.random.default_rng(seed)
    for point in POINTS:
        code = lives.live(kill_at=f"{point}:{chance.integers(2, 30)}")
        assert code == -signal.SIGKILL
    while len(lives.acknowledged) < 10_000:
        lives.live(writes=int(chance.integers(200, 2500)))

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
    assert lives.live(kill_at=f"{point}:20") == -signal.SIGKILL
    lives.live(writes=100)

    await lives.drain()

    assert len(lives.acknowledged) >= 100
    assert lives.lost() == []


@pytest.mark.integration
async def test_a_write_that_was_acknowledged_too_early_would_be_missed(lives: Lives) -> None:
    lives.live(writes=20)
    key, value, seq = lives.acknowledged[-1]
    lives.acknowledged.append((key, value + 1, seq + 1_000_000))

    await lives.drain()

    assert lives.lost() == [(key, value + 1, seq + 1_000_000)]
