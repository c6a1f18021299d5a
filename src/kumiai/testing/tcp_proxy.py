"""A TCP proxy that fails when it is told to: cuts, goes silent, refuses, leads elsewhere.

It runs in the test's event loop and waits for nothing by the clock, so that a test decides at
which message a connection ends.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Literal, Self

__all__ = ["Direction", "TcpProxy"]

Direction = Literal["to_server", "to_client"]

_CHUNK_BYTES = 64 << 10
# Closing a socket with this set sends a reset, as a machine does that knows nothing of it.
_RESET = struct.pack("ii", 1, 0)


class TcpProxy:
    """Listens on a port of its own, and passes on what it gets.

    Args:
        host: of the server behind it.
        port: of the server behind it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        """The port it listens on, the same for its whole life."""
        self.connections = 0
        """How many were made so far."""
        self.on_chunk: Callable[[Direction, bytes], bool] | None = None
        """Sees each piece before it is passed on; ``False`` resets the connection instead."""

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.reopen()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Refuse, and cut whatever is open."""
        await self.refuse()
        self.resume()
        await self.cut()

    async def reopen(self) -> None:
        """Take connections, again if they were refused."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def cut(self) -> None:
        """Reset every connection that is open, those it has not answered yet as well."""
        pairs = tuple(self._pairs)
        for pair in pairs:
            pair.reset()
        for pair in pairs:
            await pair.ended.wait()

    def stall(self) -> None:
        """Pass nothing on; connections stay, and new ones are taken, but nobody answers."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass on again, and whatever has gathered."""
        self._flows.set()

    def retarget(self, host: str, port: int) -> None:
        """Lead new connections to another server."""
        self._target = (host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            await pair.until(self._flows)
            if pair.was_reset():
                return
            with contextlib.suppress(OSError):
                server_reader, pair.server = await asyncio.open_connection(*self._target)
                if pair.was_reset():
                    return
                pair.tasks = [
                    asyncio.ensure_future(self._pass_on("to_server", reader, pair.server, pair)),
                    asyncio.ensure_future(self._pass_on("to_client", server_reader, writer, pair)),
                ]
                await asyncio.wait(pair.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pair.close()
            self._pairs.discard(pair)

    async def _pass_on(
        self,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: "_Pair",
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                await self._flows.wait()
                if self.on_chunk is not None and not self.on_chunk(direction, chunk):
                    pair.reset()
                    return
                writer.write(chunk)
                await writer.drain()


class _Pair:
    """One connection through the proxy: its two sockets, and the tasks between them."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.tasks: list[asyncio.Future[None]] = []
        self.ended = asyncio.Event()
        self._reset = asyncio.Event()

    def was_reset(self) -> bool:
        """Return whether it is to end at once."""
        return self._reset.is_set()

    async def until(self, event: asyncio.Event) -> None:
        """Return when the event comes, or this is reset."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._reset)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def reset(self) -> None:
        """End it at once on both sides, whatever was on its way."""
        for writer in (self.client, self.server):
            if writer is not None:
                _set_reset(writer)
                writer.transport.abort()
        for task in self.tasks:
            task.cancel()
        self._reset.set()

    def close(self) -> None:
        """Let go of both sockets."""
        for task in self.tasks:
            task.cancel()
        for writer in (self.client, self.server):
            if writer is not None:
                writer.close()
        self.ended.set()


def _set_reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
