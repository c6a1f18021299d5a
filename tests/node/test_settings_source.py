from pathlib import Path

import pytest

from kumiai.core.errors import ConfigError
from kumiai.node.settings import Settings
from kumiai.node.settings_source import load_settings, setting_fields, shown_value


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    (folder / "kumiai.toml").write_text(text)
    return Path("kumiai.toml")


def problems_of(
    path: Path | None = None, environ: dict[str, str] | None = None, **overrides: str
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ=environ or {})
    return str(caught.value).split("\n")


# ------------------------------------------------------------------------------ order and places


def test_without_anything_all_is_default(folder: Path) -> None:
    loaded = load_settings(None, environ={})

    assert loaded.settings == Settings().resolved(folder)
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.path is None


def test_the_command_line_wins_over_the_environment_over_the_file(folder: Path) -> None:
    written(
        folder,
        "[coordinator]\nlisten = 'file:1'\nhttp_listen = 'file:2'\nlease_seconds = 7\n",
    )

    loaded = load_settings(
        None,
        environ={
            "KUMIAI_COORDINATOR__LISTEN": "env:1",
            "KUMIAI_COORDINATOR__HTTP_LISTEN": "env:2",
            "HOME": "/",
        },
        overrides={"coordinator.listen": "set:1"},
    )

    coordinator = loaded.settings.coordinator
    assert (coordinator.listen, coordinator.http_listen) == ("set:1", "env:2")
    assert coordinator.lease_seconds == 7
    assert loaded.origins["coordinator.listen"] == "--set"
    assert loaded.origins["coordinator.http_listen"] == "KUMIAI_COORDINATOR__HTTP_LISTEN"
    assert loaded.origins["coordinator.lease_seconds"] == "kumiai.toml:4"
    assert loaded.origins["coordinator.heartbeat_seconds"] == "default"


def test_a_variable_may_name_the_file(folder: Path) -> None:
    (folder / "other.toml").write_text("[log]\nlevel = 'debug'\n")
    written(folder, "[log]\nlevel = 'error'\n")

    loaded = load_settings(None, environ={"KUMIAI_CONFIG": "other.toml"})
    given = load_settings(Path("kumiai.toml"), environ={"KUMIAI_CONFIG": "other.toml"})

    assert loaded.settings.log.level == "debug"
    assert given.settings.log.level == "error"


def test_paths_of_the_file_start_at_its_folder(folder: Path) -> None:
    place = folder / "etc"
    place.mkdir()
    (place / "kumiai.toml").write_text(
        "[identity]\ncertificate = 'a.crt'\nkey = '/abs/a.key'\ncrl = 'ca.crl'\n"
        "[coordinator]\ndata_dir = 'data'\napps = ['study.py:app', 'package.module']\n"
        "[client]\napps = ['sub/study.py']\n"
        "[storage]\ndatabase = 'sqlite:///kumiai.db'\n"
    )

    settings = load_settings(Path("etc/kumiai.toml"), environ={}).settings

    assert settings.identity.certificate == place / "a.crt"
    assert settings.identity.key == Path("/abs/a.key")
    assert settings.identity.crl == place / "ca.crl"
    assert settings.coordinator.data_dir == place / "data"
    assert settings.coordinator.apps == (f"{place}/study.py:app", "package.module")
    assert settings.client.apps == (f"{place}/sub/study.py",)
    assert settings.client.state_dir == place / "client-state"
    assert settings.storage.database is not None
    assert settings.storage.database.get_secret_value() == f"sqlite:///{place}/kumiai.db"


def test_paths_of_the_command_line_and_the_environment_start_at_the_current_folder(
    folder: Path,
) -> None:
    (folder / "etc").mkdir()
    (folder / "etc/kumiai.toml").touch()

    settings = load_settings(
        Path("etc/kumiai.toml"),
        environ={
            "KUMIAI_CLIENT__STATE_DIR": "state",
            "KUMIAI_STORAGE__DATABASE": "sqlite:///here.db",
        },
        overrides={"client.apps": "study.py, package.module", "identity.ca": "~/ca.crt"},
    ).settings

    assert settings.client.state_dir == folder / "state"
    assert settings.client.apps == (f"{folder}/study.py", "package.module")
    assert settings.identity.ca == Path("~/ca.crt").expanduser()
    assert settings.storage.database is not None
    assert settings.storage.database.get_secret_value() == f"sqlite:///{folder}/here.db"


@pytest.mark.parametrize("url", ["sqlite:////abs/a.db", "postgresql://u@h/d", "sqlite://"])
def test_other_database_urls_stay_as_they_are(url: str) -> None:
    loaded = load_settings(None, environ={"KUMIAI_STORAGE__DATABASE": url})

    assert loaded.settings.storage.database is not None
    assert loaded.settings.storage.database.get_secret_value() == url


# ----------------------------------------------------------------------------- texts into values


@pytest.mark.parametrize(
    ("text", "apps"),
    [("a.b", ("a.b",)), ("a,b", ("a", "b")), ('["a", "b"]', ("a", "b")), ("", ())],
)
def test_a_list_may_be_written_with_commas_or_as_toml(text: str, apps: tuple[str, ...]) -> None:
    loaded = load_settings(None, environ={"KUMIAI_CLIENT__APPS": text})

    assert loaded.settings.client.apps == apps


def test_an_empty_text_takes_an_optional_value_away(folder: Path) -> None:
    written(folder, "[identity]\ncrl = 'ca.crl'\n")

    loaded = load_settings(None, environ={"KUMIAI_IDENTITY__CRL": ""})

    assert loaded.settings.identity.crl is None


def test_an_entry_of_a_table_is_set_alone(folder: Path) -> None:
    written(folder, "[client.data]\npartition = 1\nroot = '/data'\n")

    loaded = load_settings(
        None,
        environ={"KUMIAI_CLIENT__DATA__PARTITION": "3"},
        overrides={"client.data.label": "a b", "client.data.when": "2020-01-01"},
    )

    assert loaded.settings.client.data == {
        "partition": 3,
        "root": "/data",
        "label": "a b",
        "when": "2020-01-01",
    }
    assert loaded.origins["client.data.partition"] == "KUMIAI_CLIENT__DATA__PARTITION"
    assert loaded.origins["client.data.root"] == "kumiai.toml:3"
    assert loaded.origins["client.data.label"] == "--set"
    assert "client.data" not in loaded.origins


def test_a_whole_table_replaces_all_its_entries(folder: Path) -> None:
    written(folder, "[client.data]\npartition = 1\nroot = '/data'\n[client]\napps = []\n")

    loaded = load_settings(None, environ={}, overrides={"client.data": "{x = true}"})
    emptied = load_settings(None, environ={}, overrides={"client.data": ""})

    assert loaded.settings.client.data == {"x": True}
    assert emptied.settings.client.data == {}


def test_other_programs_variables_are_left_alone() -> None:
    environ = {
        "KUMIAI_CA_PASSPHRASE": "secret",
        "KUMIAI_PKCS11_MODULE": "/opt/vendor/pkcs11.so",
        "KUMIAI_PKCS11_PIN": "secret",
        "KUMIAI_PKCS11_PIN_FILE": "pin",
        "KUMIAI_TEST_POSTGRES": "x",
        "KUMIAI_SERVICE_HOST": "10.0.0.1",
        "KUMIAI_COORDINATOR_SERVICE_PORT": "8421",
        "KUMIAI_COORDINATOR_SERVICE_PORT_GRPC": "8421",
        "KUMIAI_COORDINATOR_PORT": "tcp://10.0.0.1:8421",
        "KUMIAI_PORT_8421_TCP_ADDR": "10.0.0.1",
        "kumiai_x__y": "1",
    }

    assert load_settings(None, environ=environ).origins.keys() == {
        f"{table}.{key}" for table, key, _ in setting_fields()
    }


# ----------------------------------------------------------------------------------------- errors


def test_a_wrong_address_is_told_with_its_rule(folder: Path) -> None:
    path = written(folder, "# first\n[coordinator]\n\nlisten = 'nowhere'\n")

    assert problems_of(path) == [
        (
            "kumiai.toml:4: coordinator.listen must be host:port with a port of 0 to 65535, "
            "got 'nowhere'"
        )
    ]


def test_all_problems_are_told_at_once(folder: Path) -> None:
    path = written(folder, "[coordinator]\nlease_seconds = 0\n[log]\nlevel = 'loud'\n")

    lines = problems_of(path, {"KUMIAI_STORAGE__POOL_SIZE": "many"})

    assert set(lines) == {
        "kumiai.toml:2: coordinator.lease_seconds must be greater than or equal to 1, got 0",
        "kumiai.toml:4: log.level must be 'debug', 'info', 'warning' or 'error', got 'loud'",
        (
            "KUMIAI_STORAGE__POOL_SIZE: storage.pool_size must be a valid integer, "
            "unable to parse string as an integer, got 'many'"
        ),
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[coordinator]\nhttp_listn = 'a:1'\n",
            (
                "kumiai.toml:2: coordinator.http_listn must be a setting; "
                "did you mean coordinator.http_listen?"
            ),
        ),
        (
            "[client]\nlisten = 'a:1'\n",
            "kumiai.toml:2: client.listen must be a setting; did you mean coordinator.listen?",
        ),
        (
            "url = 'https://x'\n",
            "kumiai.toml:1: url must be a setting; did you mean operator.url?",
        ),
        ("log = 5\n", "kumiai.toml:1: log must be a table, [log], got 5"),
        (
            "[zzz]\nqqq = 1\n",
            "kumiai.toml:2: zzz.qqq must be a setting; `kumiai config show` lists them",
        ),
        (
            "[client.data]\nx = [1]\n",
            "kumiai.toml:2: client.data.x must be true, false, a finite number or a text, got [1]",
        ),
        (
            "[client.data]\nx = nan\n",
            "kumiai.toml:2: client.data.x must be true, false, a finite number or a text, got nan",
        ),
        (
            "[operator]\nurl = 'http://x'\n",
            "kumiai.toml:2: operator.url must begin with https://, got 'http://x'",
        ),
        (
            "[client]\ndata = 3\n",
            "kumiai.toml:2: client.data must be a valid dictionary, got 3",
        ),
        (
            "[client]\napps = [1]\n",
            "kumiai.toml:2: client.apps must be a valid string, got 1",
        ),
    ],
)
def test_a_mistake_in_the_file_has_its_line(folder: Path, text: str, problem: str) -> None:
    path = written(folder, text)

    assert problems_of(path) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = \n", "kumiai.toml:1: must be valid TOML: invalid value in column 5"),
        ("[a]\nb = 1\nb = 2\n", "kumiai.toml:3: must be valid TOML: cannot overwrite a value"),
        ("a = [", "kumiai.toml: must be valid TOML: "),
    ],
)
def test_malformed_toml_is_told_with_its_line(folder: Path, text: str, problem: str) -> None:
    path = written(folder, text)

    (line,) = problems_of(path)

    assert line.startswith(problem)


def test_a_file_that_is_not_there_is_told_with_the_mend() -> None:
    assert problems_of(Path("none.toml")) == [
        "config file must exist, got none at none.toml; write one with `kumiai config init`"
    ]


def test_a_folder_is_no_file(folder: Path) -> None:
    assert "must be readable" in problems_of(folder)[0]


def test_a_file_that_is_no_text_is_told_with_the_line(folder: Path) -> None:
    (folder / "kumiai.toml").write_bytes(b"# ok\n\n\xff\n")

    assert problems_of(Path("kumiai.toml")) == ["kumiai.toml:3: must be UTF-8, got another byte"]


def test_a_file_of_absurd_size_is_refused(folder: Path) -> None:
    path = written(folder, "#" * (1 << 20) + "\n")

    assert problems_of(path) == ["kumiai.toml must be at most 1048576 bytes, got more"]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("KUMIAI_COORDINATOR__LISTN", "KUMIAI_COORDINATOR__LISTEN"),
        ("KUMIAI_COORDINATOR_LISTEN", "KUMIAI_COORDINATOR__LISTEN"),
        ("KUMIAI_CONFIGURATION", "KUMIAI_CONFIG"),
        ("KUMIAI_CLIENT__DATA__A__B", "KUMIAI_CLIENT__DATA"),
    ],
)
def test_a_wrong_variable_is_an_error(variable: str, hint: str) -> None:
    (line,) = problems_of(environ={variable: "x"})

    assert line.startswith(f"{variable}: must be KUMIAI_<TABLE>__<KEY> of a setting")
    assert line.endswith(f"did you mean {hint}?")


@pytest.mark.parametrize("key", ["coordinator.listn", "listen", "coordinator.listen.x"])
def test_a_wrong_key_on_the_command_line_is_an_error(key: str) -> None:
    with pytest.raises(ConfigError, match=r"did you mean coordinator\.listen"):
        load_settings(None, environ={}, overrides={key: "x"})


@pytest.mark.parametrize("text", ["[1", "{a = 1}\nb = 2", "[a]"])
def test_a_list_that_is_no_list_is_an_error(text: str) -> None:
    (line,) = problems_of(environ={"KUMIAI_CLIENT__DATA": text})

    assert line.startswith("KUMIAI_CLIENT__DATA: client.data must be")


def test_a_secret_appears_in_no_error_and_no_display(folder: Path) -> None:
    path = written(folder, "[storage]\ndatabase = ['hunter2']\n")

    (line,) = problems_of(path)
    loaded = load_settings(
        None, environ={"KUMIAI_CONFIG": "/dev/null", "KUMIAI_STORAGE__DATABASE": "hunter2"}
    )

    assert line == "kumiai.toml:2: storage.database must be a valid string"
    assert shown_value(loaded.settings.storage.database) == "**********"
    assert "hunter2" not in repr(loaded)


@pytest.mark.parametrize("text", ["hunter2\\n", "kumiai hunter2", "hünter2", ""])
def test_a_token_that_fits_in_no_header_is_refused_and_not_repeated(
    folder: Path, text: str
) -> None:
    (line,) = problems_of(written(folder, f'[operator]\ntoken = "{text}"\n'))

    assert line.startswith("kumiai.toml:2: operator.token must be the one word")
    assert "nter2" not in line


def test_values_are_shown_as_plain_json() -> None:
    settings = load_settings(None, environ={}, overrides={"client.data.a": "1"}).settings

    assert shown_value(settings.client.data) == {"a": 1}
    assert shown_value(settings.client.apps) == []
    assert shown_value(settings.client.state_dir).endswith("/client-state")
    assert shown_value(settings.log.level) == "info"
