"""``kumiai doctor``: is everything in place, and what to do where it is not."""

from typing import Annotated

import typer

from kumiai.node.cli.exit_codes import ExitCode
from kumiai.node.cli.invocation import invocation_of
from kumiai.node.cli.output import Table, clean, emit

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(doctor)


def doctor(
    ctx: typer.Context,
    role: Annotated[
        str | None,
        typer.Option(help="coordinator, client or operator; default: the certificate's."),
    ] = None,
) -> None:
    """Check ports, clock, certificates, disk, database, studies; exit code 1 if one is wrong."""
    from kumiai.core.clock import SystemClock
    from kumiai.node.doctor import examine

    invocation = invocation_of(ctx)
    findings = examine(invocation.settings, clock=SystemClock(), role=role)
    told = [
        {"check": each.check, "state": each.state.value, "text": each.text, "mend": each.mend}
        for each in findings
    ]
    rows = [
        (
            each.state.value,
            each.check,
            clean(f"{each.text}; {each.mend}" if each.mend else each.text),
        )
        for each in findings
    ]
    emit(invocation.output, told, Table(("", "check", "found"), rows))
    if any(each.is_wrong for each in findings):
        raise typer.Exit(ExitCode.FAILED)
