"""A job from its file and the command line, each error with its line in the file."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kumiai.core.errors import ConfigError, NotFoundError
from kumiai.node.job import JobSpec, parse_job
from kumiai.node.toml_lines import key_lines

__all__ = ["job_from", "load_job", "split_overrides", "value_of"]

_FILE_SIZE_BYTES_MAX = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_TOML_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


def split_overrides(overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is for the job and what is for the settings; their tables differ in name."""
    job = {
        key: text
        for key, text in overrides.items()
        if key.partition(".")[0] in JobSpec.model_fields
    }
    return job, {key: text for key, text in overrides.items() if key not in job}


def load_job(path: Path, overrides: Mapping[str, str]) -> JobSpec:
    """Return the job in a file, with single values set anew.

    Args:
        path: TOML.
        overrides: text by dotted key, such as ``{"run.rounds": "5"}``; read as a TOML value, or
            taken as text if it is none.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it can not be read, or is no job; one line per problem, with its place.
    """
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_LINE.search(str(error))
        at = f"{path}:{place[1]}" if place else str(path)
        raise ConfigError(f"{at}: must be valid TOML: {error}") from None
    try:
        return job_from(data, overrides)
    except ConfigError as error:
        lines = key_lines(text)
        problems = [_placed(line, path, lines, overrides) for line in str(error).split("\n")]
        raise ConfigError("\n".join(problems)) from None


def job_from(data: dict[str, Any], overrides: Mapping[str, str]) -> JobSpec:
    """Return the job that ``data``, which is changed, describes with single values set anew.

    Raises:
        ConfigError: it is no job; one line per problem.
    """
    for key, value in overrides.items():
        _set(data, key.split("."), value_of(value))
    return parse_job(data)


def value_of(text: str) -> Any:
    """Return a TOML value, or the text itself if it is none."""
    try:
        data = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return data["value"] if data.keys() == {"value"} else text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_SIZE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFoundError(f"job file must exist, got none at {path}") from None
    except OSError as error:
        raise ConfigError(f"job file must be readable, got {error.strerror} for {path}") from error
    if len(content) > _FILE_SIZE_BYTES_MAX:
        raise ConfigError(f"{path} must be at most {_FILE_SIZE_BYTES_MAX} bytes, got more")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: must be UTF-8, got another byte") from None


def _set(data: dict[str, Any], key: list[str], value: Any) -> None:
    table = data
    for part in key[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(key)} must be a key of the job, got {part}, a value")
        table = inner
    table[key[-1]] = value


def _placed(
    problem: str,
    path: Path,
    lines: Mapping[tuple[str, ...], int],
    overrides: Mapping[str, str],
) -> str:
    """Return the problem behind the place where its key is given."""
    match = _KEY.match(problem)
    key = tuple(match.group().strip(".").split(".")) if match else ()
    if ".".join(key) in overrides:
        return f"--set: {problem}"
    for length in range(len(key), 0, -1):
        if key[:length] in lines:
            return f"{path}:{lines[key[:length]]}: {problem}"
    if key and any(each.startswith(f"{key[0]}.") for each in overrides):
        return f"--set: {problem}"
    return f"{path}: {problem}"
