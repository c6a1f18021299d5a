"""Does the coordinator's memory grow with its clients? It must not.

Run ``python benchmarks/memory.py``. Rounds over a model of 100 MB with 2, 8 and 32 clients, all of
which fetch at once and send at once. The peak counts the mapped files of model and updates, which
are cache; what the process has of its own stands beside it.
"""

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _held_rounds import held_rounds
from _measuring import (
    CpuMeter,
    Goal,
    MemoryWatch,
    load_line,
    megabytes,
    peak_rss_bytes,
    print_goals,
    print_table,
)

COHORTS = (2, 8, 32)
PROCESSES = 2
MODEL_BYTES = 100_000_000
FLATNESS = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cohort cost the coordinator."""

    clients: int
    peak_bytes: int
    own_peak_bytes: int
    cpu_seconds: float


async def measure(clients: int, rounds: int, model_bytes: int, folder: Path) -> Outcome:
    async with held_rounds(
        folder, clients=clients, numbers=model_bytes // 4, rounds=rounds, processes=PROCESSES
    ) as held:
        meter = CpuMeter([held.coordinator])
        with MemoryWatch(held.coordinator) as watch:
            for _ in range(rounds):
                await held.opened()
                await held.prepare(await held.fetch())
                await held.send()
                await held.close()
            await held.finished()
        return Outcome(
            clients=clients,
            peak_bytes=peak_rss_bytes(held.coordinator),
            own_peak_bytes=watch.peak_bytes,
            cpu_seconds=meter.seconds(),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="the coordinator's memory over clients")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="one round")
    parser.add_argument("--model-mb", type=int, default=MODEL_BYTES // 10**6)
    arguments = parser.parse_args()
    rounds = 1 if arguments.short else arguments.rounds
    print(load_line())
    outcomes = []
    for clients in COHORTS:
        with tempfile.TemporaryDirectory(prefix="kumiai-memory-") as folder:
            size = arguments.model_mb * 10**6
            outcomes.append(asyncio.run(measure(clients, rounds, size, Path(folder))))
    first = outcomes[0].peak_bytes
    rows = [
        [
            str(each.clients),
            megabytes(each.clients * arguments.model_mb * 1e6 * rounds),
            megabytes(each.peak_bytes),
            f"{each.peak_bytes / first:.2f}",
            megabytes(each.own_peak_bytes),
            f"{each.cpu_seconds:.1f}",
        ]
        for each in outcomes
    ]
    headers = ["clients", "MB each way", "peak RSS MB", "ratio", "without files MB", "CPU s"]
    print_table(f"the coordinator with a model of {arguments.model_mb} MB", headers, rows)
    widest = max(abs(each.peak_bytes / first - 1) for each in outcomes)
    print_goals(
        [
            Goal(
                "coordinator peak RSS over 2, 8, 32 clients",
                f"+- {FLATNESS:.0%}",
                f"{widest:.0%} off",
                widest <= FLATNESS,
            )
        ]
    )
    print(load_line())


if __name__ == "__main__":
    main()
