"""What the cache before the coordinator's database saves: questions that many ask.

Run ``python benchmarks/near_reads.py``; ``--short`` for some seconds. A run of 200 rounds that has
ended, 500 clients; a real PostgreSQL on loopback, a real Redis. Each way answers the same
questions, in turns; CPU is that of this process. A database across a network costs more time a
question than this one, and has others to serve.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from _measuring import load_line, print_table

from kumiai.storage import (
    CacheNotes,
    CachePattern,
    ClientRegistryRepository,
    DatabaseManager,
    MemoryKeyValue,
    NearReads,
    NewClient,
    NewRun,
    RedisManager,
    ResilientKeyValue,
    RunRepository,
)
from kumiai.testing.databases import PostgresServer
from kumiai.testing.redis_server import RedisServer

RUN, ROUNDS, CLIENTS = "run-a", 200, 500
READERS = 16

Question = Callable[[NearReads], Awaitable[Any]]


async def filled(database: DatabaseManager) -> None:
    runs = RunRepository(database)
    await runs.create(
        NewRun(
            run_id=RUN,
            name="digits",
            app="digits",
            job={},
            submit_token=None,
            submitted_by="olga",
            rounds_total=ROUNDS,
            model_digest="d0",
            model_size_bytes=10,
        )
    )
    lease = await runs.acquire_lease(RUN, "me", 600.0)
    if lease is None:
        raise SystemExit("the run has another leader")
    await runs.start(lease)
    for number in range(1, ROUNDS + 1):
        await runs.open_round(
            lease,
            round=number,
            base_digest=f"d{number - 1}",
            target_reports=1,
            min_reports=1,
            deadline_seconds=60.0,
            clients=[("site-0", 1)],
            evaluate_clients=(),
            evaluate_round=None,
        )
        await runs.close_round(lease, number, "all reported")
        await runs.publish_round(
            lease,
            round=number,
            model_digest=f"d{number}",
            model_size_bytes=10,
            state_digest=None,
            reports=1,
            examples=10,
            metrics={"loss": 1 / number, "accuracy": 1 - 1 / number},
        )
    await runs.finish(lease, "finished", "all rounds are done")
    clients = ClientRegistryRepository(database)
    await clients.register_many(NewClient(f"site-{number:03}") for number in range(CLIENTS))


async def asked(reads: NearReads, question: Question, seconds: float) -> tuple[float, float]:
    """Return milliseconds of CPU a question, and questions a second, of some who ask at once."""
    count, began, cpu = 0, time.perf_counter(), time.process_time()

    async def reader() -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            await question(reads)
            count += 1

    await asyncio.gather(*(reader() for _ in range(READERS)))
    spent = time.process_time() - cpu
    return 1e3 * spent / count, count / (time.perf_counter() - began)


async def measure(database: DatabaseManager, redis: RedisServer, seconds: float) -> list[list[str]]:
    await filled(database)
    runs, clients = RunRepository(database), ClientRegistryRepository(database)
    manager = RedisManager("127.0.0.1", redis.port)
    resilient = ResilientKeyValue(manager, database)
    await resilient.start()
    memory, shared = CachePattern(MemoryKeyValue()), CachePattern(resilient)
    notes = CacheNotes(database, shared)
    await notes.start()
    run = await runs.get(RUN)
    questions: dict[str, Question] = {
        "a run": lambda reads: reads.run(RUN),
        f"its {ROUNDS} rounds": lambda reads: reads.rounds(run),
        f"{CLIENTS} clients": lambda reads: reads.clients(),
    }
    ways = {
        "PostgreSQL": NearReads(runs=runs, clients=clients),
        "Redis": NearReads(runs=runs, clients=clients, cache=shared),
        "own memory": NearReads(runs=runs, clients=clients, cache=memory),
    }
    rows = []
    for name, question in questions.items():
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for repeat in range(4):  # the first warms up
            for way, reads in ways.items():
                sample = await asked(reads, question, seconds)
                if repeat:
                    taken[way].append(sample)
        base = statistics.median(cpu for cpu, _ in taken["PostgreSQL"])
        for way, samples in taken.items():
            cpu = statistics.median(each for each, _ in samples)
            rate = statistics.median(each for _, each in samples)
            rows.append([f"{name}, {way}", f"{cpu:.2f}", f"{cpu / base:.2f}", f"{rate:,.0f}"])
    await notes.close()
    for cache in (memory, shared):
        await cache.close()
    await resilient.close()
    await manager.close()
    return rows


async def main() -> None:
    parser = argparse.ArgumentParser(description="reads through the cache, against the database")
    parser.add_argument("--short", action="store_true", help="some seconds")
    arguments = parser.parse_args()
    print(load_line())
    server, redis = await asyncio.to_thread(PostgresServer), await asyncio.to_thread(RedisServer)
    try:
        database = DatabaseManager(await asyncio.to_thread(server.new_database))
        await database.connect()
        try:
            rows = await measure(database, redis, 0.3 if arguments.short else 2.0)
        finally:
            await database.close()
    finally:
        server.remove()
        redis.remove()
    headers = ["question, answered by", "CPU ms", "of PostgreSQL's", "answers/s"]
    print_table(f"{READERS} who ask at once", headers, rows)
    print(load_line())


if __name__ == "__main__":
    asyncio.run(main())
