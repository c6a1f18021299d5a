"""How a client sends an update: a real gRPC server, without TLS, that only notes what comes."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from kumiai.node.client.deltas import DeltaUpload
from kumiai.node.client.transfer import BlobTransfer, PutReport
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.channel import BLOB_SERVICE, CHUNK_BYTES


class Notes:
    """A coordinator that accepts everything and keeps the sizes of the chunks."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def put(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        await anext(requests)  # the header
        self.sizes = [len(chunk) async for chunk in requests]
        return pb.PutResult(outcome=pb.PUT_OUTCOME_ACCEPTED).SerializeToString()


@pytest.mark.parametrize(
    ("wish", "sent"),
    [
        (0, CHUNK_BYTES),
        (256 << 10, 256 << 10),
        (1, 64 << 10),  # a coordinator that would keep its clients busy
        (1 << 30, CHUNK_BYTES),
    ],
)
async def test_chunks_are_as_large_as_the_coordinator_wishes_within_reason(
    wish: int, sent: int
) -> None:
    notes = Notes()
    server = grpc.aio.server()
    handlers = {"Put": grpc.stream_unary_rpc_method_handler(notes.put)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(BLOB_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    model = {"w": np.zeros(3 * CHUNK_BYTES // 4, np.float32)}
    upload = DeltaUpload.prepare(model, model, chunk_bytes=CHUNK_BYTES)
    options = [("grpc.max_receive_message_length", 2 * CHUNK_BYTES)]
    with ThreadPoolExecutor(1) as executor:
        transfer = BlobTransfer(
            lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options), executor
        )
        await transfer.send_update(
            upload,
            PutReport(run_id="run-a", round=1, attempt=1, examples=1, metrics={}),
            chunk_bytes=wish,
            until=lambda: float("inf"),
        )
        await transfer.close()
    await server.stop(None)

    assert set(notes.sizes[:-1]) == {sent}
    assert sum(notes.sizes) == upload.size_bytes
