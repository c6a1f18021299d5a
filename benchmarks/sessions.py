"""Two hundred attached clients: how long does a control message take while others upload?

Run ``python benchmarks/sessions.py``. Each client has a session of its own over mutual TLS and
sends a heartbeat every five seconds; the time until the coordinator's echo is a round trip. Four
other clients fetch and upload 40 MB each, round after round. One more client beats every 50 ms, so
that there are enough samples of one connection that nothing else disturbs.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _federation import Driven, bare_clients, gathered
from _held_rounds import HeldRounds, held_rounds
from _measuring import (
    CpuMeter,
    Load,
    at_most,
    load_line,
    megabytes,
    peak_rss_bytes,
    print_goals,
    print_table,
)

ATTACHED = 200
ATTACHED_PROCESSES = 2
UPLOADERS = 4
NUMBERS = 10_000_000
PROBE_SECONDS = 0.05
ROUNDS_MAX = 10_000
GOAL_MS = 100
IDLE = {"OFFERED_APP": "another"}  # so that no round asks them
RoundTrips = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Span:
    """When something went on, on the clock that all processes of a machine share."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Round trips by who measured them and what went on."""

    idle: dict[str, RoundTrips]
    busy: dict[str, RoundTrips]
    uploads: Sequence[Span]
    idle_cpu_share: float
    peak_bytes: int
    note: str


async def measure(seconds: float, folder: Path) -> Outcome:
    async with held_rounds(
        folder,
        clients=UPLOADERS,
        numbers=NUMBERS,
        rounds=ROUNDS_MAX,
        processes=2,
        others=ATTACHED + 1,
    ) as rounds:
        names = rounds.other_names
        async with (
            bare_clients(
                rounds.federation,
                names[:-1],
                processes=ATTACHED_PROCESSES,
                environment=IDLE,
            ) as attached,
            bare_clients(
                rounds.federation,
                names[-1:],
                processes=1,
                environment={**IDLE, "BEAT_SECONDS": str(PROBE_SECONDS)},
            ) as probe,
        ):
            measured = {"200 clients, every 5 s": attached, "one client, every 50 ms": probe}
            await rounds.opened()
            idle_cpu = CpuMeter([rounds.coordinator])
            await asyncio.sleep(seconds / 2)
            idle_share = idle_cpu.seconds() / (seconds / 2)
            idle = await _taken(measured)
            pids = [*rounds.pids, *(each.pid for each in (*attached, *probe))]
            load = Load(lambda: pids)
            uploads = await _upload_for(seconds, rounds)
            busy = await _taken(measured)
            note = (
                f"{len(uploads)} rounds of {UPLOADERS} x 40 MB each way; others' cores "
                f"{load.other_cores():.1f}"
            )
            peak = peak_rss_bytes(rounds.coordinator)
    return Outcome(idle, busy, uploads, idle_share, peak, note)


async def _upload_for(seconds: float, rounds: HeldRounds) -> list[Span]:
    until = time.monotonic() + seconds
    uploads: list[Span] = []
    while True:
        model = await rounds.fetch()
        await rounds.prepare(model)
        began = time.monotonic()
        await rounds.send()
        uploads.append(Span(began, time.monotonic()))
        if time.monotonic() > until:
            return uploads
        await rounds.close()
        await rounds.opened()


async def _taken(measured: dict[str, list[Driven]]) -> dict[str, RoundTrips]:
    return {
        name: [
            (sent_at, seconds)
            for answer in await gathered(group.ask(do="round_trips") for group in groups)
            for sent_at, seconds in answer["round_trips"]
        ]
        for name, groups in measured.items()
    }


def _during(trips: RoundTrips, spans: Sequence[Span]) -> RoundTrips:
    return [
        (sent_at, seconds)
        for sent_at, seconds in trips
        # Also what was sent before and came back meanwhile.
        if any(span.begin - seconds <= sent_at <= span.end for span in spans)
    ]


def _row(what: str, trips: RoundTrips) -> list[str]:
    if not trips:
        return [what, "0", "", "", ""]
    milliseconds = [seconds * 1e3 for _, seconds in trips]
    return [
        what,
        str(len(trips)),
        f"{np.percentile(milliseconds, 50):.1f}",
        f"{np.percentile(milliseconds, 99):.1f}",
        f"{max(milliseconds):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="control messages while others upload")
    parser.add_argument("--seconds", type=float, help="how long the uploads go on")
    parser.add_argument("--short", action="store_true", help="not for long")
    arguments = parser.parse_args()
    seconds = arguments.seconds or (15.0 if arguments.short else 60.0)
    print(load_line())
    with tempfile.TemporaryDirectory(prefix="kumiai-sessions-") as folder:
        outcome = asyncio.run(measure(seconds, Path(folder)))
    rows, goals = [], []
    for name in outcome.busy:
        uploading = _during(outcome.busy[name], outcome.uploads)
        rows.append(_row(f"{name}: at rest", outcome.idle[name]))
        rows.append(_row(f"{name}: while 4 upload", uploading))
        rows.append(_row(f"{name}: whole rounds", outcome.busy[name]))
        p99 = float(np.percentile([each[1] * 1e3 for each in uploading], 99))
        goals.append(at_most(f"p99 round trip, {name}", GOAL_MS, p99, " ms"))
    headers = ["who and when", "samples", "p50 ms", "p99 ms", "largest ms"]
    print_table("round trip of a control message", headers, rows)
    print(
        f"{outcome.note}; coordinator at rest {outcome.idle_cpu_share:.1%} of a core, "
        f"peak RSS {megabytes(outcome.peak_bytes)} MB"
    )
    print_goals(goals)
    print(load_line())


if __name__ == "__main__":
    main()
