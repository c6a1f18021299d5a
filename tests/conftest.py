"""What holds for every test: its group follows from its folder; databases to work with."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

import kumiai.node.wire  # noqa: F401 - before any test imports grpc
from kumiai.storage import DatabaseManager
from kumiai.testing.databases import PostgresServer, SQLiteTemplate
from kumiai.testing.s3_server import S3Server
from tests.zygote import Zygote

settings.register_profile("kumiai", deadline=None)  # a busy machine is no failure
settings.load_profile("kumiai")

# A shell lets what it starts in the background ignore Ctrl-C, and all that comes from it would.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
GROUPS = ("unit", "integration", "system")
SERVERS = {"own_redis", "postgres", "redis_server", "s3_server"}
"""Fixtures that lend one: who asks for it is no unit test."""
FOLDERS = {
    "integration": ("integration", "node", "storage"),
    "system": ("system",),
}
"""Where the tests of a group are: to read the other folders takes half a minute each time."""
TOGETHER = {
    "tests/node/cli/test_audit_commands.py": "a federation with an audit log",
    "tests/node/cli/test_doctor_command.py": "a federation of two sites",
    "tests/node/cli/test_run_commands.py": "a federation of two sites",
    "tests/node/cli/test_site.py": "a federation of two sites",
    "tests/system/test_platform.py": "a federation on servers of its own",
}
"""What all tests of a file share, so that one worker runs them: it is slow to start."""
FIRST_TRY_LINES_MAX = 80


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read only the folders of the group that `dev.py` runs, if it runs one alone."""
    group = config.option.markexpr.removesuffix(" and not chaos")
    folder, *_ = (*collection_path.relative_to(TESTS).parts, "")
    is_elsewhere = group in FOLDERS and folder and folder not in FOLDERS[group]
    return (is_elsewhere and collection_path.is_dir()) or None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give tests that share something to one worker, and those that share most first.

    The marks of xdist 3.8 for this do nothing under pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER.get(nodeid.partition("::")[0], nodeid)

    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its group, measure no slow one, leave chaos out unless it is asked for.

    Raises:
        pytest.UsageError: a test lies where nobody looks for one of its group.
    """
    if "chaos" not in config.option.markexpr:
        chaotic = [item for item in items if item.get_closest_marker("chaos")]
        items[:] = [item for item in items if item not in chaotic]
        config.hook.pytest_deselected(items=chaotic)
    for item in items:
        if item.get_closest_marker("slow"):
            # It repeats what quick ones cover, and to be watched would double its time.
            item.add_marker("no_cover")
        folder = item.path.relative_to(TESTS).parts[0]
        if not any(item.get_closest_marker(group) for group in GROUPS):
            alone = "integration" if needs_server(item) else "unit"
            item.add_marker(folder if folder in GROUPS else alone)
        for group, folders in FOLDERS.items():
            if item.get_closest_marker(group) and folder not in folders:
                raise pytest.UsageError(f"{item.nodeid}: FOLDERS of {group} tests must name it")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell why a test got a second try: a fault that comes seldom is one, too."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.write_sep("_", f"first try of {report.nodeid}")
        told = report.longreprtext.splitlines()
        terminalreporter.write_line("\n".join(told[-FIRST_TRY_LINES_MAX:]))


@pytest.fixture(autouse=True)
def _logs_as_at_the_start() -> None:
    """Forget how an earlier test has set up the logs: a simulation lets only errors through."""
    structlog.reset_defaults()


def needs_server(item: pytest.Item) -> bool:
    """Return whether the test asks for a server, or for one of the databases that is one."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    databases = {each for each in parameters.values() if isinstance(each, str)}
    return "postgresql" in databases or not SERVERS.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Lend a PostgreSQL server; each worker of a parallel run has its own."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Lend an S3 server; each worker of a parallel run has its own."""
    server = S3Server()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Lend the parent of processes that are killed; to fork one costs no imports."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> SQLiteTemplate:
    """Lend a migrated SQLite file, to be copied."""
    return SQLiteTemplate(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Lend a fresh migrated database of each kind."""
    if request.param == "sqlite":
        template: SQLiteTemplate = request.getfixturevalue("sqlite_template")
        yield template.copy_to(tmp_path / "kumiai.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.give_back(url)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[DatabaseManager]:
    """Lend a connected database of each kind."""
    # Patient: a process that waits long for its turn is no subject of most tests.
    manager = DatabaseManager(database_url, idle_in_transaction_timeout_seconds=30.0)
    await manager.connect()
    yield manager
    await manager.close()
