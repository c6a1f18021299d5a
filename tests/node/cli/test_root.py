"""What holds for every command: shared options, errors, help, completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kumiai.core.errors import IntegrityError, NotFoundError
from kumiai.node.cli import exit_codes
from kumiai.node.cli.app import app
from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.root import Root, begin
from tests.node.cli.program import invoke, start


@pytest.mark.parametrize(
    "line",
    [
        ("-o", "json", "version"),
        ("version", "-o", "json"),
        ("version", "--output=json"),
        ("-o", "yaml", "version", "-o", "json"),
    ],
)
def test_a_shared_option_may_stand_anywhere(line: tuple[str, ...]) -> None:
    assert set(json.loads(invoke(*line).out)) == {"kumiai", "python"}


def test_the_version_is_an_option_too() -> None:
    outcome = invoke("--version")

    assert (outcome.code, outcome.out) == (0, invoke("version").out)
    assert outcome.out.startswith("kumiai ")


def test_the_later_setting_wins() -> None:
    outcome = invoke(
        *("--set", "log.level=debug", "--set", "log.format=json"),
        *("config", "show", "--set", "log.level=error", "-o", "json"),
    )

    assert outcome.data["log"] == {"level": "error", "format": "json"}


def test_a_config_file_may_stand_after_the_command(folder: Path) -> None:
    (folder / "a.toml").write_text("[log]\nlevel = 'debug'\n")
    (folder / "b.toml").write_text("[log]\nlevel = 'error'\n")

    outcome = invoke("--config", "a.toml", "config", "show", "--config", "b.toml", "-o", "json")

    assert outcome.data["log"]["level"] == "error"


@pytest.mark.parametrize("entry", ["log.level", "=x", ""])
def test_a_setting_without_a_value_is_a_usage_error(entry: str) -> None:
    before = invoke("--set", entry, "version")
    after = invoke("version", "--set", entry)

    assert (before.code, after.code) == (2, 2)
    assert "--set must be key=value" in before.err
    assert before.err == after.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("run", "lst"), "list"),
        (("run", "show"), "run"),
        (("run", "submit", "--wach", "x"), "--watch"),
        (("version", "-o", "xml"), "jsonl"),
        (("nothing",), "nothing"),
        (("run", "list", "--limit", "many"), "integer"),
    ],
)
def test_a_wrong_line_is_told_in_one_line_with_code_two(line: tuple[str, ...], words: str) -> None:
    outcome = invoke(*line)

    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert words in outcome.err
    assert "--help`" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("line", [(), ("run",), ("ca",)])
def test_a_group_alone_shows_its_help(line: tuple[str, ...]) -> None:
    outcome = invoke(*line)

    assert outcome.code == 2
    assert "Commands" in outcome.out + outcome.err


def broken(error: BaseException) -> typer.Typer:
    """A program whose one command raises."""
    program = typer.Typer(cls=Root, pretty_exceptions_enable=False)

    @program.callback()
    def root(ctx: typer.Context, debug: bool = False) -> None:
        ctx.obj = Invocation(debug=debug)

    @program.command()
    def fail() -> None:
        raise error

    return program


def test_an_error_of_ours_is_a_line_for_each_of_its_lines() -> None:
    result = CliRunner().invoke(broken(NotFoundError("a must exist\nb as well")), ["fail"])

    assert result.exit_code == exit_codes.ExitCode.NOT_FOUND
    assert result.stderr == "error: a must exist\nerror: b as well\n"


def test_debug_shows_the_traceback_of_an_error_of_ours() -> None:
    result = CliRunner().invoke(broken(IntegrityError("x")), ["--debug", "fail"])

    assert result.exit_code == 7
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: x\n")


def test_a_mistake_of_ours_is_one_line_as_well() -> None:
    result = CliRunner().invoke(broken(ZeroDivisionError("by zero")), ["fail"])

    assert result.exit_code == 1
    assert result.stderr == "error: ZeroDivisionError: by zero; --debug shows where\n"


def test_debug_lets_a_mistake_of_ours_through() -> None:
    result = CliRunner().invoke(broken(ZeroDivisionError()), ["--debug", "fail"])

    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupted_command_ends_with_130(error: BaseException) -> None:
    assert CliRunner().invoke(broken(error), ["fail"]).exit_code == 130


def test_a_pipe_that_closes_ends_the_program_quietly() -> None:
    process = start("config", "schema")
    assert process.stdout is not None
    process.stdout.close()

    assert process.wait(30) in {0, 1}
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_the_program_can_be_part_of_another() -> None:
    program = typer.main.get_command(app)

    assert program.main(["version"], standalone_mode=False) is None


def test_options_need_an_invocation() -> None:
    ctx = typer.main.get_command(app).make_context("kumiai", ["version"])

    with pytest.raises(TypeError, match="Invocation"):
        invocation_of(ctx)


def test_options_before_the_command_are_noted() -> None:
    ctx = typer.main.get_command(app).make_context("kumiai", ["version"])

    begin(ctx, "json", None, ["a=1", "a=2"], debug=True)

    assert invocation_of(ctx).overrides == {"a": "2"}


def test_the_shell_is_told_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kumiai.node.cli"],
        env={
            "_PYTHON_M_KUMIAI_NODE_CLI_COMPLETE": "complete_bash",
            "_KUMIAI_COMPLETE": "complete_bash",
            "COMP_WORDS": "kumiai run ",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == [
        *("submit", "list", "describe", "show", "watch", "logs", "stop", "delete", "explain")
    ]


HEAVY = {"asyncio", "cryptography", "fastapi", "grpc", "httpx", "numpy", "sqlalchemy", "ssl"}


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kumiai.node.cli", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert loaded & HEAVY == set()
    assert "Submit a job" in done.stdout


def test_help_is_there_in_a_moment() -> None:
    best = min(_seconds_of_help() for _ in range(3))

    assert best < 2.0  # a fifth of a second on a quick machine


def _seconds_of_help() -> float:
    """Return its processor time, which a busy machine does not lengthen much."""
    began = os.times()
    subprocess.run([sys.executable, "-m", "kumiai.node.cli", "--help"], check=True, stdout=-3)
    ended = os.times()
    return sum(ended[2:4]) - sum(began[2:4])
