"""Whole rounds without training: how long, how much CPU, how much memory.

Run ``python benchmarks/rounds.py [--rounds N] [CASE ...]``, a case being ``CLIENTSxMILLIONS``. A
coordinator and real client processes over mutual TLS on loopback; a study that adds a constant;
every update is durable before it is acknowledged. Up to eight clients have a process each, more
share four. A round's time runs from one published model to the next, the first of a run left out;
CPU is that of all processes, over all rounds. Beside it stand what Flower 1.42 and NVIDIA FLARE
needed for the same on two cores.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _federation import client_processes, ended, federation_in, job_for, new_model
from _measuring import (
    CpuMeter,
    Goal,
    Load,
    MemoryWatch,
    at_most,
    load_line,
    megabytes,
    peak_rss_bytes,
    print_goals,
    print_table,
)

PROCESSES_MAX = 8
SHARED_PROCESSES = 4


@dataclass(frozen=True, slots=True)
class Case:
    """What is run, what is wanted, and what others need.

    Attributes:
        clients: how many.
        millions: of float32 in the model.
        rounds: in the measured run, the first included.
        goal_seconds: for a round.
        flower_seconds: a round there, two cores; TLS off.
        flare_seconds: a round there, two cores; mutual TLS.
    """

    clients: int
    millions: float
    rounds: int
    goal_seconds: float
    flower_seconds: float
    flare_seconds: float

    @property
    def name(self) -> str:
        return f"{self.clients}x{self.millions:g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case came to, per round."""

    seconds: float
    slowest_seconds: float
    cpu_seconds: float
    coordinator_cpu_seconds: float
    coordinator_peak_bytes: int
    coordinator_own_peak_bytes: int
    client_peak_bytes: int
    other_cores: float


CASES = (
    Case(4, 0.1, 21, goal_seconds=0.25, flower_seconds=7.0, flare_seconds=2.5),
    Case(32, 0.1, 11, goal_seconds=1.2, flower_seconds=63, flare_seconds=3.0),
    Case(4, 10, 6, goal_seconds=1.5, flower_seconds=11, flare_seconds=3.5),
    Case(2, 100, 4, goal_seconds=5, flower_seconds=22, flare_seconds=15.6),
)


async def measure(case: Case, rounds: int, folder: Path) -> Outcome:
    processes = case.clients if case.clients <= PROCESSES_MAX else SHARED_PROCESSES
    model = new_model(round(case.millions * 1e6))
    async with (
        federation_in(folder, case.clients) as federation,
        client_processes(federation, processes=processes) as clients,
    ):
        coordinator = federation.coordinator.pid
        pids = [coordinator, *(client.pid for client in clients)]
        warm_up = await federation.api.submit(job_for(case.clients, 1), model)
        await ended(federation, warm_up)
        with MemoryWatch(coordinator) as watch:
            run_id = await federation.api.submit(job_for(case.clients, rounds), model)
            meters = CpuMeter(pids), CpuMeter([coordinator])
            load = Load(lambda: pids)
            await ended(federation, run_id)
            cpu, coordinator_cpu = (meter.seconds() / rounds for meter in meters)
            others = load.other_cores()
        published = [each["published_at"] for each in await federation.api.rounds(run_id)]
        seconds = [after - before for before, after in itertools.pairwise(published[1:])]
        return Outcome(
            seconds=statistics.median(seconds),
            slowest_seconds=max(seconds),
            cpu_seconds=cpu,
            coordinator_cpu_seconds=coordinator_cpu,
            coordinator_peak_bytes=peak_rss_bytes(coordinator),
            coordinator_own_peak_bytes=watch.peak_bytes,
            client_peak_bytes=max(peak_rss_bytes(client.pid) for client in clients),
            other_cores=others,
        )


def goals_of(case: Case, outcome: Outcome) -> list[Goal]:
    goals = [at_most(f"round {case.name} M", case.goal_seconds, outcome.seconds, " s")]
    if case.millions == 0.1:
        each = outcome.cpu_seconds / case.clients
        goals.append(at_most(f"CPU per client-round {case.name} M", 0.03, each, " s"))
    if case.millions == 100:
        peak = outcome.coordinator_peak_bytes / 1e9
        goals.append(at_most(f"coordinator peak RSS {case.name} M", 1.4, peak, " GB"))
    return goals


def row_of(case: Case, outcome: Outcome) -> list[str]:
    moved = case.clients * case.millions * 4e6
    return [
        f"{case.clients} x {case.millions:g} M",
        f"{outcome.seconds:.3f}",
        f"{outcome.slowest_seconds:.3f}",
        f"{case.flower_seconds:g} ({case.flower_seconds / outcome.seconds:.1f}x)",
        f"{case.flare_seconds:g} ({case.flare_seconds / outcome.seconds:.1f}x)",
        megabytes(moved),
        f"{outcome.cpu_seconds:.3f}",
        f"{outcome.cpu_seconds / case.clients:.4f}",
        f"{outcome.coordinator_cpu_seconds / case.clients:.4f}",
        megabytes(outcome.coordinator_peak_bytes),
        megabytes(outcome.coordinator_own_peak_bytes),
        megabytes(outcome.client_peak_bytes),
        f"{outcome.other_cores:.1f}",
    ]


HEADERS = (
    "clients x numbers",
    "round s",
    "slowest",
    "Flower s",
    "FLARE s",
    "MB each way",
    "CPU s",
    "per client",
    "at coordinator",
    "coordinator peak MB",
    "without files",
    "client process MB",
    "others' cores",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="whole rounds without training")
    names = [case.name for case in CASES]
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(names)}; all if none is named")
    parser.add_argument("--rounds", type=int, help="in the measured run; at least 2")
    parser.add_argument("--short", action="store_true", help="few rounds")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(names):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    print(load_line())
    rows, goals = [], []
    for case in CASES:
        if arguments.cases and case.name not in arguments.cases:
            continue
        rounds = arguments.rounds or (max(case.rounds // 2, 3) if arguments.short else case.rounds)
        with tempfile.TemporaryDirectory(prefix="kumiai-rounds-") as folder:
            outcome = asyncio.run(measure(case, rounds, Path(folder)))
        rows.append(row_of(case, outcome))
        goals += goals_of(case, outcome)
        print(f"{case.name}: {outcome.seconds:.3f} s a round", flush=True)
    print_table("a round, median after the first; CPU of all processes", HEADERS, rows)
    print_goals(goals)
    print(load_line())


if __name__ == "__main__":
    main()
