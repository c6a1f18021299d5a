import enum
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from kumiai.node.logs import configure_logs, without_secrets
from kumiai.node.settings import LogSettings

SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    # Only its own: pytest's handlers stand there, too.
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def log_lines(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(LogSettings.model_validate({"level": level, "format": "json"}), stream=stream)
    return stream


def last_line(stream: io.StringIO) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return line


def test_a_json_line_tells_level_logger_message_and_utc_time() -> None:
    stream = log_lines()

    structlog.get_logger("kumiai.rounds").bind(run="run-a").info("round opened", round=3)

    line = last_line(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "kumiai.rounds",
        "message": "round opened",
        "round": 3,
        "run": "run-a",
    }


def test_what_is_below_the_level_is_not_logged() -> None:
    stream = log_lines("warning")

    structlog.get_logger("kumiai").info("quiet")
    logging.getLogger("library").info("quiet")
    logging.getLogger("library").warning("loud")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_libraries_that_talk_much_are_heard_from_warning_on() -> None:
    stream = log_lines("debug")

    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").warning("invalid request")

    assert last_line(stream)["message"] == "invalid request"
    assert "chatter" not in stream.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "private_key",
        "apiToken",
        "PASSWORD",
        "passphrase",
        "db-password",
        "PrivateThing",
        "submit_token",
        "clientSecret",
        "APIKey",
        "Authorization",
    ],
)
def test_a_value_named_like_a_secret_does_not_appear(name: str) -> None:
    stream = log_lines()

    structlog.get_logger("kumiai").info("told", **{name: SECRET}, nested={"deep": [{name: SECRET}]})

    assert SECRET not in stream.getvalue()
    assert last_line(stream)["nested"] == {"deep": [{}]}


@pytest.mark.parametrize("name", ["keyboard", "monkey", "tokenizer", "deprived"])
def test_a_harmless_word_that_contains_a_secret_one_is_kept(name: str) -> None:
    kept = without_secrets(None, "info", {"event": "x", name: 1})

    assert kept[name] == 1


def test_bytes_arrays_and_objects_appear_as_their_kind_and_size_only() -> None:
    @dataclass
    class Holder:
        content: bytes

    stream = log_lines()
    data = SECRET.encode()

    structlog.get_logger("kumiai").info(
        "told",
        blob=data,
        view=memoryview(data),
        numbers=np.full((2, 3), 7.25, np.float32),
        scalar=np.float32(7.25),
        holder=Holder(data),
        many=list(range(1000)),
        deep=[[[[[SECRET]]]]],
    )

    line = last_line(stream)
    assert SECRET not in stream.getvalue()
    assert "7.25" not in stream.getvalue()
    assert line["blob"] == line["view"] == "<15 bytes>"
    assert line["numbers"] == "<ndarray float32 (2, 3)>"
    assert line["holder"] == "<Holder>"
    assert line["many"] == "<list of 1000>"


def test_plain_values_stay_as_they_are() -> None:
    class Color(enum.Enum):
        RED = "red"

    shown = without_secrets(
        None,
        "info",
        {
            "event": "x",
            "none": None,
            "yes": True,
            "number": 0.5,
            "path": Path("a/b"),
            "color": Color.RED,
            "names": ("a", "b"),
            "error": ValueError("went wrong"),
            "long": "x" * 5000,
        },
    )

    assert shown["none"] is None
    assert shown["yes"] is True
    assert shown["number"] == 0.5
    assert shown["path"] == "a/b"
    assert shown["color"] == "red"
    assert shown["names"] == ["a", "b"]
    assert shown["error"] == "went wrong"
    assert len(shown["long"]) == 4003


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_exception_is_told_with_its_traceback_and_without_variables(style: str) -> None:
    stream = io.StringIO()
    configure_logs(LogSettings.model_validate({"format": style}), stream=stream)

    def fail(hidden: str) -> None:
        raise ValueError(f"length {len(hidden)}")

    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("kumiai").exception("it broke")

    assert "it broke" in stream.getvalue()
    assert "ValueError: length 15" in stream.getvalue()
    assert "in fail" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_the_console_shows_names_and_values_without_colours_in_a_file() -> None:
    stream = io.StringIO()
    configure_logs(LogSettings(), stream=stream)

    structlog.get_logger("kumiai").warning("round extended", round=4)

    assert "round extended" in stream.getvalue()
    assert "round=4" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_line_break_in_a_value_makes_no_second_line() -> None:
    stream = io.StringIO()
    configure_logs(LogSettings(), stream=stream)

    structlog.get_logger("kumiai").info(
        "told\u2028", reason="a\n2026-01-01 [info] forged\x1b[2J", numbers=[1]
    )

    assert len(stream.getvalue().splitlines()) == 1
    assert "a | 2026-01-01 [info] forged" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert "numbers=[1]" in stream.getvalue()


def test_logs_go_to_the_standard_error_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(LogSettings(format="json"))

    structlog.get_logger("kumiai").info("hello")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_whatever_is_logged_becomes_json(value: object) -> None:
    shown = without_secrets(None, "info", {"event": "x", "value": value})

    json.dumps(shown, allow_nan=False).encode()
