"""Writes late and drains, until it is killed: each acknowledged write is a line on stdout.

Arguments: the database's URL, the file that stands for the sink, how many keys. Values of a key
grow by one; a life begins where the last one's acknowledged or pending values ended.
"""

import asyncio
import os
import sys
from pathlib import Path

from kumiai.storage import DatabaseManager
from kumiai.storage.cache.draining import DrainSettings, OutboxDrain
from kumiai.storage.cache.memory import MemoryKeyValue
from kumiai.storage.cache.outbox import CacheOutbox
from kumiai.storage.cache.patterns import CachePattern
from kumiai.storage.cache.write_behind import WriteBehind
from kumiai.testing.crash import install_from_environment

TOPIC = "late"
SETTINGS = DrainSettings(lease_seconds=0.5, poll_seconds=0.005, batch_limit=40)


class FileSink:
    """A file with a line for each write that arrives."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def write(self, key: str, value: object, seq: int) -> None:
        os.write(self.file, f"{key} {value} {seq}\n".encode())


async def _write_late(url: str, sink: Path, first: int, keys: int) -> None:
    database = DatabaseManager(url)
    await database.connect()
    outbox = CacheOutbox(database, capacity=2000)
    behind = WriteBehind(CachePattern(MemoryKeyValue()), outbox, topic=TOPIC)
    await behind.start()
    drain = OutboxDrain(outbox, TOPIC, behind.handler(FileSink(sink).write), settings=SETTINGS)
    await drain.start()

    async def write(key: str) -> None:
        value = first
        while True:
            seq = await behind.put(key, value)
            os.write(1, f"{key} {value} {seq}\n".encode())
            value += 1

    install_from_environment()
    await asyncio.gather(*(write(f"key-{index}") for index in range(keys)))


def main() -> None:
    url, sink, first, keys = sys.argv[1:]
    asyncio.run(_write_late(url, Path(sink), int(first), int(keys)))
