"""Connections to an SQLite file end, whoever is cancelled amid their use, and leave nothing."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kumiai.storage.database_url import parse_url
from kumiai.storage.sqlite_connections import new_sqlite_engine
from tests.integration.eventually import eventually

TURNS = range(12)
"""More turns of the event loop than one ending takes."""


def new_engine(path: Path) -> AsyncEngine:
    url = parse_url(f"sqlite:///{path}")
    return new_sqlite_engine(url, lock_timeout_seconds=0.1, pool={})


async def driver_of(connection: AsyncConnection) -> aiosqlite.Connection:
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, aiosqlite.Connection)
    return driver


async def cancel_after(turns: int, awaited: Awaitable[object]) -> None:
    """Cancel what was begun, so many turns of the event loop later."""
    task = asyncio.ensure_future(awaited)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=30)


async def still_open_at_the_end() -> list[str]:
    """Cancel what is left as the end of an event loop does; return what does not end."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    pending = (await asyncio.wait(left, timeout=30))[1] if left else ()
    return [repr(task) for task in pending]


def threads_of(driver: aiosqlite.Connection) -> list[str]:
    driver._thread.join(10)
    return [thread.name for thread in threading.enumerate() if thread is driver._thread]


def verify_free(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=0.0)) as other:
        other.execute("CREATE TABLE others (name)")


async def close(driver: aiosqlite.Connection) -> None:
    await driver.close()


async def close_and_stop(driver: aiosqlite.Connection) -> None:
    closing = asyncio.ensure_future(driver.close())
    await asyncio.sleep(0)
    stopping = driver.stop()
    assert stopping is not None
    await asyncio.gather(closing, stopping)


async def close_twice(driver: aiosqlite.Connection) -> None:
    await asyncio.gather(driver.close(), driver.close())
    await driver.close()


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("end", [close, close_and_stop, close_twice])
async def test_a_connection_ends_wherever_its_end_is_cancelled(
    tmp_path: Path, end: Callable[[aiosqlite.Connection], Awaitable[None]], turns: int
) -> None:
    engine = new_engine(tmp_path / "kumiai.db")
    async with engine.connect() as connection:
        driver = await driver_of(connection)
        await connection.execute(text("CREATE TABLE rows (name)"))
        await connection.commit()
        (await connection.get_raw_connection()).detach()

        await cancel_after(turns, end(driver))

        assert await still_open_at_the_end() == []
        async with asyncio.timeout(10):
            await driver.close()
    assert threads_of(driver) == []
    verify_free(tmp_path / "kumiai.db")


async def test_a_connection_that_was_stopped_outside_of_the_loop_ends_once(tmp_path: Path) -> None:
    async with new_engine(tmp_path / "kumiai.db").connect() as connection:
        driver = await driver_of(connection)
        (await connection.get_raw_connection()).detach()

        assert await asyncio.to_thread(driver.stop) is None

        async with asyncio.timeout(10):
            await driver.close()
    assert threads_of(driver) == []


@pytest.mark.parametrize("turns", TURNS)
async def test_a_connection_ends_wherever_who_gives_it_up_is_cancelled(
    tmp_path: Path, turns: int
) -> None:
    engine = new_engine(tmp_path / "kumiai.db")
    async with engine.connect() as connection:
        driver = await driver_of(connection)
        await connection.execute(text("CREATE TABLE rows (name)"))

        await cancel_after(turns, connection.invalidate())

        assert await still_open_at_the_end() == []
    await engine.dispose()
    assert threads_of(driver) == []
    verify_free(tmp_path / "kumiai.db")


@pytest.mark.parametrize("turns", TURNS)
async def test_a_file_is_free_wherever_who_opens_it_is_cancelled(
    tmp_path: Path, turns: int
) -> None:
    engine = new_engine(tmp_path / "kumiai.db")
    before = threading.active_count()

    async def open_and_close() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("CREATE TABLE rows (name)"))

    await cancel_after(turns, open_and_close())

    assert await still_open_at_the_end() == []
    await engine.dispose()
    await eventually(lambda: threading.active_count() <= before)
    verify_free(tmp_path / "kumiai.db")
