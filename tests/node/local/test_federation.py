"""A local federation without its programs: what it starts, and what it says when they fail.

The programs are stand-ins of a few lines; the true ones run in tests/system.
"""

import socket
import tomllib
from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError, DeadlineError, KumiaiError, StorageError
from kumiai.identity import Role
from kumiai.node.local.federation import LocalFederation, ProcessOptions
from kumiai.node.local.folder import Member
from kumiai.node.settings import Settings, split_address

PROGRAMS = {
    "never_ready": "import time\nwhile True: time.sleep(0.1)",
    "fails": "import sys; print('no luck', *sys.argv[1:3]); sys.exit(3)",
    # The first start leaves somebody on the port, as if it had been taken a moment before.
    "port_taken": """
import os, socket, sys, tomllib
from pathlib import Path
config = Path(sys.argv[4])
port = int(tomllib.loads(config.read_text())["coordinator"]["listen"].rpartition(":")[2])
used = config.with_name("used-ports")
first = not used.exists()
with used.open("a") as file:
    file.write(f"{port}\\n")
if first:
    taken = socket.create_server(("127.0.0.1", port))
    if os.fork() == 0:
        taken.accept()
sys.exit(4)
""",
}


class StandInApi:
    """A coordinator that holds a session of site-1 and one of a client that is not ours."""

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id

    async def clients(self) -> list[dict[str, object]]:
        return [
            {"client_id": "other", "attached": False, "instance_id": "instance-0"},
            {"client_id": "site-1", "attached": True, "instance_id": self.instance_id},
        ]

    async def aclose(self) -> None:
        pass


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def new_federation(
    programs: Path,
    *,
    coordinator: str = "never_ready",
    client: str = "never_ready",
    client_names: tuple[str, ...] = ("site-1",),
    ports: tuple[int, int] = (0, 0),
    start_seconds: float = 30.0,
) -> LocalFederation:
    environment = {"PYTHONPATH": str(programs)}
    return LocalFederation(
        programs / "federation",
        client_names=client_names,
        apps=["study"],
        client_data={"site-1": {"size": 2}},
        database_url="sqlite:///x.db",
        ports=ports,
        coordinator=ProcessOptions(
            coordinator, environment, {"coordinator": {"lease_seconds": 2.0}}
        ),
        client=ProcessOptions(client, environment),
        start_seconds=start_seconds,
    )


def settings_of(federation: LocalFederation, role: Role, name: str) -> Settings:
    path = federation.folder.config(Member(role, name))
    return Settings.model_validate(tomllib.loads(path.read_text()))


async def test_everybody_gets_settings_that_fit_together(programs: Path) -> None:
    federation = new_federation(programs)

    await federation.prepare()
    await federation.stop()

    coordinator = settings_of(federation, Role.COORDINATOR, "coordinator")
    client = settings_of(federation, Role.CLIENT, "site-1")
    operator = Settings.model_validate(tomllib.loads(federation.operator_config.read_text()))
    assert coordinator.coordinator.listen == client.client.coordinator == federation.address
    assert (
        operator.operator.url == federation.url == f"https://{coordinator.coordinator.http_listen}"
    )
    assert coordinator.coordinator.lease_seconds == 2.0
    assert coordinator.storage.database is not None
    assert client.client.apps == ("study",)
    assert client.client.data == {"size": 2}


async def test_ports_are_out_of_the_reach_of_outgoing_connections(programs: Path) -> None:
    federation = new_federation(programs)

    await federation.prepare()
    await federation.stop()

    assert 20_000 <= federation.port < 32_000
    assert 20_000 <= federation.http_port < 32_000
    assert federation.port != federation.http_port


async def test_a_start_may_differ_from_the_usual(programs: Path) -> None:
    federation = new_federation(programs)
    await federation.prepare()
    options = ProcessOptions("fails", {"PYTHONPATH": str(programs)}, {"log": {"level": "debug"}})

    process = await federation.start_client("site-1", options)

    assert await process.wait() == 3
    assert "no luck client start" in process.last_lines()
    assert settings_of(federation, Role.CLIENT, "site-1").log.level == "debug"
    await federation.stop()


async def test_a_process_that_ends_while_it_is_waited_for_is_told_at_once(programs: Path) -> None:
    federation = new_federation(programs, coordinator="fails", ports=(0, 0))

    with pytest.raises(KumiaiError, match=r"(?s)coordinator must go on.*code 3.*no luck"):
        await federation.start()

    assert not federation.clients["site-1"].is_running


async def test_a_process_that_is_never_ready_is_told_in_time(programs: Path) -> None:
    federation = new_federation(programs, start_seconds=0.2)

    with pytest.raises(DeadlineError, match=r"coordinator must be ready within 0\.2 s"):
        async with federation:
            pass

    assert not federation.coordinator.is_running


async def test_an_end_that_nobody_asked_for_is_reported(programs: Path) -> None:
    federation = new_federation(programs, client="fails", client_names=("site-1", "site-2"))
    await federation.prepare()
    await federation.start_coordinator(wait=False)
    await federation.start_client("site-2")

    ended = await federation.wait_for_unwanted_end()

    assert ended is federation.clients["site-2"]
    await federation.stop()


async def test_an_end_that_was_asked_for_is_not_reported(programs: Path) -> None:
    federation = new_federation(programs)
    await federation.prepare()
    await federation.start_coordinator(wait=False)
    await federation.start_client("site-1")

    codes = (await federation.kill_coordinator(), await federation.kill_client("site-1"))

    await federation.stop()
    assert codes == (-9, -9)
    assert federation._ended.empty()


async def test_a_client_can_be_started_while_the_coordinator_is_down(programs: Path) -> None:
    federation = new_federation(programs)
    await federation.prepare()
    first = await federation.start_client("site-1")
    await first.kill()

    second = await federation.start_client("site-1")

    assert second.is_running
    await federation.stop()


async def test_the_session_of_a_former_process_does_not_count(programs: Path) -> None:
    sessions = StandInApi("instance-1")
    federation = new_federation(programs)
    await federation.prepare()
    await federation.api.aclose()
    federation._api = sessions  # type: ignore[assignment]
    await (await federation.start_client("site-1")).kill()
    before = await federation.attached()

    await federation.start_client("site-1")

    stale = await federation.attached()
    sessions.instance_id = "instance-2"
    assert (before, stale, await federation.attached()) == ({"site-1"}, set(), {"site-1"})
    await federation.stop()


async def test_a_port_that_was_taken_meanwhile_is_replaced_once(programs: Path) -> None:
    federation = new_federation(programs, coordinator="port_taken")

    with pytest.raises(KumiaiError, match="exit code 4"):
        await federation.start()

    home = federation.folder.home(Member(Role.COORDINATOR, "coordinator"))
    first, second = map(int, (home / "used-ports").read_text().split())
    socket.create_connection(("127.0.0.1", first)).close()
    assert first != second == federation.port


async def test_a_port_that_was_asked_for_and_is_taken_is_refused(programs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        federation = new_federation(programs, ports=(port, 0))

        with pytest.raises(ConfigError, match=f"port must be free, got {port}"):
            await federation.start()

    assert split_address(federation.address) == ("127.0.0.1", port)


async def test_a_log_that_can_not_be_written_stops_the_start(programs: Path) -> None:
    federation = new_federation(programs)
    await federation.prepare()
    (federation.folder.path / "logs").write_text("")

    with pytest.raises(StorageError, match="site-1 can not be started"):
        await federation.start_client("site-1")

    await federation.stop()


def test_what_is_not_there_yet_can_not_be_asked(programs: Path) -> None:
    federation = new_federation(programs)

    with pytest.raises(RuntimeError, match="prepared"):
        _ = federation.api
    with pytest.raises(RuntimeError, match="started first"):
        _ = federation.coordinator


def test_a_bad_name_is_refused_before_anything_is_written(programs: Path) -> None:
    with pytest.raises(ConfigError, match="client must be"):
        new_federation(programs, client_names=("../x",))

    assert not (programs / "federation").exists()
