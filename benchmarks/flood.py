"""Ten thousand bad handshakes and calls from one address: what does a good caller notice?

Run ``python benchmarks/flood.py``. A good operator asks over HTTP, and a good client over gRPC,
every 20 ms, from the same address as the flood: while all is quiet, while the flooding program
only uses up the processor, and while half of the flood comes in at each port. It comes in waves of
64 connections: twenty calls with a token that nobody made, handshakes with another authority's
certificate, and handshakes that are begun and left.

A flood from elsewhere does not use the coordinator's processors. So where the system allows it,
the coordinator has one half of them, and flood and good callers have the other, on which the
flood runs only while nobody else wants to. Next to other work the figures mean little.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
import httpx
import numpy as np
from _federation import Driven, federation_in
from _measuring import Goal, at_most, load_line, peak_rss_bytes, print_goals, print_table

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, Role, client_context
from kumiai.node.local.federation import LocalFederation
from kumiai.node.local.folder import Member
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import STAT, TlsFiles, open_channel

PAUSE_SECONDS = 0.02
QUIET_SECONDS = 20.0
GOAL_RATIO = 2.0
GOAL_GROWTH_MB = 32.0
CLIENT = "client-000"
Ask = Callable[[], Awaitable[object]]


async def round_trips(ask: Ask, until: asyncio.Event) -> list[float]:
    """Return how long each answer took, in milliseconds."""
    found = []
    while not until.is_set():
        began = time.perf_counter()
        await ask()
        found.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(PAUSE_SECONDS)
    return found


async def measured(asks: dict[str, Ask], during: Awaitable[object]) -> dict[str, list[float]]:
    """Ask by every way until something is over."""
    over = asyncio.Event()
    asking = {name: asyncio.create_task(round_trips(ask, over)) for name, ask in asks.items()}
    await during
    over.set()
    return {name: await task for name, task in asking.items()}


def ways_in(
    federation: LocalFederation, http: httpx.AsyncClient, channel: grpc.aio.Channel
) -> dict[str, Ask]:
    stat = channel.unary_unary(STAT)
    question = pb.StatRequest(run_id="run-none", round=1, digest="0" * 64).SerializeToString()

    async def over_http() -> None:
        (await http.get(f"{federation.url}/api/v1/info")).raise_for_status()

    async def over_grpc() -> None:
        await stat(question)

    return {"HTTP": over_http, "gRPC": over_grpc}


def run_on(half: int) -> None:
    """Have what is started from now on run on one half of the processors."""
    if hasattr(os, "sched_setaffinity"):
        cores = range(os.cpu_count() or 1)
        os.sched_setaffinity(0, cores[half::2] or cores)


async def run(count: int, quiet_seconds: float, folder: Path) -> list[Goal]:
    foreign = CertificateManager(folder / "foreign", clock=SystemClock())
    foreign.create("local")
    stranger = foreign.issue(Role.CLIENT, "stranger", out_dir=folder / "stranger")
    run_on(0)
    async with federation_in(folder / "federation", 1) as federation:
        run_on(1)
        identity = federation.folder.identity
        operator = identity(Member(Role.OPERATOR, "operator"))
        cert, key, ca = identity(Member(Role.CLIENT, CLIENT))
        files = TlsFiles(certificate=cert, key=key, ca=ca)
        ports = (str(federation.port), str(federation.http_port))
        flooder = Driven.started(
            "_flooder.py", *ports, str(stranger.cert), str(stranger.key), str(ca)
        )
        async with (
            flooder as flood,
            httpx.AsyncClient(verify=client_context(*operator), trust_env=False) as http,
            open_channel(federation.address, files) as channel,
        ):
            asks = ways_in(federation, http, channel)
            for port in asks:  # warm, and lets memory settle
                await measured(asks, flood.ask(port=port, count=count // 20))
            pid = federation.coordinator.pid
            settled = peak_rss_bytes(pid)
            found = {
                "quiet": await measured(asks, asyncio.sleep(quiet_seconds)),
                "busy machine": await measured(asks, flood.ask(seconds=quiet_seconds)),
            }
            for port in asks:
                told: dict[str, object] = {}

                async def flooding(port: str = port, told: dict[str, object] = told) -> None:
                    told.update(await flood.ask(port=port, count=count // 2))

                found[f"{port} flooded"] = await measured(asks, flooding())
                print_flood(port, told, count // 2)
            grown = (peak_rss_bytes(pid) - settled) / 1e6
    return [
        *report(found),
        at_most("growth of the coordinator's memory", GOAL_GROWTH_MB, grown, " MB"),
    ]


def print_flood(port: str, told: dict[str, object], count: int) -> None:
    seconds = float(str(told["seconds"]))
    print(
        f"{count} bad ones over {port} in {seconds:.1f} s, {count / seconds:.0f}/s: {told['ends']}"
    )


def report(found: dict[str, dict[str, list[float]]]) -> list[Goal]:
    rows, goals = [], []
    for name, calm in found["quiet"].items():
        calm_p99 = float(np.percentile(calm, 99))
        for when, each in found.items():
            middle, late = np.percentile(each[name], [50, 99])
            rows.append([name, when, str(len(each[name])), f"{middle:.2f}", f"{late:.2f}"])
            if when.endswith("flooded"):
                ratio = float(late) / calm_p99
                goals.append(at_most(f"p99 over {name}, {when}", GOAL_RATIO, ratio, "x"))
    headers = ["over", "when", "round trips", "p50 ms", "p99 ms"]
    print_table("a good caller's round trips", headers, rows)
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="bad handshakes and calls")
    parser.add_argument("--short", action="store_true", help="a fifth of all")
    arguments = parser.parse_args()
    share = 5 if arguments.short else 1
    with tempfile.TemporaryDirectory(prefix="kumiai-flood-") as folder:
        goals = asyncio.run(run(arguments.count // share, QUIET_SECONDS / share, Path(folder)))
    print(f"\n{load_line()}")
    print_goals(goals)


if __name__ == "__main__":
    main()
