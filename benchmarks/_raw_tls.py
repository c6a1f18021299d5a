"""The limit to measure against: mutual TLS 1.3 sockets and nothing else.

``python _raw_tls.py server CERT KEY CA FOLDER`` and ``... client CERT KEY CA FOLDER PORT COUNT``. A
thread per connection, calls of one mebibyte from and into one buffer. The plain way throws the
bytes away. The durable way does by hand what a transfer of models owes its users besides moving
bytes: the receiver hashes and writes them to a file, which a server syncs and renames; the sender
of a model reads it from a file.

Driven by lines of JSON on standard input; ends with it.
"""

import json
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from kumiai.core.digest import StreamingDigest
from kumiai.identity import client_context, server_context

HEADER = struct.Struct("!cQ")
PIECE_BYTES = 1 << 20
GET, PUT, DURABLE_GET, DURABLE_PUT = b"g", b"p", b"G", b"P"
DURABLE = {DURABLE_GET, DURABLE_PUT}


def receive(stream: ssl.SSLSocket, size_bytes: int, sink: Callable[[memoryview], None]) -> None:
    buffer = memoryview(bytearray(PIECE_BYTES))
    while size_bytes:
        count = stream.recv_into(buffer[: min(PIECE_BYTES, size_bytes)])
        if not count:
            raise ConnectionError("cut off")
        sink(buffer[:count])
        size_bytes -= count


def receive_file(stream: ssl.SSLSocket, size_bytes: int, path: Path, *, sync: bool) -> None:
    digest = StreamingDigest()
    part = path.with_suffix(".part")
    with part.open("wb") as file:

        def sink(piece: memoryview) -> None:
            digest.update(piece)
            file.write(piece)

        receive(stream, size_bytes, sink)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    digest.hexdigest()
    part.replace(path)


def send(stream: ssl.SSLSocket, size_bytes: int, source: Callable[[int], memoryview]) -> None:
    while size_bytes:
        piece = source(min(PIECE_BYTES, size_bytes))
        stream.sendall(piece)
        size_bytes -= len(piece)


def send_file(stream: ssl.SSLSocket, size_bytes: int, path: Path) -> None:
    with path.open("rb") as file:
        send(stream, size_bytes, lambda count: memoryview(file.read(count)))


def serve(context: ssl.SSLContext, folder: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    model = folder / "raw-model"

    def handle(connection: socket.socket, number: int) -> None:
        stream = context.wrap_socket(connection, server_side=True)
        zeros = memoryview(bytes(PIECE_BYTES))
        while header := stream.recv(HEADER.size):
            kind, size_bytes = HEADER.unpack(header)
            match kind:
                case b"g":
                    send(stream, size_bytes, lambda count: zeros[:count])
                case b"G":
                    send_file(stream, size_bytes, model)
                case b"p":
                    receive(stream, size_bytes, lambda _: None)
                    stream.sendall(b"+")
                case _:
                    path = folder / f"raw-update-{number}"
                    receive_file(stream, size_bytes, path, sync=True)
                    stream.sendall(b"+")

    def accept() -> None:
        number = 0
        while True:
            connection, _ = listener.accept()
            number += 1
            threading.Thread(target=handle, args=(connection, number), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    for line in sys.stdin:
        model.write_bytes(bytes(json.loads(line)["model_bytes"]))
        print(json.dumps({}), flush=True)


def call(context: ssl.SSLContext, folder: Path, port: int, count: int) -> None:
    streams = [
        context.wrap_socket(
            socket.create_connection(("127.0.0.1", port)), server_hostname="localhost"
        )
        for _ in range(count)
    ]
    zeros = memoryview(bytes(PIECE_BYTES))

    def move(number: int, kind: bytes, size_bytes: int) -> None:
        stream = streams[number]
        stream.sendall(HEADER.pack(kind, size_bytes))
        match kind:
            case b"g":
                receive(stream, size_bytes, lambda _: None)
            case b"G":
                path = folder / f"raw-fetched-{os.getpid()}-{number}"
                receive_file(stream, size_bytes, path, sync=False)
            case _:
                send(stream, size_bytes, lambda length: zeros[:length])
                stream.recv(1)

    print(json.dumps({"attached": count}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        arguments = (order["kind"].encode(), order["size_bytes"])
        threads = [
            threading.Thread(target=move, args=(number, *arguments)) for number in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps({}), flush=True)


def main(role: str, cert: str, key: str, ca: str, folder: str, *rest: str) -> None:
    files = Path(cert), Path(key), Path(ca)
    if role == "server":
        serve(server_context(*files, client_certificate="required"), Path(folder))
    else:
        call(client_context(*files), Path(folder), *map(int, rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
