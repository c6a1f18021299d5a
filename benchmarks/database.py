"""What the database layer costs: repository calls against the same work written by hand.

Run ``python benchmarks/database.py``; ``--short`` for half a minute. By hand means sqlite3 in a
thread, and a pool of asyncpg, with the statement as text and the record built from its row. CPU
seconds are those of this process, all its threads: of PostgreSQL's server none. Both ways take
turns, so that a busy moment hits both alike.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
from _measuring import Goal, at_least, at_most, load_line, print_goals, print_table

from kumiai.storage import (
    AcceptRequest,
    ClientRecord,
    ClientRegistration,
    ClientRegistryRepository,
    DatabaseManager,
    Lease,
    NewRun,
    RunRecord,
    RunRepository,
    TrainingSession,
    TrainTask,
    UpdateInbox,
)
from kumiai.storage.rows import columns_of
from kumiai.testing.databases import PostgresServer, migrate

RATIO_GOAL, ROWS_GOAL = 1.5, 5000
RUN = "run-a"
CLIENT = "site-00001"

Call = Callable[[], Awaitable[Any]]

RUN_COLUMNS = ", ".join(column.name for column in columns_of(TrainingSession))
CLIENT_COLUMNS = ", ".join(column.name for column in columns_of(ClientRegistration))
FIND = f"SELECT {RUN_COLUMNS} FROM runs WHERE run_id = {{0}}"
TASK = """
    SELECT a.run_id, a.round, a.client_id, a.state, a.reason, a.attempt, r.stage,
           u.digest AS accepted_digest
    FROM assignments a
    JOIN rounds r ON r.run_id = a.run_id AND r.round = a.round
    LEFT JOIN updates u
        ON u.run_id = a.run_id AND u.round = a.round AND u.client_id = a.client_id
    WHERE a.run_id = {0} AND a.round = 1 AND a.client_id = {1} AND a.kind = 'train'
"""
ATTACH = """
    INSERT INTO clients (client_id, instance_id, software_version, apps_json, first_seen_at,
                         last_seen_at, state, address)
    VALUES ({0}, {1}, '1', {2}, {3}, {3}, 'attached', '127.0.0.1:1')
    ON CONFLICT (client_id) DO UPDATE SET instance_id = excluded.instance_id,
        software_version = excluded.software_version, apps_json = excluded.apps_json,
        last_seen_at = excluded.last_seen_at, state = excluded.state, address = excluded.address
    RETURNING {4}
"""
RENEW = """
    UPDATE runs SET lease_until = {3} + 600.0
    WHERE run_id = {0} AND epoch = {1} AND leader = {2} AND state IN ('submitted', 'running')
    RETURNING run_id
"""
CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())::double precision",
}


def plain(row: Any) -> dict[str, Any]:
    """Return the row by column, JSON parsed."""
    return {
        name.removesuffix("_json"): json.loads(value)
        if name.endswith("_json") and value is not None
        else value
        for name, value in row.items()
    }


class HandWrittenSQLite:
    """sqlite3 in one thread: each call is one turn of it."""

    def __init__(self, url: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._connection = sqlite3.connect(
            url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA synchronous = FULL")
        clock = CLOCKS["sqlite"]
        self._find = FIND.format("?")
        self._task = TASK.format("?", "?")
        self._attach = ATTACH.format("?1", "?2", "?3", clock, CLIENT_COLUMNS)
        self._renew = RENEW.format("?", "?", "?", clock)

    async def open(self) -> None:
        """Nothing to do: it is open."""

    async def close(self) -> None:
        self._connection.close()
        self._thread.shutdown()

    async def find(self) -> RunRecord:
        return RunRecord(**plain(dict(await self._one(self._find, (RUN,)))))

    async def task(self) -> TrainTask:
        return TrainTask(**plain(dict(await self._one(self._task, (RUN, CLIENT)))))

    async def attach(self) -> ClientRecord:
        values = (CLIENT, "i", json.dumps(["app"]))
        return ClientRecord(**plain(dict(await self._one(self._attach, values, writes=True))))

    async def renew(self, lease: Lease) -> bool:
        values = (lease.run_id, lease.epoch, lease.leader)
        return await self._one(self._renew, values, writes=True) is not None

    async def _one(self, statement: str, values: tuple[Any, ...], *, writes: bool = False) -> Any:
        def run() -> Any:
            if not writes:
                return self._connection.execute(statement, values).fetchone()
            self._connection.execute("BEGIN IMMEDIATE")
            row = self._connection.execute(statement, values).fetchone()
            self._connection.execute("COMMIT")
            return row

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


class HandWrittenPostgres:
    """asyncpg with its own pool: each call is one statement."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._find = FIND.format("$1")
        self._task = TASK.format("$1", "$2")
        clock = CLOCKS["postgresql"]
        self._attach = ATTACH.format("$1", "$2", "$3", clock, CLIENT_COLUMNS)
        self._renew = RENEW.format("$1", "$2", "$3", clock)

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=2, max_size=10)

    async def close(self) -> None:
        await self._pool.close()

    async def find(self) -> RunRecord:
        return RunRecord(**plain(await self._one(self._find, RUN)))

    async def task(self) -> TrainTask:
        return TrainTask(**plain(await self._one(self._task, RUN, CLIENT)))

    async def attach(self) -> ClientRecord:
        row = await self._one(self._attach, CLIENT, "i", json.dumps(["app"]))
        return ClientRecord(**plain(row))

    async def renew(self, lease: Lease) -> bool:
        values = (lease.run_id, lease.epoch, lease.leader)
        return await self._one(self._renew, *values) is not None

    async def _one(self, statement: str, *values: Any) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetchrow(statement, *values)


async def prepare(database: DatabaseManager, clients: int) -> Lease:
    """A run whose first round collects from this many clients."""
    runs = RunRepository(database)
    await runs.create(
        NewRun(
            run_id=RUN,
            name="digits",
            app="app",
            job={"rounds": 3, "strategy": {"name": "fedavg"}},
            submit_token=None,
            submitted_by="olga",
            rounds_total=3,
            model_digest="d0",
            model_size_bytes=10,
        )
    )
    lease = await runs.acquire_lease(RUN, "leader", 600.0)
    assert lease is not None
    await runs.start(lease)
    await runs.open_round(
        lease,
        round=1,
        base_digest="d0",
        target_reports=clients,
        min_reports=1,
        deadline_seconds=600.0,
        clients=[(f"site-{number:05}", number) for number in range(clients)],
    )
    return lease


async def cpu_microseconds(call: Call, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        await call()
    return (time.process_time() - start) / calls * 1e6


async def compare(
    ways: dict[str, tuple[Call, Call]], *, calls: int, repeats: int
) -> dict[str, Any]:
    """Return for each name the medians of ours, of the other, and of their ratio."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for name, (ours, other) in ways.items():
        await cpu_microseconds(ours, calls // 5)
        await cpu_microseconds(other, calls // 5)
        for _ in range(repeats):
            found[name].append(
                (await cpu_microseconds(ours, calls), await cpu_microseconds(other, calls))
            )
    return {
        name: (
            statistics.median(ours for ours, _ in pairs),
            statistics.median(other for _, other in pairs),
            statistics.median(ours / other for ours, other in pairs),
        )
        for name, pairs in found.items()
    }


async def accepted_per_second(database: DatabaseManager, clients: int) -> float:
    """Return how many updates the inbox counts in a second when all come at once."""
    inbox = UpdateInbox(database)
    await inbox.start()
    requests = [
        AcceptRequest(RUN, 1, 1, f"site-{number:05}", f"digest-{number}", 100, 7, {"loss": 0.5})
        for number in range(clients)
    ]
    start = time.perf_counter()
    outcomes = await asyncio.gather(*(inbox.accept(request) for request in requests))
    seconds = time.perf_counter() - start
    await inbox.close()
    if {str(outcome.value) for outcome in outcomes} != {"accepted"}:
        raise RuntimeError("every update must be accepted")
    return clients / seconds


async def measure(url: str, *, calls: int, repeats: int, clients: int) -> list[Goal]:
    database = DatabaseManager(url)
    await database.connect()
    lease = await prepare(database, clients)
    kind = "SQLite" if database.dialect == "sqlite" else "PostgreSQL"
    hand: Any = (HandWrittenSQLite if kind == "SQLite" else HandWrittenPostgres)(url)
    await hand.open()
    runs, registry = RunRepository(database), ClientRegistryRepository(database)

    def attach() -> Awaitable[Any]:
        return registry.attach(
            client_id=CLIENT,
            instance_id="i",
            software_version="1",
            apps=["app"],
            address="127.0.0.1:1",
        )

    ways: dict[str, tuple[Call, Call]] = {
        "find a run": (lambda: runs.find(RUN), hand.find),
        "find a task": (lambda: runs.find_train_task(RUN, 1, CLIENT), hand.task),
        "attach a client": (attach, hand.attach),
        "renew a lease": (lambda: runs.renew_lease(lease, 600.0), lambda: hand.renew(lease)),
    }
    found = await compare(ways, calls=calls, repeats=repeats)
    rate = await accepted_per_second(database, clients)
    await hand.close()
    await database.close()
    print_table(
        f"{kind}: CPU microseconds a call",
        ["", "repository", "by hand", "ratio"],
        [
            [name, f"{ours:.0f}", f"{other:.0f}", f"{ratio:.2f}"]
            for name, (ours, other, ratio) in found.items()
        ],
    )
    goals = [
        at_most(f"{kind}: {name}, CPU against by hand", RATIO_GOAL, ratio, " x")
        for name, (_, _, ratio) in found.items()
    ]
    return [*goals, at_least(f"{kind}: updates accepted", ROWS_GOAL, rate, " rows/s")]


def main() -> None:
    parser = argparse.ArgumentParser(description="the database layer against hand-written calls")
    parser.add_argument("--short", action="store_true", help="half a minute")
    arguments = parser.parse_args()
    size = (
        {"calls": 300, "repeats": 3, "clients": 5000}
        if arguments.short
        else {"calls": 2000, "repeats": 7, "clients": 20_000}
    )
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory(prefix="kumiai-database-") as folder:
        url = f"sqlite:///{Path(folder) / 'kumiai.db'}"
        asyncio.run(migrate(url))
        goals += asyncio.run(measure(url, **size))
    server = PostgresServer()
    try:
        goals += asyncio.run(measure(server.new_database(), **size))
    finally:
        server.remove()
    print(f"\n{load_line()}")
    print_goals(goals)


if __name__ == "__main__":
    main()
