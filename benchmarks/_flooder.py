"""A bad neighbour: handshakes and calls that are refused, as fast as it can; told how many by line.

``python _flooder.py GRPC_PORT HTTP_PORT FOREIGN_CERT FOREIGN_KEY CA``: each line of standard
input, ``{"count": N}``, is answered when N of them are done. It yields the processor to everybody
else, so that what is measured is what the coordinator loses and not what the machine does.
"""

import asyncio
import json
import os
import ssl
import sys
import time
from collections import Counter

AT_ONCE = 32
HOST = "127.0.0.1"
STEP_SECONDS = 10.0
BAD_TOKEN = "kumiai_" + "0" * 20 + "_" + "A" * 43
REQUEST = (
    "GET /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    "Authorization: Bearer {token}\r\n\r\n"
)


def context(ca: str, *files: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(ca)
    if files:
        made.load_cert_chain(*files)
    return made


async def knock(port: int, tls: ssl.SSLContext, said: bytes) -> str:
    """Make one bad call; return how it ended."""
    try:
        async with asyncio.timeout(STEP_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
            writer.write(said)
            answer = await reader.read(64)
            writer.close()
    except TimeoutError:
        return "timed out"
    except (OSError, ssl.SSLError):
        return "refused in the handshake"
    return answer[:12].decode("latin-1") if answer.startswith(b"HTTP") else "hung up"


async def main() -> None:
    grpc_port, http_port = int(sys.argv[1]), int(sys.argv[2])
    cert, key, ca = sys.argv[3:]
    os.nice(19)
    nobody, foreign = context(ca), context(ca, cert, key)
    h2 = context(ca, cert, key)
    h2.set_alpn_protocols(["h2"])
    token = REQUEST.format(token=BAD_TOKEN).encode()
    kinds = [(grpc_port, h2, b"PRI"), (http_port, nobody, token), (http_port, foreign, b"")]
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> str:
        async with turns:
            return await knock(*kinds[number % len(kinds)])

    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        count, began = json.loads(line)["count"], time.monotonic()
        ends = Counter(await asyncio.gather(*(one(number) for number in range(count))))
        print(json.dumps({"seconds": time.monotonic() - began, "ends": ends}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
