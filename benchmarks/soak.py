"""Runs for as long as asked: does a coordinator grow, and does it stand clients that are killed?

Run ``python benchmarks/soak.py [--minutes N] [--postgres] [--seed N]``, or ``make soak``. A
coordinator and four client processes over mutual TLS on loopback work on one small run after
another. Once a minute a client that chance picks is killed and started again. Every 15 seconds a
line tells what the coordinator holds. The exit code is 1 when a run failed, a process ended by
itself, or memory or open files grew over the second half of the time; the first half is for
caches, pools and threads to fill.

The data folder grows, and should: runs are kept until an operator deletes them.
"""

import argparse
import asyncio
import secrets
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from _federation import APP, STUDY, new_model
from _measuring import Goal, at_most, load_line, megabytes, print_goals

from kumiai.core.errors import KumiaiError
from kumiai.identity import Role
from kumiai.node.job import parse_job
from kumiai.node.local.federation import LocalFederation
from kumiai.node.local.folder import Member
from kumiai.testing.databases import PostgresServer

CLIENTS = 4
ROUNDS = 20
NUMBERS = 10_000
KILL_SECONDS = 60.0
LINE_SECONDS = 15.0
SAMPLE_SECONDS = 1.0
LOOK_SECONDS = 0.2
GROWTH_PERCENT_MAX = 10
# A pooled connection more or less is no growth; what leaks comes again with each run or kill.
MORE_FILES_MAX = 2
MINUTES_LEAST = 0.5
JOB = parse_job(
    {
        "run": {"app": APP, "rounds": ROUNDS, "keep_versions": 1},
        # A round goes on without the client that was killed.
        "cohort": {"size": CLIENTS, "min_clients": CLIENTS - 1, "grace_seconds": 1},
        "evaluation": {"every": 0},
    }
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the coordinator's process held at a moment."""

    seconds: float
    rss_bytes: int
    files: int
    threads: int


class Soak:
    """What goes on at the same time, and what it has come to."""

    def __init__(self, federation: LocalFederation, seed: int) -> None:
        self._federation = federation
        self._choice = np.random.default_rng(seed)
        self._process = psutil.Process(federation.coordinator.pid)
        config = federation.folder.config(Member(Role.COORDINATOR, "coordinator"))
        self._data = config.parent / "data"
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._began = self._now()
        self._rounds_of_ended_runs = 0
        self._rounds_of_this_run = 0
        self._told = 0, 0.0
        self.samples: list[Sample] = []
        self.runs = 0
        self.kills = 0
        self.failure = ""

    @property
    def rounds(self) -> int:
        return self._rounds_of_ended_runs + self._rounds_of_this_run

    async def go_on(self, minutes: float) -> None:
        """Return when the time is over, or earlier when something is wrong."""
        parts = (self._run, self._kill, self._watch, self._sample, self._tell)
        tasks = [asyncio.create_task(part()) for part in parts]
        try:
            # None of them has an end of its own but an error.
            ended, _ = await asyncio.wait(
                tasks, timeout=minutes * 60, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            error = task.exception()
            if not isinstance(error, KumiaiError):
                task.result()
            self.failure = str(error)
        if not self.failure:
            await self._print_line()

    def seconds(self) -> float:
        return self._now() - self._began

    async def _run(self) -> None:
        api, model = self._federation.api, new_model(NUMBERS)
        while True:
            run_id = await api.submit(JOB, model)
            while (run := await api.run(run_id))["state"] not in {"finished", "failed", "stopped"}:
                self._rounds_of_this_run = max(0, run["round"] - 1)
                await asyncio.sleep(LOOK_SECONDS)
            if run["state"] != "finished":
                raise KumiaiError(f"run {run_id} must finish, got {run['state']}: {run['reason']}")
            self.runs += 1
            self._rounds_of_this_run = 0
            self._rounds_of_ended_runs += ROUNDS

    async def _kill(self) -> None:
        await asyncio.sleep(KILL_SECONDS / 2)
        while True:
            due = self.seconds() + KILL_SECONDS
            name = str(self._choice.choice(self._federation.client_names))
            await self._federation.kill_client(name)
            await self._federation.start_client(name)
            await self._federation.wait_until_attached([name])
            self.kills += 1
            await asyncio.sleep(max(0.0, due - self.seconds()))

    async def _watch(self) -> None:
        (await self._federation.wait_for_unwanted_end()).verify_running()

    async def _sample(self) -> None:
        while True:
            self.samples.append(self.look())
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _tell(self) -> None:
        print("minutes  rounds  rounds/s  RSS MB  files  threads  data MB", flush=True)
        while True:
            await asyncio.sleep(LINE_SECONDS)
            await self._print_line()

    async def _print_line(self) -> None:
        size = await asyncio.to_thread(size_of, self._data)
        found, (before, last) = self.look(), self._told
        self._told = self.rounds, found.seconds
        speed = (self.rounds - before) / (found.seconds - last)
        print(
            f"{found.seconds / 60:7.2f}  {self.rounds:6}  {speed:8.1f}"
            f"  {megabytes(found.rss_bytes):>6}  {found.files:5}  {found.threads:7}"
            f"  {size / 1e6:7.1f}",
            flush=True,
        )

    def look(self) -> Sample:
        try:
            with self._process.oneshot():
                return Sample(
                    seconds=self.seconds(),
                    rss_bytes=self._process.memory_info().rss,
                    files=self._process.num_fds(),
                    threads=self._process.num_threads(),
                )
        except psutil.Error as error:
            raise KumiaiError(f"coordinator must go on running, got {error}") from None


def size_of(folder: Path) -> int:
    """Return how many bytes the files of a folder have; some may go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def growth_percent(samples: Sequence[Sample]) -> float:
    """Return by how much a straight line through the memory rises from its first to its last."""
    seconds = np.array([each.seconds for each in samples])
    slope, start = np.polyfit(seconds - seconds[0], [each.rss_bytes for each in samples], 1)
    return float(100 * slope * (seconds[-1] - seconds[0]) / start)


def files_growth(samples: Sequence[Sample]) -> float:
    """Return how many files more are usual in the last half of these than in the first."""
    middle = len(samples) // 2
    early, late = (
        statistics.median(each.files for each in part)
        for part in (samples[:middle], samples[middle:])
    )
    return late - early


def goals_of(soak: Soak, seconds: float) -> list[Goal]:
    second_half = [each for each in soak.samples if each.seconds >= seconds / 2]
    failed = "one" if soak.failure else "none"
    goals = [Goal("runs and processes", "none failed", failed, not soak.failure)]
    if len(second_half) >= 2:
        growth = growth_percent(second_half)
        goals += [
            at_most("RSS growth over the second half", GROWTH_PERCENT_MAX, growth, " %"),
            at_most(
                "more open files in the last quarter", MORE_FILES_MAX, files_growth(second_half)
            ),
        ]
    return goals


async def measure(folder: Path, minutes: float, seed: int, database_url: str | None) -> list[Goal]:
    federation = LocalFederation(
        folder,
        client_names=[f"client-{number}" for number in range(CLIENTS)],
        apps=[str(STUDY)],
        database_url=database_url,
        log_level="warning",
    )
    async with federation:
        soak = Soak(federation, seed)
        await soak.go_on(minutes)
        seconds = soak.seconds()
    print(
        f"\n{soak.runs} runs, {soak.rounds} rounds in {seconds / 60:.1f} minutes, "
        f"{soak.rounds / seconds:.1f} rounds/s, {soak.kills} clients killed and back"
    )
    if soak.failure:
        print(f"failed: {soak.failure}")
    return goals_of(soak, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description="runs for as long as asked; does anything grow?")
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--seed", type=int, help="of the clients that are killed; else chance's")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL, not on SQLite")
    arguments = parser.parse_args()
    if not arguments.minutes >= MINUTES_LEAST:
        parser.error(f"minutes must be at least {MINUTES_LEAST}, got {arguments.minutes}")
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    database = "PostgreSQL" if arguments.postgres else "SQLite"
    print(f"{arguments.minutes:g} minutes on {database}, seed {seed}; {load_line()}", flush=True)
    try:
        with ExitStack() as stack:
            url = None
            if arguments.postgres:
                server = PostgresServer()
                stack.callback(server.remove)
                url = server.new_database(migrated=False)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kumiai-soak-")))
            goals = asyncio.run(measure(folder, arguments.minutes, seed, url))
    except KeyboardInterrupt:
        print("\nended before its time", file=sys.stderr)
        return 130
    print_goals(goals)
    print(load_line())
    is_good = all(goal.is_met for goal in goals)
    print(f"verdict: {'good' if is_good else 'NOT good'}; seed {seed}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
