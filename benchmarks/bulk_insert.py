"""How fast rows enter in bulk, beside the driver that gets the same rows ready-made.

Run ``python benchmarks/bulk_insert.py [--short]``: seconds. The repositories take records, check
them and say their metrics in JSON; the driver alone (``sqlite3.executemany``, asyncpg's COPY) gets
tuples. Both write into the same tables with the same indexes and triggers, one transaction each.
Rows per second are of this process's CPU, which on SQLite is the database too.
"""

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
from _measuring import Goal, load_line, print_goals, print_table

from kumiai.storage import (
    DatabaseManager,
    EvaluationRecord,
    ModelRepository,
    NewModel,
    NewRun,
    RunRepository,
    TrainingHistoryRepository,
)
from kumiai.storage.search import search_terms
from kumiai.testing.databases import PostgresServer, SQLiteTemplate

ROWS_PER_SECOND = 50_000
# Where the driver itself is slower than that, because the table's search index is: a record has
# to be made, checked and said in JSON, which the driver's tuples are spared.
OF_THE_DRIVER = 0.8
METRICS = {"accuracy": 0.9123, "loss": 0.2871}
METRICS_JSON = '{"accuracy":0.9123,"loss":0.2871}'
EVALUATIONS = ("run_id", "round", "client_id", "examples", "metrics_json", "reported_at")
MODELS = (
    "run_id", "round", "model_id", "digest", "size_bytes", "name", "metrics_json", "created_at",
    "description", "tags_json", "search_terms",
)  # fmt: skip
CLIENTS = 1000
Work = Callable[..., Awaitable[object]]


def evaluations(run_id: str, count: int) -> Iterator[EvaluationRecord]:
    for index in range(count):
        client = f"client-{index % CLIENTS:04}"
        yield EvaluationRecord(run_id, index // CLIENTS, client, 100, METRICS, 1.7e9)


def evaluation_rows(run_id: str, count: int) -> list[tuple[Any, ...]]:
    return [
        (run_id, index // CLIENTS, f"client-{index % CLIENTS:04}", 100, METRICS_JSON, 1.7e9)
        for index in range(count)
    ]


def models(run_id: str, count: int) -> Iterator[NewModel]:
    for number in range(1, count + 1):
        yield NewModel(run_id, number, "d" * 64, 1000, "digits", METRICS, 1.7e9)


def model_rows(run_id: str, count: int) -> list[tuple[Any, ...]]:
    terms = search_terms("digits")
    return [
        (run_id, number, f"{run_id}.{number}", "d" * 64, 1000, "digits", METRICS_JSON, 1.7e9,
         "", "[]", terms)
        for number in range(1, count + 1)
    ]  # fmt: skip


async def measured(count: int, work: Work, *arguments: Any) -> float:
    """Return rows per second of this process's CPU."""
    began = time.process_time()
    await work(*arguments)
    return count / (time.process_time() - began)


async def new_run(database: DatabaseManager, run_id: str) -> str:
    await RunRepository(database).create(
        NewRun(run_id, "digits", "digits", {}, None, "olga", 1, "d" * 64, 1000)
    )
    return run_id


async def insert_by_sqlite(path: Path, table: str, columns: tuple[str, ...], rows: Any) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
    connection.commit()
    connection.close()


async def copy_by_asyncpg(url: str, table: str, columns: tuple[str, ...], rows: Any) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.copy_records_to_table(table, records=rows, columns=columns)
    finally:
        await connection.close()


async def compare(
    name: str, url: str, *, insert: Work, place: Any, count: int, rounds: int
) -> list[tuple[str, float, float]]:
    """Return what was inserted and its rows per second, by the repository and by the driver."""
    database = DatabaseManager(url)
    await database.connect()
    history, catalogue = TrainingHistoryRepository(database), ModelRepository(database)
    ours: dict[str, list[float]] = {"evaluations": [], "models": []}
    drivers: dict[str, list[float]] = {"evaluations": [], "models": []}
    try:
        for each in range(rounds):
            one, other = f"run-{each}a", f"run-{each}b"
            await new_run(database, one)
            await new_run(database, other)
            # In turns, so that what else the machine does meets both alike.
            ours["evaluations"].append(
                await measured(count, history.add_evaluations, evaluations(one, count))
            )
            rows = evaluation_rows(other, count)
            drivers["evaluations"].append(
                await measured(count, insert, place, "evaluations", EVALUATIONS, rows)
            )
            ours["models"].append(await measured(count, catalogue.add_many, models(one, count)))
            rows = model_rows(other, count)
            drivers["models"].append(await measured(count, insert, place, "models", MODELS, rows))
    finally:
        await database.close()
    median = statistics.median
    return [(f"{table}, {name}", median(ours[table]), median(drivers[table])) for table in ours]


def goal_of(name: str, ours: float, driver: float) -> Goal:
    wanted = f">= {ROWS_PER_SECOND:,} rows/s of CPU, or {OF_THE_DRIVER:g} of the driver's"
    measured_words = f"{ours:,.0f} rows/s; the driver {driver:,.0f}"
    return Goal(name, wanted, measured_words, ours >= min(ROWS_PER_SECOND, OF_THE_DRIVER * driver))


def main() -> None:
    parser = argparse.ArgumentParser(description="bulk insert beside the drivers")
    parser.add_argument("--short", action="store_true", help="fewer rows, good enough to see much")
    short = parser.parse_args().short
    count, rounds = (20_000, 3) if short else (100_000, 5)
    found: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bulk.db"
        url = SQLiteTemplate(Path(folder)).copy_to(path)
        found += asyncio.run(
            compare("SQLite", url, insert=insert_by_sqlite, place=path, count=count, rounds=rounds)
        )
    server = PostgresServer()
    try:
        url = server.new_database()
        found += asyncio.run(
            compare(
                "PostgreSQL", url, insert=copy_by_asyncpg, place=url, count=count, rounds=rounds
            )
        )
    finally:
        server.remove()
    print(load_line())
    print_table(
        f"rows per second of this process's CPU; {count:,} rows a transaction",
        ("", "repository", "driver alone", "ratio"),
        [
            (name, f"{ours:,.0f}", f"{driver:,.0f}", f"{ours / driver:.2f}")
            for name, ours, driver in found
        ],
    )
    print_goals([goal_of(f"bulk insert of {name}", *figures) for name, *figures in found])


if __name__ == "__main__":
    main()
