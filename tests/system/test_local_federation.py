"""A local federation of the true programs, under kills; and the one that stays for development."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from kumiai.node.local.federation import LocalFederation

LIMIT_SECONDS = 90
DEV = """
import sys
from pathlib import Path
from kumiai.node.local.dev import DevOptions, run_dev
sys.exit(run_dev(DevOptions(directory=Path(sys.argv[1]), clients=1, port=0, http_port=0)))
"""


async def test_everybody_comes_back_after_a_kill(tmp_path: Path) -> None:
    federation = LocalFederation(
        tmp_path / "federation",
        client_names=["site-1", "site-2"],
        apps=["kumiai.node.studies.digits"],
    )
    async with federation:
        assert await federation.attached() == {"site-1", "site-2"}

        await federation.kill_client("site-1")
        await federation.start_client("site-1")
        await federation.wait_until_attached(["site-1"])
        await federation.kill_coordinator()
        await federation.start_coordinator()
        await federation.wait_until_attached()

        assert await federation.attached() == {"site-1", "site-2"}
    assert federation.coordinator.exit_code == 0
    assert {process.exit_code for process in federation.clients.values()} == {0}


def test_the_development_federation_mends_itself_and_is_kept(tmp_path: Path) -> None:
    certificates = []
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", DEV, str(tmp_path / "dev")],
            stdout=subprocess.PIPE,
            text=True,
        ) as dev:
            read_until(dev, "Press Ctrl-C")
            for member in ("clients/site-1", "coordinator"):
                kill(tmp_path / "dev" / member)
                read_until(dev, "starting it again")
            certificates.append((tmp_path / "dev/clients/site-1/site-1.crt").read_bytes())

            dev.send_signal(signal.SIGINT)

            assert dev.wait(timeout=LIMIT_SECONDS) == 0
    assert certificates[0] == certificates[1]
    assert (tmp_path / "dev" / "digits.toml").exists()


def kill(home: Path) -> None:
    (process,) = [
        each
        for each in psutil.process_iter(["cmdline"])
        if str(home / "kumiai.toml") in (each.info["cmdline"] or ())
    ]
    process.kill()


def read_until(program: "subprocess.Popen[str]", text: str) -> list[str]:
    assert program.stdout is not None
    lines = []
    for line in program.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"the program ended before it said {text!r}: {''.join(lines)}")
