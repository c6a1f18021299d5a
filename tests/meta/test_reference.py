"""The reference pages agree with the code, word by word where a program can compare."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

import kumiai
import kumiai.privacy
from kumiai.identity import Permission, Refusal
from kumiai.identity.permissions import PERMISSIONS
from kumiai.learning import STRATEGY_NAMES, new_strategy
from kumiai.node.cli.app import app as cli
from kumiai.node.cli.exit_codes import ExitCode
from kumiai.node.coordinator.blob_service import TransferMeter
from kumiai.node.http.access import ROUTES
from kumiai.node.http.errors import STATUSES
from kumiai.node.http.metrics import ApiMetrics
from kumiai.node.job import JobSpec
from kumiai.node.settings import Settings
from kumiai.node.wire.peers import REMOTE_CALLS
from tests.meta.repository import ROOT, markdown_files

REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def rows(text: str) -> Iterator[list[str]]:
    """Give the cells of each row that begins with something in code style."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" |")]


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## +(.*)$", text, flags=re.MULTILINE)
    return dict(zip((title.strip("`[]") for title in parts[1::2]), parts[2::2], strict=True))


def described_defaults(text: str) -> dict[str, str]:
    return {cells[0].strip("`"): cells[1].strip("`") for cells in rows(text)}


def shown(value: object) -> str:
    match value:
        case Path():
            return json.dumps(str(value))
        case tuple():
            return json.dumps(list(value))
        case None:
            return ""
        case _:
            return json.dumps(value)


def table_of(annotation: Any) -> type[BaseModel] | None:
    """Return the table that a field is, also one that may be left out."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def defaults(model: type[BaseModel]) -> dict[str, str]:
    return {
        name: "" if field.is_required() else shown(field.default)
        for name, field in model.model_fields.items()
        if table_of(field.annotation) is None
    }


def tables(model: type[BaseModel]) -> dict[str, dict[str, str]]:
    found = {name: table_of(field.annotation) for name, field in model.model_fields.items()}
    return {name: defaults(table) for name, table in found.items() if table is not None}


@pytest.mark.parametrize("table", tables(Settings))
def test_every_setting_stands_on_its_page_with_its_default(table: str) -> None:
    described = described_defaults(sections(page("configuration.md"))[table])

    assert described == tables(Settings)[table]


@pytest.mark.parametrize("table", tables(JobSpec))
def test_every_key_of_a_job_stands_on_its_page_with_its_default(table: str) -> None:
    described = described_defaults(sections(page("job.md"))[table])

    assert described == tables(JobSpec)[table]


def test_the_keys_at_the_top_of_a_job_stand_on_its_page() -> None:
    described = described_defaults(sections(page("job.md"))["At the top"])

    assert described == {
        name: value for name, value in defaults(JobSpec).items() if name != "train"
    }


def parameters(text: str) -> Mapping[str, Any]:
    pairs = re.findall(r"`(\w+)` ([\w.]+)", text)
    return {name: json.loads(value) for name, value in pairs}


def test_every_strategy_stands_on_its_page_with_its_parameters() -> None:
    described = {cells[0].strip("`"): parameters(cells[2]) for cells in rows(page("strategies.md"))}

    assert described == {
        name: {field.name: field.default for field in fields(new_strategy(name, {}))}
        for name in STRATEGY_NAMES
    }


def test_every_route_stands_on_its_page_with_what_it_needs() -> None:
    described = {
        cells[0].strip("`"): cells[1]
        for cells in rows(page("http-api.md"))
        if re.match(r"`[A-Z]+ /", cells[0])
    }

    assert described == {
        f"{method} {path}": "everybody" if permission is None else f"`{permission}`"
        for (method, path), permission in ROUTES.items()
    }


def test_every_permission_stands_on_its_page_with_who_has_it() -> None:
    described = {
        cells[0].strip("`"): set(cells[1].split(", "))
        for cells in rows(sections(page("permissions.md"))["Permissions"])
    }

    assert described == {
        permission: {role.value for role in PERMISSIONS if permission in PERMISSIONS[role]}
        for permission in Permission
    }


def test_every_remote_call_stands_on_its_page_with_what_it_needs() -> None:
    described = described_defaults(sections(page("permissions.md"))["Remote calls"])

    assert described == dict(REMOTE_CALLS)


def test_every_refusal_stands_on_its_page() -> None:
    described = {
        cells[0].strip("`") for cells in rows(sections(page("permissions.md"))["Refusals"])
    }

    assert described == set(Refusal)


def test_every_kind_of_error_stands_on_its_page_with_its_status() -> None:
    described = described_defaults(sections(page("http-api.md"))["Errors"])

    assert described == {kind: str(status) for kind, status in STATUSES.items()}


def test_every_metric_stands_on_its_page() -> None:
    described = {cells[0].strip("`") for cells in rows(sections(page("http-api.md"))["Metrics"])}
    families = list(ApiMetrics(TransferMeter()).registry.collect())
    ours = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in families
        if family.name.startswith("kumiai_")
    }

    assert described == ours


def test_every_public_name_stands_on_its_page() -> None:
    described = re.findall(r"^\| `kumiai\.(\w+)`", page("python-api.md"), re.MULTILINE)

    assert sorted([*described, "__version__"]) == sorted(kumiai.__all__)


def test_the_study_in_the_readme_is_the_one_among_the_examples() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")

    assert f"```python\n{example}```" in readme


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Give each command of the program with its words."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
    else:
        for name, child in inner.items():
            yield from commands(child, *path, name)


COMMANDS = dict(commands(typer.main.get_command(cli), "kumiai"))


def test_every_command_stands_on_its_page() -> None:
    described = [cells[0].strip("`") for cells in rows(page("command-line.md").split("\n## ")[0])]

    assert sorted(described) == sorted(COMMANDS)


def test_every_exit_code_stands_on_its_page() -> None:
    described = described_defaults(sections(page("command-line.md"))["Exit codes"])

    assert list(described) == [str(code.value) for code in ExitCode]


def written_commands(text: str) -> Iterator[str]:
    """Give every command line of ours in a page, from blocks and from running text."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.strip().startswith("kumiai "):
                yield line.strip()
    yield from re.findall(r"`(kumiai [a-z][^`]*)`", text)


def problem_with(line: str) -> str | None:
    words = shlex.split(line)
    chosen = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
    name = next((found for found in COMMANDS if chosen[: len(found.split())] == found.split()), "")
    # A whole group, such as `kumiai ca`, may be spoken of.
    if not name:
        return None if any(known.startswith(" ".join(words)) for known in COMMANDS) else line
    options = {option for each in COMMANDS[name].params for option in each.opts} | {"--help"}
    wrong = [word for word in words if re.match(r"--?[a-z]", word) and word not in options]
    return f"{line}: {wrong}" if wrong else None


@pytest.mark.parametrize("path", markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_the_pages_exists_with_its_options(path: Path) -> None:
    lines = written_commands(path.read_text(encoding="utf-8"))

    assert [problem for line in lines if (problem := problem_with(line))] == []


def test_every_name_for_privacy_stands_on_its_page() -> None:
    listed = rows(sections(page("privacy.md"))["All names"])
    described = [name.strip("` ") for cells in listed for name in cells[0].split(",")]

    assert sorted(described) == sorted(kumiai.privacy.__all__)
