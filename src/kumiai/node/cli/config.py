"""``kumiai config``: init, check, show, schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError, ConflictError, StorageError
from kumiai.node.cli.invocation import OutputFormat, invocation_of
from kumiai.node.cli.output import Table, emit

if TYPE_CHECKING:
    from kumiai.node.settings_source import LoadedSettings

__all__ = ["app", "config_text"]

app = typer.Typer(help="The file kumiai.toml.", no_args_is_help=True)

_TABLES = {
    "coordinator": ("identity", "storage", "coordinator", "limits", "log"),
    "client": ("identity", "client", "log"),
    "operator": ("identity", "operator"),
}


@app.command()
def init(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="coordinator, client or operator.")],
    *,
    path: Annotated[Path, typer.Option(help="The file to write.")] = Path("kumiai.toml"),
    certificate: Annotated[
        Path | None,
        typer.Option(help="NAME.crt from `kumiai ca issue`; key and ca.crt lie beside it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it, write nothing.")] = False,
) -> None:
    """Write a config file with every setting of a role, its default and what it is for."""
    invocation = invocation_of(ctx)
    text = config_text(role, certificate)
    if dry_run:
        typer.echo(text, nl=False)
        return
    if path.exists() and not force:
        raise ConflictError(f"{path} must not exist yet; choose another --path, or --force")
    try:
        path.write_text(text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    note = f"wrote {path}; uncomment what you change, then run `kumiai config check`"
    emit(invocation.output, {"path": str(path), "role": role}, Table((), (), note=note))


@app.command()
def check(ctx: typer.Context) -> None:
    """Check the settings from all their places; exit code 2 and one line per problem if not."""
    invocation = invocation_of(ctx)
    loaded = invocation.load()
    given = sum(origin != "default" for origin in loaded.origins.values())
    told = {"path": None if loaded.path is None else str(loaded.path), "given": given}
    file = "no config file" if loaded.path is None else str(loaded.path)
    note = f"{file}: all is valid; {given} settings given, the others are defaults"
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value is from.")] = False,
) -> None:
    """Show every setting in force; secrets as stars."""
    invocation = invocation_of(ctx)
    loaded = invocation.load()
    values = _values(loaded)
    rows = [(key, json.dumps(value, ensure_ascii=False)) for key, value in values.items()]
    if not origin:
        emit(invocation.output, _nested(values), Table(("setting", "value"), rows))
        return
    told = [
        {"key": key, "value": value, "origin": loaded.origins[key]} for key, value in values.items()
    ]
    cells = [(*row, loaded.origins[row[0]]) for row in rows]
    emit(invocation.output, told, Table(("setting", "value", "from"), cells))


@app.command()
def schema(
    ctx: typer.Context,
    job: Annotated[bool, typer.Option("--job", help="Of a job file instead.")] = False,
) -> None:
    """Print the JSON schema, for editors that complete and check TOML."""
    from kumiai.node.settings import Settings

    invocation = invocation_of(ctx)
    if job:
        from kumiai.node.job import JobSpec

        found = JobSpec.model_json_schema()
    else:
        found = Settings.model_json_schema()
    is_table = invocation.output is OutputFormat.TABLE
    emit(OutputFormat.JSON if is_table else invocation.output, found, Table((), ()))


def config_text(role: str, certificate: Path | None = None) -> str:
    """Return a config file for a role: every setting with its default, commented out.

    Args:
        role: coordinator, client or operator.
        certificate: ``NAME.crt``; the table ``identity`` then names it and its neighbours.

    Raises:
        ConfigError: there is no such role.
    """
    from kumiai.node.settings import Settings
    from kumiai.node.settings_source import setting_fields

    if role not in _TABLES:
        raise ConfigError(f"role must be one of {', '.join(_TABLES)}, got {role!r}")
    lines = [f"# The settings of a Kumiai {role}. Relative paths start at this file's folder."]
    given = _identity(certificate)
    for table in _TABLES[role]:
        kind = Settings.model_fields[table].annotation
        lines += ["", f"# {getattr(kind, '__doc__', '')}", f"[{table}]"]
        for owner, key, field in setting_fields():
            if owner != table:
                continue
            lines += [f"# {line}" for line in _plain(field.description).split("\n")]
            if (table, key) in given:
                lines.append(f"{key} = {_toml(str(given[table, key]))}")
            elif field.default is None:
                lines.append(f"# {key} =")
            else:
                lines.append(f"# {key} = {_toml(field.default)}")
    return "\n".join(lines) + "\n"


def _plain(description: str | None) -> str:
    # A docstring marks code with two backticks; in a TOML comment they are noise.
    return (description or "").replace("``", "`")


def _identity(certificate: Path | None) -> dict[tuple[str, str], Path]:
    if certificate is None:
        return {}
    return {
        ("identity", "certificate"): certificate.absolute(),
        ("identity", "key"): certificate.absolute().with_suffix(".key"),
        ("identity", "ca"): certificate.absolute().with_name("ca.crt"),
    }


def _toml(value: Any) -> str:
    """Return a default as TOML; JSON writes texts, numbers and lists of texts the same way."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _values(loaded: "LoadedSettings") -> dict[str, Any]:
    """Return the values by dotted key, in the order of the settings; free entries one by one."""
    from kumiai.node.settings_source import setting_fields, shown_value

    values: dict[str, Any] = {}
    for table, key, _ in setting_fields():
        value = getattr(getattr(loaded.settings, table), key)
        if isinstance(value, dict) and value:
            values |= {f"{table}.{key}.{name}": each for name, each in value.items()}
        else:
            values[f"{table}.{key}"] = shown_value(value)
    return values


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".", 2)
        table = tree
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return tree
