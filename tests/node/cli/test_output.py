import json
import sys

import pytest

from kumiai.node.cli.invocation import OutputFormat
from kumiai.node.cli.output import (
    Table,
    clean,
    emit,
    shown_duration,
    shown_metrics,
    shown_size,
    shown_time,
)

TABLE = Table(("name", "rounds"), [("a\x1b[31m", "3"), ("longer", "10")], note="two runs")


def test_a_table_in_a_pipe_has_whole_cells(capsys: pytest.CaptureFixture[str]) -> None:
    emit(OutputFormat.TABLE, [], TABLE)

    lines = capsys.readouterr().out.splitlines()
    assert lines == ["NAME    ROUNDS", "a\ufffd[31m  3", "longer  10", "two runs"]


def test_properties_have_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    emit(OutputFormat.TABLE, {}, Table((), [("run", "r"), ("state", "failed")]))

    assert capsys.readouterr().out == "run    r\nstate  failed\n"


@pytest.mark.parametrize("columns", [("name", "rounds"), ()])
def test_on_a_terminal_no_text_is_taken_for_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)

    emit(OutputFormat.TABLE, [], Table(columns, [("[red]x[/red]", "\x1b]0;title\x07")]))

    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "\x1b]" not in out


def test_on_a_narrow_terminal_the_id_of_a_line_stays_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")

    emit(OutputFormat.TABLE, [], Table(("run", "why"), [("run-7nrf2wb2y5huauxa", "words " * 9)]))

    assert "run-7nrf2wb2y5huauxa" in capsys.readouterr().out


def test_programs_get_json_lines_or_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    data = [{"a": "é"}, {"a": None}]

    emit(OutputFormat.JSON, data, TABLE)
    as_json = capsys.readouterr().out
    emit(OutputFormat.JSONL, data, TABLE)
    as_lines = capsys.readouterr().out
    emit(OutputFormat.JSONL, {"a": 1}, TABLE)
    as_line = capsys.readouterr().out
    emit(OutputFormat.YAML, {"a": 1}, TABLE)
    as_yaml = capsys.readouterr().out

    assert json.loads(as_json) == data
    assert as_lines == '{"a": "é"}\n{"a": null}\n'
    assert (as_line, as_yaml) == ('{"a": 1}\n', "a: 1\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (61, "1 min 1 s"),
        (3660, "1 h 1 min"),
        (3 * 86400 + 7200, "3 d 2 h"),
    ],
)
def test_a_duration_is_told_in_two_units(seconds: float | None, text: str) -> None:
    assert shown_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_a_size_is_told_in_powers_of_a_thousand(size: float, text: str) -> None:
    assert shown_size(size) == text


def test_times_and_metrics_that_are_not_there_are_a_dash() -> None:
    assert shown_time(None) == "-"
    assert shown_time(0) == "1970-01-01 00:00:00"
    assert shown_metrics(None) == "-"
    assert shown_metrics({"loss": 0.123456, "accuracy": 1}) == "accuracy 1, loss 0.1235"


def test_text_from_elsewhere_stays_on_one_line() -> None:
    assert clean("a\nb\u2028c\u202e") == "a\ufffdb\ufffdc\ufffd"
