"""Asks a cache for one key in many tasks at once; each call of the loader is a line in a file.

Arguments: the port of Redis, the file, how many tasks.
"""

import asyncio
import os
import sys

from kumiai.storage.cache.patterns import CachePattern
from kumiai.storage.cache.redis import RedisManager


async def main(port: int, path: str, tasks: int) -> None:
    manager = RedisManager("127.0.0.1", port)
    await manager.initialize()
    cache = CachePattern(manager)
    loads = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def load() -> str:
        os.write(loads, b"load\n")
        await asyncio.sleep(0.05)
        return "value"

    print("ready", flush=True)
    sys.stdin.readline()
    values = await asyncio.gather(*(cache.get_or_load("key", load) for _ in range(tasks)))
    print(values.count("value"), flush=True)
    await cache.close()
    await manager.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
