import asyncio
from collections.abc import AsyncIterator

import pytest

from kumiai.testing.tcp_proxy import TcpProxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_opened: list[Streams] = []


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(100):
        writer.write(chunk.upper())
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with TcpProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()
    for _, writer in _opened:
        writer.close()
    _opened.clear()


async def _ask(streams: Streams, words: bytes) -> bytes:
    reader, writer = streams
    writer.write(words)
    return await reader.read(100)


async def _open(proxy: TcpProxy) -> Streams:
    _opened.append(await asyncio.open_connection("127.0.0.1", proxy.port))
    return _opened[-1]


async def test_it_passes_on_in_both_directions(proxy: TcpProxy) -> None:
    streams = await _open(proxy)

    assert await _ask(streams, b"hello") == b"HELLO"


async def test_a_connection_that_is_cut_is_reset(proxy: TcpProxy) -> None:
    streams = await _open(proxy)
    await _ask(streams, b"hello")

    await proxy.cut()

    with pytest.raises(ConnectionResetError):
        await _ask(streams, b"again")
    assert await _ask(await _open(proxy), b"new") == b"NEW"
    assert proxy.connections == 2


async def test_nothing_passes_while_it_is_silent(proxy: TcpProxy) -> None:
    streams = await _open(proxy)
    await _ask(streams, b"hello")
    proxy.stall()
    asking = asyncio.create_task(_ask(streams, b"still there"))
    opening = await _open(proxy)
    done, _ = await asyncio.wait({asking}, timeout=0.05)

    proxy.resume()

    assert not done
    assert await asking == b"STILL THERE"
    assert await _ask(opening, b"new") == b"NEW"


async def test_new_connections_are_refused_and_taken_again_on_the_same_port(
    proxy: TcpProxy,
) -> None:
    streams, port = await _open(proxy), proxy.port
    await _ask(streams, b"hello")

    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await _open(proxy)
    assert await _ask(streams, b"old") == b"OLD"
    await proxy.reopen()

    assert proxy.port == port
    assert await _ask(await _open(proxy), b"new") == b"NEW"


async def test_it_resets_at_the_piece_that_is_chosen(proxy: TcpProxy) -> None:
    proxy.on_chunk = lambda direction, chunk: direction == "to_server" or chunk != b"THREE"
    streams = await _open(proxy)

    assert await _ask(streams, b"one") == b"ONE"
    with pytest.raises(ConnectionResetError):
        await _ask(streams, b"three")


async def test_a_server_that_is_gone_ends_the_connection(proxy: TcpProxy) -> None:
    proxy.retarget("127.0.0.1", 1)
    streams = await _open(proxy)

    assert await streams[0].read() == b""
