"""What it costs to pay for a private round, on SQLite and on PostgreSQL.

Run ``python benchmarks/ledger.py``; ``--short`` for a few seconds. A round of ten clients is
charged to 21 scopes, each with a budget, and sealed. The ledger is that of a federation in use: so
many rounds are behind it already. SQLite syncs to the disk as in production. PostgreSQL is the
tests' server on loopback, which does not sync: add two syncs of your disk.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from _measuring import Goal, at_most, load_line, print_goals, print_table

from kumiai.privacy import GaussianEvent, PrivacyUnit, event_to_json
from kumiai.privacy.budget import BudgetLimit
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import BudgetScope, Charge, ChargeKey, Guarantee
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy
from kumiai.storage import BudgetRepository, DatabaseManager, Lease, NewRun, RunRepository
from kumiai.testing.databases import PostgresServer, migrate

P50_GOAL_MS, P99_GOAL_MS = 15.0, 100.0
EVENT = event_to_json(GaussianEvent(4.0))
LEVEL = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)
SITES = [f"site-{number}" for number in range(10)]
SCOPES = [BudgetScope.parse("model/heart")] + [
    BudgetScope.parse(text)
    for site in SITES
    for text in (f"client/{site}", f"dataset/{site}/heart")
]
CHARGE = Charge.alike(LEVEL, SCOPES, {EVENT: 1})
RUN = "run-a"


async def prepare(database: DatabaseManager, behind: int) -> tuple[BudgetRepository, Lease]:
    """Make the budgets, the run, and what was paid before."""
    runs, budgets = RunRepository(database), BudgetRepository(database)
    await runs.create(
        NewRun(
            run_id=RUN,
            name="heart",
            app="heart",
            job={},
            submit_token=None,
            submitted_by="olga",
            rounds_total=1_000_000,
            model_digest="d0",
            model_size_bytes=1,
        )
    )
    lease = await runs.acquire_lease(RUN, "leader", 3600.0)
    if lease is None:
        raise RuntimeError("nobody else may lead")
    await runs.start(lease)
    for scope in SCOPES:
        await budgets.set_limit(BudgetLimit(scope, LEVEL, 1e5, 1e-5), by="bench")
    earlier = [
        KeyedCharge(ChargeKey("run-0", number, 1), CHARGE) for number in range(1, behind + 1)
    ]
    await budgets.reconcile([SiteCopy(site, earlier) for site in SITES[:1]], {}, by="bench")
    return budgets, lease


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of each charge, of each with its seal, and of this process's CPU for both."""

    charges: list[float]
    both: list[float]
    cpu: float
    check_seconds: float


async def measure(url: str, behind: int, count: int) -> Measured:
    """Pay for so many rounds, and check the ledger."""
    await migrate(url)
    database = DatabaseManager(url, idle_in_transaction_timeout_seconds=60.0)
    await database.connect()
    budgets, lease = await prepare(database, behind)
    charges, both, cpu = [], [], time.process_time()
    for number in range(1, count + 1):
        key, began = ChargeKey(RUN, number, 1), time.perf_counter()
        await budgets.charge(lease, key, CHARGE)
        charges.append(1e3 * (time.perf_counter() - began))
        await budgets.seal(lease, key, f"digest-{number}")
        both.append(1e3 * (time.perf_counter() - began))
    cpu = 1e3 * (time.process_time() - cpu) / count
    began = time.perf_counter()
    await budgets.check()
    seconds = time.perf_counter() - began
    await database.close()
    return Measured(charges, both, cpu, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="charge and seal")
    parser.add_argument("--short", action="store_true", help="a few seconds")
    arguments = parser.parse_args()
    behind, count = (200, 60) if arguments.short else (5000, 500)
    rows, goals = [], list[Goal]()
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as folder:
            urls = {
                "sqlite": f"sqlite:///{Path(folder) / 'kumiai.db'}",
                "postgresql": server.new_database(migrated=False),
            }
            for name, url in urls.items():
                found = asyncio.run(measure(url, behind, count))
                p50 = statistics.median(found.both)
                p99 = statistics.quantiles(found.both, n=100)[98]
                figures = (statistics.median(found.charges), p50, p99, found.cpu)
                row = [f"{figure:.1f}" for figure in figures]
                rows.append([name, *row, f"{found.check_seconds:.2f}"])
                goals.append(at_most(f"{name}: charge and seal, p50", P50_GOAL_MS, p50, " ms"))
                goals.append(at_most(f"{name}: charge and seal, p99", P99_GOAL_MS, p99, " ms"))
    finally:
        server.remove()
    print(f"\n{load_line()}")
    columns = ("database", "charge p50 ms", "and seal p50 ms", "p99 ms", "CPU ms", "check, s")
    print_table(f"{count} rounds behind {behind}", columns, rows)
    print_goals(goals)


if __name__ == "__main__":
    main()
