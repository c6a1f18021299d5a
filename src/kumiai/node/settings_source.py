"""Where the values of `Settings` come from, and where each one came from.

What is set by ``--set`` wins over the environment (``KUMIAI_<TABLE>__<KEY>``), which wins over
the file (``kumiai.toml``), which wins over the default. All problems are told at once, one line
each, with the place: ``kumiai.toml:12: coordinator.listen must be ...``.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from kumiai.core.errors import ConfigError
from kumiai.node.settings import Settings, resolved_app, resolved_database
from kumiai.node.toml_lines import key_lines

__all__ = ["CONFIG_FILE", "LoadedSettings", "load_settings", "setting_fields", "shown_value"]

CONFIG_FILE: Final = Path("kumiai.toml")

Key = tuple[str, ...]

_FILE_SIZE_BYTES_MAX = 1 << 20
_PREFIX = "KUMIAI_"
_CONFIG_VARIABLE = "KUMIAI_CONFIG"
_SHORT_NAMES: Final = {"KUMIAI_TOKEN": ("operator", "token")}
# Read by others than the settings.
_OTHER_VARIABLES = frozenset(
    {
        _CONFIG_VARIABLE,
        "KUMIAI_CA_PASSPHRASE",
        "KUMIAI_PKCS11_MODULE",
        "KUMIAI_PKCS11_PIN",
        "KUMIAI_PKCS11_PIN_FILE",
    }
)
_OTHER_PREFIXES = ("KUMIAI_TEST_",)
# Kubernetes tells every pod of a namespace about its services in such variables; a service that
# is called kumiai must not keep our programs from starting.
_SERVICE_VARIABLE = re.compile(
    r"KUMIAI(_\w+?)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
_TOML_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, and where each value came from.

    Attributes:
        settings: valid, with absolute paths.
        origins: by dotted key: ``kumiai.toml:12``, the name of a variable, ``--set`` or
            ``default``.
        path: the file that was read; ``None`` if there was none.
    """

    settings: Settings
    origins: Mapping[str, str]
    path: Path | None


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One given value."""

    value: Any
    origin: str


def load_settings(
    path: Path | None,
    *,
    overrides: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str],
) -> LoadedSettings:
    """Gather the settings from all their places.

    Args:
        path: the file; ``None``: the one that ``KUMIAI_CONFIG`` names, else ``kumiai.toml`` in
            the current folder if there is one.
        overrides: text by dotted key, such as ``{"coordinator.listen": "0.0.0.0:8421"}``.
        environ: the environment.

    Returns:
        The settings; relative paths are taken from the file's folder when the file says them,
        and from the current folder when the command line or the environment does.

    Raises:
        ConfigError: the file can not be read, or a key or value is wrong; one line per problem.
    """
    found = _find_file(path, environ)
    leaves: dict[Key, _Leaf] = {}
    problems: list[str] = []
    if found is not None:
        _add(leaves, _file_leaves(found))
    _add(leaves, _text_leaves(_environment_entries(environ, problems), problems))
    _add(leaves, _text_leaves(_override_entries(overrides, problems), problems))
    problems += _unknown_keys(leaves)
    if problems:
        raise ConfigError("\n".join(problems))
    settings = _validated(leaves)
    base = Path.cwd() if found is None else found.parent.absolute()
    return LoadedSettings(settings.resolved(base), MappingProxyType(_origins(leaves)), found)


def setting_fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Give each setting as table, key and pydantic's field, in the order of `Settings`."""
    for table, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for key, inner in field.annotation.model_fields.items():
                yield table, key, inner


def shown_value(value: Any) -> Any:
    """Return a setting's value as plain JSON, a secret as stars."""
    match value:
        case SecretStr() | Path():
            return str(value)
        case tuple() | list():
            return [shown_value(each) for each in value]
        case Mapping():
            return {key: shown_value(each) for key, each in value.items()}
        case _:
            return value


_FIELDS: Final = {(table, key): field for table, key, field in setting_fields()}


# ------------------------------------------------------------------------------------- places


def _find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if environ.get(_CONFIG_VARIABLE):
        return Path(environ[_CONFIG_VARIABLE])
    return CONFIG_FILE if CONFIG_FILE.exists() else None


def _file_leaves(path: Path) -> dict[Key, _Leaf]:
    text = _read_file(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_toml_problem(path, error)) from None
    lines = key_lines(text)

    def origin(key: Key) -> str:
        lengths = range(len(key), 0, -1)
        line = next((lines[key[:n]] for n in lengths if key[:n] in lines), None)
        return str(path) if line is None else f"{path}:{line}"

    return {key: _Leaf(value, origin(key)) for key, value in _flat(data)}


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_SIZE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"config file must exist, got none at {path}; write one with `kumiai config init`"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"config file must be readable, got {error.strerror} for {path}"
        ) from error
    if len(content) > _FILE_SIZE_BYTES_MAX:
        raise ConfigError(f"{path} must be at most {_FILE_SIZE_BYTES_MAX} bytes, got more")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: must be UTF-8, got another byte") from None


def _toml_problem(path: Path, error: tomllib.TOMLDecodeError) -> str:
    text = str(error)
    place = _TOML_PLACE.search(text)
    if place is None:
        return f"{path}: must be valid TOML: {text}"
    reason = text[: place.start()]
    reason = reason[:1].lower() + reason[1:]
    if place["line"] is None:
        return f"{path}: must be valid TOML: {reason} at the end of the file"
    return f"{path}:{place['line']}: must be valid TOML: {reason} in column {place['column']}"


def _environment_entries(
    environ: Mapping[str, str], problems: list[str]
) -> Iterator[tuple[Key, str, str]]:
    for variable in sorted(environ):
        if (
            not variable.startswith(_PREFIX)
            or variable in _OTHER_VARIABLES
            or variable.startswith(_OTHER_PREFIXES)
            or _SERVICE_VARIABLE.fullmatch(variable)
        ):
            continue
        spelled = tuple(variable.removeprefix(_PREFIX).lower().split("__"))
        key = _SHORT_NAMES.get(variable, spelled)
        if len(key) > 1 and _is_known(key):
            yield key, environ[variable], variable
        else:
            names = {_variable(each) for each in _FIELDS} | {_CONFIG_VARIABLE}
            problems.append(
                f"{variable}: must be {_PREFIX}<TABLE>__<KEY> of a setting"
                + _did_you_mean(variable, names)
            )


def _override_entries(
    overrides: Mapping[str, str], problems: list[str]
) -> Iterator[tuple[Key, str, str]]:
    for name, text in overrides.items():
        key = tuple(name.split("."))
        if _is_known(key):
            yield key, text, "--set"
        else:
            problems.append(f"--set: {name} must be a setting" + _suggestion(key))


def _variable(key: Key) -> str:
    return _PREFIX + "__".join(key).upper()


# --------------------------------------------------------------------- from texts to raw values


def _text_leaves(entries: Iterable[tuple[Key, str, str]], problems: list[str]) -> dict[Key, _Leaf]:
    leaves = {}
    for key, text, origin in entries:
        try:
            value = _value_of(key, text)
        except ValueError as error:
            problems.append(f"{origin}: {'.'.join(key)} {error}")
        else:
            leaves[key] = _Leaf(_absolute(key, value), origin)
    return leaves


def _value_of(key: Key, text: str) -> Any:
    """Return what the text stands for; pydantic does the rest.

    Raises:
        ValueError: the text is no list or table where one must be.
    """
    kinds = _kinds(key)
    if len(key) > 2:
        return _scalar_of(text)
    if not text and NoneType in kinds:
        return None
    if tuple in kinds:
        if text.lstrip().startswith("["):
            return _toml_value(text)
        return [part.strip() for part in text.split(",")] if text.strip() else []
    if dict in kinds:
        if not text.strip():
            return {}
        return _toml_value(text)
    return text


def _scalar_of(text: str) -> Any:
    try:
        value = _toml_value(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _toml_value(text: str) -> Any:
    try:
        data = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        data = {}
    if data.keys() != {"value"}:  # a line end in the text could set other keys
        raise ValueError(
            f'must be written as in TOML, such as ["a", "b"] or {{a = 1}}, got {text!r}'
        )
    return data["value"]


def _absolute(key: Key, value: Any) -> Any:
    """Take what the environment or the command line says from the current folder."""
    here = Path.cwd()
    if Path in _kinds(key) and isinstance(value, str):
        return here / Path(value).expanduser()
    if key == ("storage", "database") and isinstance(value, str):
        return resolved_database(value, here)
    if key[-1] == "apps" and isinstance(value, list):
        return [resolved_app(each, here) if isinstance(each, str) else each for each in value]
    return value


def _kinds(key: Key) -> frozenset[Any]:
    """Return the types in the setting's annotation, without their parameters."""
    field = _FIELDS[key[0], key[1]]
    alternatives = get_args(field.annotation) if _is_union(field.annotation) else ()
    return frozenset(get_origin(each) or each for each in alternatives or (field.annotation,))


def _is_union(annotation: Any) -> bool:
    return NoneType in get_args(annotation)


# ----------------------------------------------------------------------- from layers to settings


def _flat(data: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
    """Give the leaves of the tables; a table of free entries gives one leaf an entry."""
    for table, content in data.items():
        if not isinstance(content, dict):
            yield (table,), content
            continue
        for key, value in content.items():
            if isinstance(value, dict) and dict in _kinds_if_known((table, key)):
                yield from (((table, key, name), entry) for name, entry in value.items())
            else:
                yield (table, key), value


def _add(leaves: dict[Key, _Leaf], more: Mapping[Key, _Leaf]) -> None:
    """Lay ``more`` over ``leaves``: a whole table replaces its entries, an entry only itself."""
    for key, leaf in more.items():
        if len(key) == 2 and isinstance(leaf.value, dict) and dict in _kinds_if_known(key):
            for old in [old for old in leaves if old[:2] == key]:
                del leaves[old]
            for name, value in leaf.value.items():
                leaves[(*key, name)] = _Leaf(value, leaf.origin)
        else:
            leaves[key] = leaf


def _kinds_if_known(key: Key) -> frozenset[Any]:
    return _kinds(key) if key in _FIELDS else frozenset()


def _is_known(key: Key) -> bool:
    if len(key) == 3:
        return dict in _kinds_if_known(key[:2])
    return key in _FIELDS


def _unknown_keys(leaves: Mapping[Key, _Leaf]) -> list[str]:
    problems = []
    for key, leaf in leaves.items():
        if len(key) == 1 and key[0] in Settings.model_fields:
            problems.append(
                f"{leaf.origin}: {key[0]} must be a table, [{key[0]}], got {leaf.value!r}"[:300]
            )
        elif not _is_known(key):
            problems.append(f"{leaf.origin}: {'.'.join(key)} must be a setting" + _suggestion(key))
    return problems


def _suggestion(key: Key) -> str:
    names = [".".join(each) for each in _FIELDS]
    # The right key in the wrong table is the likeliest mistake.
    same = [name for name in names if name.rpartition(".")[2] == key[-1]]
    return _did_you_mean(".".join(key), same or names, cutoff=0.0 if same else 0.5)


def _did_you_mean(wrong: str, names: Iterable[str], *, cutoff: float = 0.5) -> str:
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=cutoff)
    if close:
        return f"; did you mean {close[0]}?"
    return "; `kumiai config show` lists them"


def _validated(leaves: Mapping[Key, _Leaf]) -> Settings:
    tree: dict[str, dict[str, Any]] = {}
    for key, leaf in leaves.items():
        table = tree.setdefault(key[0], {})
        if len(key) == 3:
            table.setdefault(key[1], {})[key[2]] = leaf.value
        else:
            table[key[1]] = leaf.value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_problem_lines(error, leaves))) from None


def _problem_lines(error: ValidationError, leaves: Mapping[Key, _Leaf]) -> list[str]:
    lines: dict[Key, str] = {}
    for problem in error.errors(include_url=False, include_context=False):
        location = tuple(str(part) for part in problem["loc"])
        key = next(location[:n] for n in (3, 2) if location[:n] in leaves)
        # A union complains once for each of its types; one line says it all.
        lines.setdefault(key, f"{leaves[key].origin}: {'.'.join(key)} {_rule(key, problem)}")
    return list(lines.values())


def _rule(key: Key, problem: Mapping[str, Any]) -> str:
    if len(key) == 3:
        return f"must be true, false, a finite number or a text, got {problem['input']!r}"[:300]
    message = str(problem["msg"])
    if problem["type"] == "value_error":
        return message.removeprefix("Value error, ")
    rule = message.removeprefix("Input should be ")
    if SecretStr in _kinds(key):
        return f"must be {rule}"
    return f"must be {rule}, got {problem['input']!r}"[:300]


def _origins(leaves: Mapping[Key, _Leaf]) -> dict[str, str]:
    origins = {".".join(key): leaf.origin for key, leaf in leaves.items()}
    tables = {key[:2] for key in leaves}
    return {
        **{".".join(key): "default" for key in _FIELDS if key not in tables},
        **origins,
    }
