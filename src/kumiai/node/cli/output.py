"""Writing results: a table for people, or JSON, JSON lines or YAML for programs.

Text that comes from other machines (reasons, names of runs) is shown without control characters,
so that nobody can write to an operator's terminal what looks like ours.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer

from kumiai.node.cli.invocation import OutputFormat
from kumiai.node.cli.yaml_text import to_yaml

__all__ = [
    "Table",
    "clean",
    "emit",
    "shown_duration",
    "shown_metrics",
    "shown_size",
    "shown_time",
]

_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """What people see.

    Attributes:
        columns: headings; none for a list of properties.
        rows: cells as text.
        note: a line below, for example what is missing.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def emit(output: OutputFormat, data: Any, table: Table) -> None:
    """Write a result to standard output.

    Args:
        output: the format.
        data: the result for programs, JSON values.
        table: the same for people.
    """
    match output:
        case OutputFormat.TABLE:
            _emit_table(table)
        case OutputFormat.JSON:
            typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        case OutputFormat.JSONL:
            for line in data if isinstance(data, list) else [data]:
                typer.echo(json.dumps(line, ensure_ascii=False))
        case OutputFormat.YAML:
            typer.echo(to_yaml(data), nl=False)


def _emit_table(table: Table) -> None:
    if table.rows:
        if sys.stdout.isatty():
            _print_styled(table)
        else:
            _print_plain(table)
    if table.note:
        typer.echo(table.note)


def _print_plain(table: Table) -> None:
    # Whole cells, however wide: what reads a pipe must not find "run-3k5…".
    rows = [[clean(cell) for cell in row] for row in table.rows]
    if table.columns:
        rows.insert(0, [column.upper() for column in table.columns])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _print_styled(table: Table) -> None:
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    shown = rich.table.Table(
        box=rich.box.SIMPLE_HEAD if table.columns else None,
        show_header=bool(table.columns),
        pad_edge=False,
        collapse_padding=True,
    )
    for index, column in enumerate(table.columns or table.rows[0]):
        # What a line is about comes first, often an id to copy: it stays in one piece.
        shown.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in table.rows:
        # As Text: a bracket in a name is no markup.
        shown.add_row(*(rich.text.Text(clean(cell)) for cell in row))
    rich.console.Console().print(shown)


def clean(text: str) -> str:
    """Return the text on one line, without anything that a terminal would obey."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def shown_time(seconds: float | None) -> str:
    """Return a time of UTC to the second; the argument counts seconds since 1970."""
    if seconds is None:
        return _ABSENT
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%d %H:%M:%S}"


def shown_duration(seconds: float | None) -> str:
    """Return a duration in the two units that say most."""
    if seconds is None:
        return _ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def shown_size(size_bytes: float) -> str:
    """Return a size in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def shown_metrics(metrics: Mapping[str, float] | None) -> str:
    """Return the metrics in order of their names."""
    if not metrics:
        return _ABSENT
    return ", ".join(f"{clean(name)} {metrics[name]:.4g}" for name in sorted(metrics))
