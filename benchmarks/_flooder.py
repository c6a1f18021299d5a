"""A bad neighbour: handshakes and calls that are refused, as fast as it can; told how many by line.

``python _flooder.py GRPC_PORT HTTP_PORT FOREIGN_CERT FOREIGN_KEY CA``. Each line of standard input,
``{"port": "HTTP" | "gRPC", "count": N}``, is answered when N of them are done; with
``{"seconds": S}`` it only uses up the processor for so long. They come in waves: all connections
of one are open before the first of them says a word. It runs only where nobody else wants to, so
that what is measured is what the coordinator loses and not what the machine does.
"""

import asyncio
import json
import os
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass

WAVE = 64
HOST = "127.0.0.1"
STEP_SECONDS = 15.0
# Who is not let in does not wait for the second try of its own system, but goes on.
OPEN_SECONDS = 0.25
BAD_TOKEN = "kumiai_" + "0" * 20 + "_" + "A" * 43
CALLS = 20
REQUEST = (
    "GET /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n"
    "Authorization: Bearer " + BAD_TOKEN + "\r\n\r\n"
)


@dataclass(frozen=True)
class Knock:
    """One way of being bad: bytes on the bare connection, or a whole handshake and then bytes."""

    said: bytes
    tls: ssl.SSLContext | None = None

    async def ended(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Return how it ended."""
        try:
            async with asyncio.timeout(STEP_SECONDS):
                if self.tls is not None:
                    await writer.start_tls(self.tls)
                writer.write(self.said)
                # A handshake that was only begun would be waited for.
                answer = await reader.read(64 if self.tls is None else -1)
        except TimeoutError:
            return "timed out"
        except OSError:
            return "refused in the handshake"
        finally:
            writer.close()
        if answer.startswith(b"HTTP"):
            return answer[:12].decode("latin-1")
        return "left amid the handshake" if answer else "hung up"


def context(ca: str, *files: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(ca)
    if files:
        made.load_cert_chain(*files)
    return made


def hello(tls: ssl.SSLContext) -> bytes:
    """Return how a handshake begins: for whoever sends it again and again it costs nothing."""
    said = ssl.MemoryBIO()
    try:
        tls.wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    except ssl.SSLWantReadError:
        return said.read()
    raise RuntimeError("a handshake must need an answer")


async def wave(port: int, knocks: list[Knock]) -> list[str]:
    opened = await asyncio.gather(*(opened_to(port) for _ in knocks))
    pairs = zip(knocks, opened, strict=True)
    ends = await asyncio.gather(
        *(knock.ended(*streams) for knock, streams in pairs if streams is not None)
    )
    return [*ends, *["not let in"] * (len(knocks) - len(ends))]


async def opened_to(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            return await asyncio.open_connection(HOST, port)
    except TimeoutError:
        return None


async def flood(port: int, kinds: list[Knock], count: int) -> dict[str, object]:
    began, ends = time.monotonic(), Counter[str]()
    for first in range(0, count, WAVE):
        numbers = range(first, min(first + WAVE, count))
        ends.update(await wave(port, [kinds[number % len(kinds)] for number in numbers]))
    return {"seconds": time.monotonic() - began, "ends": ends}


def burn(seconds: float) -> dict[str, object]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return {}


async def main() -> None:
    grpc_port, http_port = int(sys.argv[1]), int(sys.argv[2])
    cert, key, ca = sys.argv[3:]
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
    nobody, foreign, h2 = context(ca), context(ca, cert, key), context(ca, cert, key)
    h2.set_alpn_protocols(["h2"])
    calls = [REQUEST.format(connection="keep-alive")] * (CALLS - 1)
    calls += [REQUEST.format(connection="close")]
    token = "".join(calls).encode()
    ways = {
        "HTTP": (http_port, [Knock(token, nobody), Knock(b"", foreign), Knock(hello(foreign))]),
        "gRPC": (grpc_port, [Knock(b"PRI", h2), Knock(hello(h2))]),
    }
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if "port" in order:
            told = await flood(*ways[order["port"]], order["count"])
        else:
            told = burn(order["seconds"])
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
