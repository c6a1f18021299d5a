import json
import tomllib
from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.cli.config import config_text
from kumiai.node.settings import Settings
from tests.node.cli.program import invoke

ROLES = ("coordinator", "client", "operator")


@pytest.mark.parametrize("role", ROLES)
def test_a_written_file_is_valid_and_changes_nothing(role: str) -> None:
    invoke("config", "init", role)

    shown = invoke("config", "show", "-o", "json").data
    Path("kumiai.toml").unlink()
    assert shown == invoke("config", "show", "-o", "json").data


@pytest.mark.parametrize("role", ROLES)
def test_every_line_may_be_uncommented(role: str) -> None:
    lines = [
        line.removeprefix("# ")
        for line in config_text(role).splitlines()
        if not line.startswith("#") or (" = " in line and line.split()[2] == "=")
    ]

    written = tomllib.loads("\n".join(lines))

    Settings.model_validate(written)
    assert any(written[table] for table in written)


def test_the_certificates_neighbours_are_named_too() -> None:
    invoke("ca", "init", "hospitals")
    invoke("ca", "issue", "client", "site-1", "--out", "id")

    outcome = invoke("config", "init", "client", "--certificate", "id/site-1.crt")
    identity = invoke("config", "show", "-o", "json").data["identity"]

    assert outcome.out.startswith("wrote kumiai.toml")
    assert all(Path(identity[each]).exists() for each in ("certificate", "key", "ca"))


def test_a_file_is_replaced_only_when_told() -> None:
    Path("kumiai.toml").write_text("# mine\n")

    refused = invoke("config", "init", "client")
    dry = invoke("config", "init", "client", "--dry-run")
    kept = Path("kumiai.toml").read_text()
    forced = invoke("config", "init", "client", "--force", "-o", "json")

    assert (refused.code, kept) == (1, "# mine\n")
    assert dry.out == config_text("client")
    assert forced.data == {"path": "kumiai.toml", "role": "client"}


def test_a_file_that_can_not_be_written_is_told() -> None:
    outcome = invoke("config", "init", "client", "--path", "none/kumiai.toml")

    assert outcome.code == 1
    assert "cannot write none/kumiai.toml" in outcome.err


def test_there_are_three_roles() -> None:
    with pytest.raises(ConfigError, match="coordinator, client, operator"):
        config_text("boss")


def test_check_says_that_all_is_valid() -> None:
    without = invoke("config", "check")
    Path("kumiai.toml").write_text("[log]\nlevel = 'debug'\n")
    with_file = invoke("config", "check", "-o", "json")

    assert without.out.startswith("no config file: all is valid; 0 settings")
    assert with_file.data == {"path": "kumiai.toml", "given": 1}


def test_check_tells_every_problem_with_its_place() -> None:
    Path("kumiai.toml").write_text("[log]\nlevel = 'loud'\nfromat = 'json'\n")

    outcome = invoke("config", "check", "--set", "client.coordinator=nowhere")

    assert outcome.code == 2
    assert outcome.err == (
        "error: kumiai.toml:3: log.fromat must be a setting; did you mean log.format?\n"
    )


def test_show_tells_values_and_origins() -> None:
    Path("kumiai.toml").write_text(
        "[storage]\ndatabase = 'postgresql://u:hunter2@h/d'\n[client.data]\na = 1\n"
    )

    table = invoke("config", "show", "--origin")
    told = invoke("config", "show", "--origin", "-o", "json")
    plain = invoke("config", "show")
    tree = invoke("config", "show", "-o", "json").data

    origins = {each["key"]: each["origin"] for each in told.data}
    assert origins["storage.database"] == "kumiai.toml:2"
    assert origins["client.data.a"] == "kumiai.toml:4"
    assert "hunter2" not in table.out + told.out + plain.out
    assert "kumiai.toml:2" in table.out
    assert "kumiai.toml:2" not in plain.out
    assert tree["client"]["data"] == {"a": 1}
    assert tree["storage"]["database"] == "**********"


def test_the_schema_is_json_for_editors() -> None:
    settings = json.loads(invoke("config", "schema").out)
    job = invoke("config", "schema", "--job", "-o", "json").data
    as_yaml = invoke("config", "schema", "-o", "yaml")

    assert set(settings["properties"]) == set(Settings.model_fields)
    assert "Where clients connect" in json.dumps(settings)
    assert "run" in job["properties"]
    assert as_yaml.out.startswith('"$defs":')
