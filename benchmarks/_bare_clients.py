"""Several clients in one process, with a session and the client's own transfer code, but no study.

``python _bare_clients.py CONFIG ...``, one ``kumiai.toml`` for each client. The certificates, the
session's messages, `BlobTransfer` and `DeltaUpload` are the client's; what is missing is the task
runner, so that each step begins when the benchmark says so. All clients of a process hold the
same arrays: what is measured here is the coordinator and the wire.

Driven by lines of JSON on standard input, answered on standard output; ends with it.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kumiai import __version__
from kumiai.core.codec import decode
from kumiai.core.ids import new_id
from kumiai.identity import identity_of
from kumiai.node.client.deltas import DeltaUpload
from kumiai.node.client.transfer import BlobTransfer, ModelFile, PutReport
from kumiai.node.settings import Settings
from kumiai.node.settings_source import load_settings
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import ATTACH, CHUNK_BYTES, PROTOCOL_VERSION, TlsFiles, open_channel

APP = os.environ.get("OFFERED_APP", "constant")
PATIENCE_SECONDS = 600.0


class BareClient:
    """One session, and one channel for transfers, as a client process has them."""

    def __init__(self, settings: Settings, executor: ThreadPoolExecutor) -> None:
        identity = settings.identity
        tls = TlsFiles(certificate=identity.certificate, key=identity.key, ca=identity.ca)
        address = settings.client.coordinator
        self.name = identity_of(identity.certificate.read_bytes()).name
        self.models = settings.client.state_dir / "models"
        self.round_trips: list[tuple[float, float]] = []
        """When a heartbeat was sent, and how many seconds later its echo was here."""
        self._control = open_channel(address, tls)
        self._transfer = BlobTransfer(lambda: open_channel(address, tls), executor)
        self._sent_at: dict[int, float] = {}
        self._tasks: asyncio.Queue[pb.Task] = asyncio.Queue()
        self._task = pb.Task()
        self._upload: DeltaUpload | None = None
        self._call: Any = None
        self.heartbeat_seconds = 0.0

    async def attach(self) -> None:
        self._call = self._control.stream_stream(ATTACH)()
        hello = pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            instance_id=new_id("instance"),
            software_version=__version__,
            apps=[APP],
            wall_time=0.0,
        )
        await self._send(pb.ClientMessage(hello=hello))
        welcome = pb.ServerMessage.FromString(await self._call.read()).welcome
        self.heartbeat_seconds = welcome.heartbeat_seconds

    async def listen(self) -> None:
        while isinstance(raw := await self._call.read(), bytes):
            heard_at = time.monotonic()
            message = pb.ServerMessage.FromString(raw)
            match message.WhichOneof("body"):
                case "heartbeat":
                    sent_at = self._sent_at.pop(message.heartbeat.sequence)
                    self.round_trips.append((sent_at, heard_at - sent_at))
                case "task":
                    self._tasks.put_nowait(message.task)

    async def beat(self, first_after_seconds: float, every_seconds: float) -> None:
        await asyncio.sleep(first_after_seconds)
        sequence = 1
        while True:
            sequence += 1
            self._sent_at[sequence] = time.monotonic()
            await self._send(pb.ClientMessage(heartbeat=pb.Heartbeat(sequence=sequence)))
            await asyncio.sleep(every_seconds)

    async def next_task(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            self._task = await self._tasks.get()
        return self._task.key.round

    async def fetch(self) -> ModelFile:
        task = self._task
        return await self._transfer.fetch_model(
            task.key.run_id,
            task.model_digest,
            task.model_size_bytes,
            self.models,
            until=_patience(),
        )

    async def send_update(self, upload: DeltaUpload) -> None:
        key = self._task.key
        report = PutReport(
            run_id=key.run_id,
            round=key.round,
            attempt=self._task.attempt,
            examples=1,
            metrics={},
        )
        until = _patience()
        result = await self._transfer.send_update(
            upload, report, chunk_bytes=self._task.chunk_bytes, until=until
        )
        if result.outcome != pb.PUT_OUTCOME_ACCEPTED:
            raise SystemExit(f"{self.name}: update not accepted: {result.reason}")

    async def fail(self) -> None:
        """Answer that there will be no update, so that a round that waits for it may close."""
        failure = pb.TaskFailure(
            key=self._task.key,
            attempt=self._task.attempt,
            reason="held the round open, as it should",
        )
        await self._send(pb.ClientMessage(failure=failure))

    async def _send(self, message: pb.ClientMessage) -> None:
        await self._call.write(message.SerializeToString())


class Group:
    """The clients of this process, and the orders that all of them carry out together."""

    def __init__(self, clients: list[BareClient]) -> None:
        self._clients = clients
        self._upload: DeltaUpload | None = None

    async def do(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "next_task":
                numbers = await self._all(client.next_task() for client in self._clients)
                return {"round": numbers[0]}
            case "fetch":
                models = await self._all(client.fetch() for client in self._clients)
                return {"model": str(models[0].path)}
            case "prepare":
                self._upload = await asyncio.to_thread(_new_upload, Path(order["model"]))
            case "send":
                upload = self._upload
                if upload is None:
                    raise SystemExit("prepare must come before send")
                await self._all(client.send_update(upload) for client in self._clients)
            case "forget_models":
                for client in self._clients:
                    for path in client.models.glob("*"):
                        path.unlink()
            case "fail":
                await self._all(client.fail() for client in self._clients)
            case "round_trips":
                return {"round_trips": [pair for each in self._clients for pair in _taken(each)]}
        return {}

    async def _all(self, coroutines: Any) -> list[Any]:
        return await asyncio.gather(*coroutines)


def _patience() -> Callable[[], float]:
    until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    return lambda: until


def _new_upload(model: Path) -> DeltaUpload:
    base = decode(np.memmap(model, np.uint8, "r").data).arrays
    trained = {name: array + array.dtype.type(1) for name, array in base.items()}
    return DeltaUpload.prepare(trained, base, chunk_bytes=CHUNK_BYTES)


def _taken(client: BareClient) -> list[tuple[float, float]]:
    taken, client.round_trips = client.round_trips, []
    return taken


async def main(configs: list[str]) -> None:
    executor = ThreadPoolExecutor(2 * len(configs))
    clients = [
        BareClient(load_settings(Path(config), environ={}).settings, executor) for config in configs
    ]
    for client in clients:
        await client.attach()
    every = float(os.environ.get("BEAT_SECONDS", "0")) or clients[0].heartbeat_seconds
    tasks = [asyncio.create_task(client.listen()) for client in clients]
    # Evenly spread, as those of machines that started at different times are.
    tasks += [
        asyncio.create_task(client.beat(every * index / len(clients), every))
        for index, client in enumerate(clients)
    ]
    print(json.dumps({"attached": len(clients)}), flush=True)
    group = Group(clients)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await group.do(json.loads(line))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
