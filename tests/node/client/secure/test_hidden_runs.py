"""A site remembers in which runs it has hidden an update."""

from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.client.secure.hidden_runs import HiddenRuns


def test_a_run_is_remembered_after_a_restart(tmp_path: Path) -> None:
    HiddenRuns(tmp_path / "runs").add("run-a")
    HiddenRuns(tmp_path / "runs").add("run-a")

    found = HiddenRuns(tmp_path / "runs")

    assert found.has("run-a")
    assert not found.has("run-b")


def test_what_is_no_name_of_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run must be"):
        HiddenRuns(tmp_path / "runs").has("../runs/run-a")
