"""What an entry of the audit log costs, how fast a million are verified, how large a proof is.

Run ``python benchmarks/audit.py [--short]``: minutes, with ``--short`` seconds. The cost is that of
a transaction which describes a run, with and without its entry, in turns; and of transactions from
several tasks at once, which all wait for the log's end. SQLite syncs each commit; the PostgreSQL of
these benchmarks does not, so that its figure is the work alone.
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _measuring import Goal, at_most, load_line, print_goals, print_table

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, Role, TrustBundle
from kumiai.identity.audit import Act, Actor, AuditScribe, NewEntry
from kumiai.node.auditing.evidence import AuditEvidence, TrustedKeys
from kumiai.node.auditing.signer_files import load_signer
from kumiai.node.coordinator.auditing import CheckpointKeeper
from kumiai.storage import AuditLog, Changes, DatabaseManager, NewRun, RunRepository
from kumiai.storage import TrainingHistoryRepository as History
from kumiai.testing.databases import PostgresServer, SQLiteTemplate

VERIFY_CPU_SECONDS_PER_MILLION = 50.0
PROOF_BYTES = 2048
OF_THE_BARE = 2.0
RUN = NewRun("run-a", "digits", "app", {}, None, "olga", 3, "0" * 64, 10)
OLGA = Actor("operator", "olga", 7, "10.0.0.1")


def entry(number: int) -> NewEntry:
    return NewEntry(Act.RUN_DESCRIBED, OLGA, f"run/{number}", detail={"rounds": number})


async def described(history: History, number: int, *, is_audited: bool) -> float:
    """Return the milliseconds of one transaction."""
    start = time.perf_counter()
    await history.update(
        "run-a",
        Changes(description=f"words {number} {is_audited}"),
        entry=entry(number) if is_audited else None,
    )
    return 1000 * (time.perf_counter() - start)


async def append_cost(database: DatabaseManager, count: int) -> tuple[float, float, float]:
    """Return the median ms without and with an entry, and entries/s of eight tasks at once."""
    log = AuditLog(database, AuditScribe())
    await RunRepository(database).create(RUN)
    history = History(database, trail=log)
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(count):
        for is_audited, found in times.items():
            found.append(await described(history, number, is_audited=is_audited))

    async def many(first: int) -> None:
        for number in range(first, first + count // 8):
            await log.record([entry(number)])

    start = time.perf_counter()
    await asyncio.gather(*(many(1000 * task) for task in range(8)))
    rate = 8 * (count // 8) / (time.perf_counter() - start)
    return statistics.median(times[False]), statistics.median(times[True]), rate


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def batches(count: int) -> Iterator[list[NewEntry]]:
    for start in range(0, count, 5000):
        yield [entry(number) for number in range(start, min(start + 5000, count))]


async def verify_million(folder: Path, count: int) -> list[Goal]:
    database = DatabaseManager(SQLiteTemplate(folder).copy_to(folder / "kumiai.db"))
    await database.connect()
    log = AuditLog(database, AuditScribe())
    authority = CertificateManager(folder / "ca", clock=SystemClock())
    authority.create("hospitals")
    own = authority.issue(Role.COORDINATOR, "c", hosts=["localhost"], out_dir=folder / "own")
    keeper = CheckpointKeeper(
        log, lambda: load_signer(folder, own.cert, own.key), SystemClock(), folder
    )
    start = time.perf_counter()
    for some in batches(count):
        await log.record(some)
        await keeper.sign()
    filled = time.perf_counter() - start
    keys = TrustedKeys(await log.signers(), TrustBundle.load(authority.certificate_path))
    evidence = AuditEvidence(log)
    before, start, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    found = await evidence.verify(keys)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    grown = (peak_bytes() - before) / 1e6
    start = time.perf_counter()
    proof = (await evidence.prove(count // 3)).to_json()
    proved = 1000 * (time.perf_counter() - start)
    await database.close()
    print_table(
        "all of it",
        ("entries", "appended/s", "verified s", "CPU s", "memory grew MB", "proof B", "ms"),
        [(f"{found.size}", f"{count / filled:.0f}", f"{seconds:.1f}", f"{cpu:.1f}",
          f"{grown:.1f}", f"{len(proof)}", f"{proved:.0f}")],
    )  # fmt: skip
    return [
        at_most("audit: a million entries verified", VERIFY_CPU_SECONDS_PER_MILLION,
                cpu * 1e6 / count, " CPU s"),
        at_most("audit: proof of one entry", PROOF_BYTES, len(proof), " B"),
    ]  # fmt: skip


async def costs(folder: Path, count: int) -> list[Goal]:
    server = PostgresServer()
    rows, goals = [], []
    try:
        urls = {
            "SQLite": SQLiteTemplate(folder).copy_to(folder / "costs.db"),
            "PostgreSQL": server.new_database(),
        }
        for name, url in urls.items():
            database = DatabaseManager(url)
            await database.connect()
            bare, audited, rate = await append_cost(database, count)
            await database.close()
            figures = (bare, audited, audited - bare)
            rows.append((name, *(f"{each:.2f}" for each in figures), f"{rate:.0f}"))
            goals.append(
                at_most(f"audit: with an entry, {name}", OF_THE_BARE, audited / bare, " x")
            )
    finally:
        server.remove()
    columns = ("database", "ms without", "ms with", "an entry ms", "entries/s of 8 at once")
    print_table("one entry", columns, rows)
    return goals


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="a twentieth of everything")
    short = parser.parse_args().short
    print(load_line())
    with tempfile.TemporaryDirectory(prefix="kumiai-benchmark-") as name:
        folder = Path(name)
        (folder / "one").mkdir()
        (folder / "two").mkdir()
        goals = await costs(folder / "one", 80 if short else 800)
        goals += await verify_million(folder / "two", 50_000 if short else 1_000_000)
    print_goals(goals)


if __name__ == "__main__":
    asyncio.run(main())
