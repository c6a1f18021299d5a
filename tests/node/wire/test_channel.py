"""The limits of the coordinator's port, held against the gRPC that is installed."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest

from kumiai.core.clock import SystemClock
from kumiai.identity import CertificateManager, Role
from kumiai.node.wire.channel import (
    TlsFiles,
    chunk_bytes_for,
    server_credentials,
    server_options,
)

HANDSHAKE = "grpc.server_handshake_timeout_ms"


async def test_a_connection_that_makes_no_handshake_is_closed(tmp_path: Path) -> None:
    authority = CertificateManager(tmp_path / "ca", clock=SystemClock())
    authority.create("test")
    issued = authority.issue(Role.COORDINATOR, "c", hosts=("localhost",), out_dir=tmp_path / "c")
    files = TlsFiles(certificate=issued.cert, key=issued.key, ca=issued.ca)
    options = dict(server_options())
    assert options[HANDSHAKE] == 10_000
    server = grpc.aio.server(options=list({**options, HANDSHAKE: 200}.items()))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(files, SystemClock()))
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async with asyncio.timeout(30):
        assert await reader.read() == b""

    writer.close()
    await server.stop(None)


@pytest.mark.parametrize(
    ("streams", "chunk_bytes"),
    [(0, 1 << 20), (1, 1 << 20), (4, 1 << 20), (16, 256 << 10), (32, 128 << 10), (500, 128 << 10)],
)
def test_the_more_streams_move_the_smaller_are_their_chunks(streams: int, chunk_bytes: int) -> None:
    assert chunk_bytes_for(streams) == chunk_bytes


@pytest.mark.integration
def test_many_shake_hands_while_the_certificate_is_replaced_again_and_again(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "programs" / "handshakes.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    succeeded, failed = map(int, done.stdout.split())
    assert succeeded > 100
    assert failed == 0
