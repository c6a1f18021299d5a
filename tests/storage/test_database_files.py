"""SQLite files that are full, read-only, damaged or no databases: what is said, what is kept."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from kumiai.core.clock import SystemClock
from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager
from kumiai.storage.database_checks import DatabaseFinding
from kumiai.storage.database_errors import is_busy, is_retryable, mend_of, words_of

INSERT = text("INSERT INTO notes VALUES (:n, randomblob(40000))")
Mount = Callable[..., Path]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Lend a way to mount a file system; not everybody may."""
    folders: list[Path] = []

    def mount(*arguments: str) -> Path:
        folder = tmp_path / f"mount-{len(folders)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", *arguments, str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"this user may not mount: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    yield mount
    for folder in reversed(folders):
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def new_notes(path: Path) -> DatabaseManager:
    database = DatabaseManager(f"sqlite:///{path}")
    try:
        await database.connect()
        async with database.transaction() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS notes (n int, body blob)"))
    except StorageError:
        await database.close()
        raise
    return database


async def write(database: DatabaseManager, n: int) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT, {"n": n})


async def numbers(database: DatabaseManager) -> list[int]:
    async with database.reading() as connection:
        return list((await connection.execute(text("SELECT n FROM notes ORDER BY n"))).scalars())


async def fill(database: DatabaseManager) -> tuple[list[int], StorageError]:
    acknowledged: list[int] = []
    for n in range(10_000):
        try:
            await write(database, n)
        except StorageError as error:
            return acknowledged, error
        acknowledged.append(n)
    raise AssertionError("the disk must be full by now")


async def test_a_full_disk_loses_nothing_and_work_goes_on_after_making_room(
    mounted: Mount,
) -> None:
    folder = mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    database = await new_notes(folder / "kumiai.db")

    acknowledged, error = await fill(database)
    kept = await numbers(database)
    ballast.unlink()
    await write(database, 20_000)

    assert "make room on the disk; nothing is lost" in str(error)
    assert len(acknowledged) >= 3
    assert kept == acknowledged
    assert await numbers(database) == [*acknowledged, 20_000]
    await database.close()


async def test_a_full_disk_leaves_the_schema_as_it_was(mounted: Mount) -> None:
    folder = mounted("-t", "tmpfs", "-o", "size=200k", "tmpfs")
    ballast = folder / "ballast"
    database = await new_notes(folder / "kumiai.db")
    ballast.write_bytes(bytes(100 << 10))

    with pytest.raises(StorageError, match="make room"):
        await database.migrate()

    assert (await database.health()).schema_revision is None
    await database.close()


async def test_a_file_system_that_is_read_only_says_so(mounted: Mount, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    database = await new_notes(source / "kumiai.db")
    await write(database, 1)
    await database.close()
    folder = mounted("--bind", "-o", "ro", str(source))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)

    with pytest.raises(StorageError, match="Read-only file system") as caught:
        await write(await new_notes(folder / "kumiai.db"), 2)
    with pytest.raises(StorageError, match="Read-only file system"):
        await DatabaseManager(f"sqlite:///{folder}/new.db").connect()

    assert "writ" in str(caught.value)
    again = await new_notes(source / "kumiai.db")
    assert await numbers(again) == [1]
    await again.close()


FILE_SIZE_LIMIT = """
import asyncio, resource, signal, sys
from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager
from sqlalchemy import text

async def main():
    database = DatabaseManager(sys.argv[1])
    await database.connect()
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE notes (n int, body blob)"))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    done = 0
    try:
        for done in range(1000):
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO notes VALUES (:n, randomblob(40000))"),
                                         {"n": done})
    except StorageError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    async with database.transaction() as connection:
        await connection.execute(text("INSERT INTO notes VALUES (-1, NULL)"))
    async with database.reading() as connection:
        print(done, (await connection.execute(text("SELECT count(*) FROM notes"))).scalar_one())
    await database.close()

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILE_SIZE_LIMIT, f"sqlite:///{tmp_path}/a.db"],
        capture_output=True,
        text=True,
        check=False,
    )

    words, counts = done.stdout.strip().rsplit("\n", 1)
    accepted, found = map(int, counts.split())
    assert "must answer, got" in words
    assert accepted > 3
    assert found == accepted + 1, done.stderr


async def test_a_damaged_file_is_refused_with_its_mend(tmp_path: Path) -> None:
    database = await new_notes(tmp_path / "kumiai.db")
    for n in range(20):
        await write(database, n)
    await database.close()
    with (tmp_path / "kumiai.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 4))

    database = DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db")
    await database.connect()
    with pytest.raises(StorageError, match="malformed") as caught:
        await numbers(database)
    findings = {each.check: each for each in await database.examine(SystemClock())}
    await database.close()

    assert "restore it from its backup" in str(caught.value)
    assert findings["integrity"].is_wrong
    assert "restore" in findings["integrity"].mend


async def test_a_folder_in_the_files_place_says_so(tmp_path: Path) -> None:
    (tmp_path / "kumiai.db").mkdir()

    with pytest.raises(StorageError, match="see that the folder exists"):
        await DatabaseManager(f"sqlite:///{tmp_path}/kumiai.db").connect()


# --- what errors mean ---


def _sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("words\nmore words")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "make room"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "mounted read-only"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "restore it from its backup"),
        (sqlite3.SQLITE_NOTADB, "give the path"),
        (sqlite3.SQLITE_IOERR_WRITE, "look at the disk"),
        (sqlite3.SQLITE_CANTOPEN, "see that the folder exists"),
    ],
)
def test_each_error_of_sqlite_has_its_mend(code: int, words: str) -> None:
    assert words in mend_of(_sqlite_error(code), "sqlite")
    assert not is_retryable(_sqlite_error(code))


class _ServerError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("words")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("28P01", "user and password"),
        ("28000", "pg_hba.conf"),
        ("3D000", "create the database"),
        ("42501", "grant the URL's user"),
        ("53100", "make room on the server's disk"),
        ("53300", "max_connections"),
        ("55P03", "pg_locks"),
        ("57014", "statement time-out"),
        ("XX001", "restore the database"),
        ("08006", "see that the server runs"),
    ],
)
def test_each_error_of_postgresql_has_its_mend(state: str, words: str) -> None:
    assert words in mend_of(_ServerError(state), "postgresql")


def test_only_what_gave_way_may_be_tried_again() -> None:
    wrapped = StorageError("outer")
    wrapped.__cause__ = _ServerError("40P01")
    wrapped.__cause__.__cause__ = wrapped  # a circle ends

    assert is_retryable(wrapped)
    assert is_retryable(_sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT))
    assert is_busy(_sqlite_error(sqlite3.SQLITE_LOCKED))
    assert not is_retryable(_ServerError("23505"))
    assert not is_retryable(None)


def test_words_are_one_line_without_a_password() -> None:
    assert words_of(_sqlite_error(1)) == "words"
    assert words_of(ValueError("bad postgresql://u:hunter2@host/db")) == "bad postgresql://host/db"
    assert words_of(TimeoutError()) == "no answer in time"
    assert words_of(OSError()) == "OSError"


async def test_a_disk_that_fills_up_is_found_before_it_is_full(
    mounted: Mount,
) -> None:
    folder = mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    database = await new_notes(folder / "kumiai.db")

    findings = {each.check: each for each in await database.examine(SystemClock())}
    await database.close()

    assert isinstance(findings["disk"], DatabaseFinding)
    assert findings["disk"].is_wrong
    assert findings["disk"].mend.startswith("make room")
