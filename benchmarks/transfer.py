"""Models down and updates up through the Blob service, against raw mutual TLS 1.3 sockets.

Run ``python benchmarks/transfer.py``. Eight clients move 40 MB each at once, in turns with raw
sockets between the same numbers of processes. Kumiai's side is a real coordinator and the clients'
own transfer code, so its figures hold all that a transfer owes besides moving bytes: a digest at
both ends, a file at the client, at the coordinator a file synced to the disk, numbers checked, a
row committed. The goals are against raw sockets that hash and write by hand, which is the same job;
raw sockets that throw the bytes away stand beside them: what no program that keeps them can reach.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from _federation import Driven, gathered
from _held_rounds import HeldRounds, held_rounds
from _measuring import (
    CpuMeter,
    Load,
    at_least,
    at_most,
    load_line,
    megabytes,
    peak_rss_bytes,
    print_goals,
    print_table,
)

from kumiai.identity import Role
from kumiai.node.local.federation import LocalFederation
from kumiai.node.local.folder import Member

CLIENTS = 8
PROCESSES = 2
NUMBERS = 10_000_000
SIZE_BYTES = 4 * NUMBERS
WARM_BYTES = 1 << 30
UP, DOWN = "up", "down"
RAW, DURABLE, KUMIAI = "raw TLS sockets", "the same, hashed and on disk", "Kumiai"
KINDS = {(DOWN, RAW): "g", (UP, RAW): "p", (DOWN, DURABLE): "G", (UP, DURABLE): "P"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One way of moving all the bytes, once: wall seconds, and CPU of both ends."""

    seconds: float
    cpu_seconds: float


class RawSockets:
    """The limit: a server process and client processes with a thread per connection."""

    def __init__(self, server: Driven, clients: list[Driven]) -> None:
        self._server = server
        self._clients = clients

    @property
    def pids(self) -> list[int]:
        return [self._server.pid, *(client.pid for client in self._clients)]

    async def move(self, kind: str) -> None:
        await gathered(client.ask(kind=kind, size_bytes=SIZE_BYTES) for client in self._clients)


@asynccontextmanager
async def raw_sockets(federation: LocalFederation, folder: Path) -> AsyncIterator[RawSockets]:
    def identity(role: Role, name: str) -> list[str]:
        return [str(path) for path in federation.folder.identity(Member(role, name))]

    folder.mkdir()  # noqa: ASYNC240 - nothing else runs yet
    async with AsyncExitStack() as stack:
        own = identity(Role.COORDINATOR, "coordinator")
        server = await stack.enter_async_context(
            Driven.started("_raw_tls.py", "server", *own, str(folder))
        )
        port = (await server.answer())["port"]
        await server.ask(model_bytes=SIZE_BYTES)
        arguments = [*identity(Role.CLIENT, federation.client_names[0]), str(folder), str(port)]
        clients = [
            await stack.enter_async_context(
                Driven.started("_raw_tls.py", "client", *arguments, str(CLIENTS // PROCESSES))
            )
            for _ in range(PROCESSES)
        ]
        await gathered(client.answer() for client in clients)
        yield RawSockets(server, clients)


class Scratch:
    """A file that keeps memory busy, and gives it up right before each sample.

    A virtual machine returns memory that lies free to its host within seconds, and getting it again
    costs up to two CPU seconds a gigabyte: more than all the rest of a transfer, and at random.
    """

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path

    def fill(self) -> None:
        """Take the memory."""
        with self._path.open("wb") as file:
            for _ in range(WARM_BYTES >> 20):
                file.write(bytes(1 << 20))

    def release(self) -> None:
        """Leave it to whoever asks next."""
        self._path.unlink()


async def sampled(
    pids: list[int], scratch: Scratch, move: Callable[[], Awaitable[object]]
) -> Sample:
    await asyncio.to_thread(scratch.fill)
    scratch.release()
    meter, began = CpuMeter(pids), time.monotonic()
    await move()
    return Sample(time.monotonic() - began, meter.seconds())


async def measure(repeats: int, folder: Path) -> tuple[dict[tuple[str, str], list[Sample]], str]:
    samples: dict[tuple[str, str], list[Sample]] = {}
    async with (
        held_rounds(
            folder / "federation",
            clients=CLIENTS,
            numbers=NUMBERS,
            rounds=repeats + 1,
            processes=PROCESSES,
        ) as rounds,
        raw_sockets(rounds.federation, folder / "raw") as raw,
    ):
        scratch = Scratch(folder / "scratch")
        load = Load(lambda: [*rounds.pids, *raw.pids])
        for repeat in range(repeats + 1):  # the first warms up
            taken = await _one_repeat(rounds, raw, scratch)
            for key, sample in taken.items() if repeat else ():
                samples.setdefault(key, []).append(sample)
        note = (
            f"coordinator peak RSS {megabytes(peak_rss_bytes(rounds.coordinator))} MB, "
            f"raw server {megabytes(peak_rss_bytes(raw.pids[0]))} MB; "
            f"others' cores {load.other_cores():.1f}"
        )
    return samples, note


async def _one_repeat(
    rounds: HeldRounds, raw: RawSockets, scratch: Scratch
) -> dict[tuple[str, str], Sample]:
    taken: dict[tuple[str, str], Sample] = {}
    model = ""

    async def fetch() -> None:
        nonlocal model
        model = await rounds.fetch()

    async def raw_in(direction: str) -> None:
        for way in (RAW, DURABLE):
            kind = KINDS[direction, way]
            taken[direction, way] = await sampled(
                raw.pids, scratch, lambda kind=kind: raw.move(kind)
            )  # type: ignore[misc]

    await rounds.opened()
    await raw_in(DOWN)
    taken[DOWN, KUMIAI] = await sampled(rounds.pids, scratch, fetch)
    await rounds.prepare(model)
    await raw_in(UP)
    taken[UP, KUMIAI] = await sampled(rounds.pids, scratch, rounds.send)
    await rounds.close()
    return taken


def compared(base: list[Sample], taken: list[Sample]) -> tuple[float, float]:
    """Return throughput and CPU as ratios to ``base``, of neighbours in time.

    So that a busy moment hits both.
    """
    pairs = list(zip(base, taken, strict=True))
    return (
        statistics.median(one.seconds / other.seconds for one, other in pairs),
        statistics.median(other.cpu_seconds / one.cpu_seconds for one, other in pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="transfers against raw TLS sockets")
    parser.add_argument("--repeats", type=int, help="how often, after one to warm up")
    parser.add_argument("--short", action="store_true", help="few repeats")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (3 if arguments.short else 7)
    print(load_line())
    with tempfile.TemporaryDirectory(prefix="kumiai-transfer-") as folder:
        samples, note = asyncio.run(measure(repeats, Path(folder)))
    moved = CLIENTS * SIZE_BYTES
    rows, goals = [], []
    for direction in (DOWN, UP):
        for way in (RAW, DURABLE, KUMIAI):
            taken = samples[direction, way]
            seconds = statistics.median(each.seconds for each in taken)
            cpu = statistics.median(each.cpu_seconds for each in taken)
            ratios = {base: compared(samples[direction, base], taken) for base in (RAW, DURABLE)}
            rows.append(
                [
                    f"{direction}, {way}",
                    megabytes(moved),
                    f"{seconds:.2f}",
                    f"{moved / seconds / 1e6:,.0f}",
                    f"{cpu / moved * 1e9:.2f}",
                    *(f"{ratio:.2f}" for base in (RAW, DURABLE) for ratio in ratios[base]),
                ]
            )
            if way == KUMIAI:
                speed, cost = ratios[DURABLE]
                job = "of the same over raw TLS"
                goals.append(at_least(f"throughput {direction} {job}", 0.8, speed, "x"))
                goals.append(at_most(f"CPU per GB {direction} {job}", 1.5, cost, "x"))
    headers = ["way", "MB", "seconds", "MB/s", "CPU s/GB"]
    headers += ["throughput to raw", "CPU to raw", "throughput to the same", "CPU to the same"]
    print_table(f"{CLIENTS} x 40 MB at once, both ends' CPU, medians of {repeats}", headers, rows)
    print(note)
    print_goals(goals)
    print(load_line())


if __name__ == "__main__":
    main()
