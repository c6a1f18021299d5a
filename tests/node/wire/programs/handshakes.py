"""Shakes hands from several threads while a port's certificate is replaced; prints how often.

A program of its own: what it looks for would end the process.
"""

import asyncio
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import grpc.aio

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, Role
from kumiai.node.wire.channel import TlsFiles, server_credentials, server_options

SECONDS = 8.0


def client_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    return context


async def main(folder: Path) -> None:
    authority = CertificateManager(folder / "ca", clock=SystemClock())
    authority.create("test")

    def issue(number: int) -> TlsFiles:
        out = folder / f"coordinator-{number}"
        made = authority.issue(Role.COORDINATOR, "coordinator", hosts=("localhost",), out_dir=out)
        return TlsFiles(certificate=made.cert, key=made.key, ca=made.ca)

    files, context = issue(0), client_context(issue(1))
    server = grpc.aio.server(options=server_options())
    port = server.add_secure_port("127.0.0.1:0", server_credentials(files, SystemClock()))
    await server.start()
    until, done = time.monotonic() + SECONDS, [0, 0]

    def knock() -> None:
        while time.monotonic() < until:
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                try:
                    with context.wrap_socket(plain):
                        done[0] += 1
                except OSError:
                    done[1] += 1

    threads = [threading.Thread(target=knock) for _ in range(16)]
    for thread in threads:
        thread.start()
    number = 2
    while time.monotonic() < until:
        fresh = issue(number)
        fresh.key.replace(files.key)
        fresh.certificate.replace(files.certificate)
        number += 1
        await asyncio.sleep(0.3)
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    await server.stop(1)
    print(*done)


asyncio.run(main(Path(sys.argv[1])))
