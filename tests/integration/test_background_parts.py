"""A coordinator of which a part has ended must not look alive: it ends, and says why."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import KumiaiError
from kumiai.identity import CertificateManager, Role
from kumiai.node.assembly.coordinator import serve_coordinator
from kumiai.node.coordinator.server import CoordinatorServer, DataDirectory
from kumiai.node.settings import Settings
from kumiai.testing.databases import SQLiteTemplate
from tests.integration import study
from tests.integration.federation import Federation, job


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return those of a coordinator of its own, with an SQLite file in its folder."""
    authority = CertificateManager(tmp_path / "ca", clock=SystemClock())
    authority.create("test")
    issued = authority.issue(
        Role.COORDINATOR,
        "coordinator",
        hosts=("localhost", "127.0.0.1"),
        out_dir=tmp_path / "identity",
    )
    return Settings.model_validate(
        {
            "identity": {"certificate": issued.cert, "key": issued.key, "ca": issued.ca},
            "coordinator": {
                "listen": "127.0.0.1:0",
                "http_listen": "127.0.0.1:0",
                "data_dir": tmp_path / "data",
            },
        }
    )


def cancel(name: str) -> Callable[[CoordinatorServer], object]:
    """Return what ends the background task of this name."""

    def cancelled(_: CoordinatorServer) -> None:
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == name]
        task.cancel()

    return cancelled


def close_port(server: CoordinatorServer) -> object:
    """Stop gRPC behind the server's back."""
    assert server._server is not None
    return asyncio.ensure_future(server._server.stop(None))


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (cancel("run-supervisor"), "the leading of runs"),
        (cancel("update-inbox"), "the inbox of updates"),
        (cancel("http-server"), "the operators' HTTP server"),
        (close_port, "the clients' port"),
    ],
)
async def test_a_coordinator_ends_with_an_error_when_a_part_of_it_ends(
    settings: Settings, end: Callable[[CoordinatorServer], object], name: str
) -> None:
    with pytest.raises(KumiaiError, match=f"{name} must go on while the coordinator runs"):
        async with asyncio.timeout(30):
            await serve_coordinator(settings, on_ready=end)

    directory = DataDirectory(settings.coordinator.data_dir)
    directory.lock()
    directory.release()


async def test_a_coordinator_that_has_stopped_leaves_no_thread_behind(
    tmp_path: Path, sqlite_template: SQLiteTemplate
) -> None:
    before = set(threading.enumerate())
    federation = Federation(tmp_path, sqlite_template.copy_to(tmp_path / "kumiai.db"))
    await federation.start()
    await federation.submit(job(), study.app)
    ours = [
        thread
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("kumiai-")
    ]
    assert any(thread.name.startswith("kumiai-blobs") for thread in ours)

    await federation.stop()
    for thread in ours:
        await asyncio.to_thread(thread.join, 5)

    assert not [thread.name for thread in ours if thread.is_alive()]
