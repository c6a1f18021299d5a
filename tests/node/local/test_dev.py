"""The federation for development: its options, and what it does with processes that die."""

import io
import signal
from pathlib import Path

import pytest
from rich.console import Console

from kumiai.core.errors import ConfigError, KumiaiError
from kumiai.node.local import dev
from kumiai.node.local.dev import DevOptions, run_dev
from kumiai.node.local.federation import LocalFederation, ProcessOptions


class SteppingClock:
    """Goes on by some seconds each time it is asked."""

    def __init__(self, step_seconds: float) -> None:
        self.time, self.step_seconds = 0.0, step_seconds

    def now(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        self.time += self.step_seconds
        return self.time


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (DevOptions(clients=0), "clients must be 1 to 50, got 0"),
        (DevOptions(port=70_000), "port must be 0 to 65535, got 70000"),
        (DevOptions(http_port=-1), "http_port must be 0 to 65535, got -1"),
    ],
)
def test_an_option_that_breaks_its_rule_is_named(options: DevOptions, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run_dev(options)

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not (Path.cwd() / ".kumiai").exists()


async def test_a_process_that_ends_again_and_again_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import sys; print('no luck'); sys.exit(3)")
    federation = LocalFederation(
        tmp_path / "federation",
        client_names=["site-1"],
        apps=["study"],
        client=ProcessOptions("fails", {"PYTHONPATH": str(tmp_path)}),
    )
    await federation.prepare()
    await federation.start_client("site-1")
    told = io.StringIO()

    with pytest.raises(KumiaiError, match=r"(?s)site-1 must go on running.*code 3.*no luck"):
        await dev._keep_up(federation, Console(file=told), SteppingClock(1.0))

    await federation.stop()
    assert told.getvalue().count("starting it again") == 2


def test_the_warning_fits_a_terminal_of_eighty_columns(tmp_path: Path) -> None:
    told = Console(file=io.StringIO(), width=80)
    options = DevOptions(tmp_path, clients=1, port=0, http_port=0)

    dev._tell_ways(told, dev._new_federation(options), options)

    box = told.file.getvalue().splitlines()[-5:-1]  # type: ignore[attr-defined]
    assert (box[0][0], box[-1][0]) == ("╭", "╰")
    assert len({len(line) for line in box}) == 1
