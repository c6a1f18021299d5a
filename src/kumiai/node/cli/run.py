"""``kumiai run``: submit, list, describe, show, watch, logs, stop, delete, explain."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError
from kumiai.node.cli.exit_codes import ExitCode, exit_code_of_run
from kumiai.node.cli.invocation import Invocation, OutputFormat, invocation_of
from kumiai.node.cli.listing import (
    AddTags,
    Cursor,
    Description,
    IfVersion,
    Limit,
    RemoveTags,
    Search,
    Tags,
    changes_of,
    shown_tags,
    tell_cursor,
)
from kumiai.node.cli.output import (
    Table,
    clean,
    emit,
    shown_duration,
    shown_metrics,
    shown_size,
    shown_time,
)

if TYPE_CHECKING:
    from kumiai.node.operator.client import OperatorClient

__all__ = ["app"]

app = typer.Typer(help="Training runs: submit, look, stop.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or a unique beginning of it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and tell, but change nothing.")]


@app.command()
def submit(
    ctx: typer.Context,
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job.")],
    *,
    app_reference: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="STUDY.py[:app]", help="Builds the initial model from this study."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Takes the initial model from this .safetensors file.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Your own key: the same token again gives the same run, not a second."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the run to its end.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Submit a job; --set run.rounds=5 changes single values of it."""
    from kumiai.node.cli.submission import prepare, submit_prepared

    invocation = invocation_of(ctx)
    prepared, invocation.overrides = prepare(
        job, invocation.overrides, app_reference=app_reference, model=model, token=token
    )
    for line in prepared.outlook():
        typer.echo(line, err=True)
    if dry_run:
        emit(invocation.output, prepared.summary(), prepared.table())
        return
    with _client(invocation) as client:
        run = submit_prepared(client, prepared)
        if watch:
            if invocation.output is OutputFormat.TABLE:
                typer.echo(f"submitted {run['run_id']}")
            _watch(client, run["run_id"], invocation.output)
        else:
            emit(invocation.output, run, _run_table(run))
            if invocation.output is OutputFormat.TABLE:
                typer.echo(f"follow it with `kumiai run watch {run['run_id']}`", err=True)


@app.command("list")
def list_runs(
    ctx: typer.Context,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(help="submitted, running, finished, failed or stopped; repeatable."),
    ] = None,
    app: Annotated[str | None, typer.Option("--app", help="Only of this study.")] = None,
    tag: Tags = None,
    search: Search = None,
    order: Annotated[str, typer.Option(help="newest, oldest or name.")] = "newest",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> None:
    """List runs, the newest first."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        listing = client.runs(
            state=state, app=app, tag=tag, search=search, order=order, limit=limit, cursor=cursor
        )
    runs = listing.items
    is_filtered = bool(state or app or tag or search or cursor)
    rows = [
        (
            run["run_id"],
            run["name"] or "-",
            run["app"],
            run["state"],
            f"{run['round']}/{run['rounds_total']}",
            shown_time(run["created_at"]),
            run["submitted_by"],
            shown_tags(run["tags"]),
        )
        for run in runs
    ]
    columns = ("run", "name", "app", "state", "round", "created (UTC)", "by", "tags")
    none = "no such runs" if is_filtered else "no runs; submit one with `kumiai run submit`"
    emit(invocation.output, runs, Table(columns, rows, "" if runs else none))
    tell_cursor(listing.cursor)


@app.command()
def describe(
    ctx: typer.Context,
    run: Ref,
    *,
    description: Description = None,
    tag: AddTags = None,
    untag: RemoveTags = None,
    if_version: IfVersion = None,
    dry_run: DryRun = False,
) -> None:
    """Describe a run and tag it, to find it again with `kumiai run list`."""
    invocation = invocation_of(ctx)
    changes = changes_of(description, tag, untag, if_version)
    with _client(invocation) as client:
        found = client.run(run)
        if not dry_run:
            found = client.describe_run(found["run_id"], changes)
    emit(invocation.output, found, _run_table(found))
    if dry_run and invocation.output is OutputFormat.TABLE:
        typer.echo("nothing was changed: --dry-run", err=True)


@app.command()
def show(ctx: typer.Context, run: Ref) -> None:
    """Show a run and its rounds."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        found = client.run(run)
        rounds = client.rounds(found["run_id"])
    if invocation.output is OutputFormat.TABLE:
        emit(invocation.output, found, _run_table(found))
        typer.echo("")
        emit(invocation.output, rounds, _rounds_table(rounds))
    else:
        emit(invocation.output, {**found, "rounds": rounds}, Table((), ()))


@app.command()
def watch(ctx: typer.Context, run: Ref) -> None:
    """Follow a run to its end; the exit code is the run's."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        _watch(client, client.run(run)["run_id"], invocation.output)


@app.command()
def logs(
    ctx: typer.Context,
    run: Ref,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
    client_name: Annotated[
        str | None, typer.Option("--client", help="Only what is about this client.")
    ] = None,
) -> None:
    """Print what has happened in a run."""
    from kumiai.node.cli.run_watch import event_line

    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        rows: Iterator[dict[str, Any]]
        if follow:
            rows = (each.data for each in client.follow(run) if each.kind == "event")
        else:
            rows = client.events(run)
        wanted = (row for row in rows if client_name in {None, row["client_id"]})
        if invocation.output in {OutputFormat.JSON, OutputFormat.YAML}:
            emit(invocation.output, list(wanted), Table((), ()))
            return
        for row in wanted:
            emit(invocation.output, row, Table((), (), note=event_line(row)))


@app.command()
def stop(
    ctx: typer.Context,
    run: Ref,
    reason: Annotated[str, typer.Option(help="Why; everybody can read it.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Stop a run; what is published stays."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        found = client.run(run)
        if not dry_run:
            found = client.stop(found["run_id"], reason)
    emit(invocation.output, found, _run_table(found))
    if dry_run and invocation.output is OutputFormat.TABLE:
        typer.echo("nothing was stopped: --dry-run", err=True)


@app.command()
def delete(
    ctx: typer.Context,
    run: Ref,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Delete it without being asked.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Delete a run that has ended, for ever, with its rounds, models and events."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        found = client.run(run)
        if dry_run:
            emit(invocation.output, found, _run_table(found))
            if invocation.output is OutputFormat.TABLE:
                typer.echo("nothing was deleted: --dry-run", err=True)
            return
        if not yes:
            _confirm_deletion(found)
        gone = client.delete_run(found["run_id"])
    note = f"deleted {gone['run_id']} and {gone['count']} blobs, {shown_size(gone['size_bytes'])}"
    if gone["left_count"]:
        note += f"; {gone['left_count']} that are young go with a later sweep"
    emit(invocation.output, gone, Table((), (), note=note))


@app.command()
def explain(ctx: typer.Context, run: Ref) -> None:
    """Say why a run is slow, waiting or failed, and who was left out."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.explain_run(run)
    lines = "\n".join(clean(line) for line in told["lines"])
    emit(invocation.output, told, Table((), (), note=lines))


def _client(invocation: Invocation) -> "OperatorClient":
    from kumiai.node.operator.client import OperatorClient

    return OperatorClient.of(invocation.settings_for("operator"))


def _confirm_deletion(run: dict[str, Any]) -> None:
    """Ask, or say that nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigError(
            f"--yes must be given to delete run {run['run_id']}, got none and no terminal to ask at"
        )
    name = f" ({clean(run['name'])})" if run["name"] else ""
    question = f"Delete run {run['run_id']}{name}, round {run['round']}, with all its models?"
    if not typer.confirm(question, err=True):
        typer.echo("nothing was deleted", err=True)
        raise typer.Exit(ExitCode.FAILED)


def _watch(client: "OperatorClient", run_id: str, output: OutputFormat) -> None:
    """Show a run to its end and exit with its code."""
    try:
        if output is OutputFormat.TABLE:
            _show_stream(client, run_id)
        else:
            for event in client.follow(run_id):
                if output is OutputFormat.JSONL:
                    emit(output, {"kind": event.kind, **event.data}, Table((), ()))
    except KeyboardInterrupt:
        typer.echo(f"the run goes on; watch it again with `kumiai run watch {run_id}`", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    run = client.run(run_id)
    if output is OutputFormat.TABLE:
        typer.echo(f"run {run_id} {run['state']}: {clean(run['reason'] or 'no reason given')}")
        if run["state"] == "finished":
            typer.echo(f"take its model with `kumiai model export {run_id}`", err=True)
    elif output is not OutputFormat.JSONL:
        emit(output, run, Table((), ()))
    raise typer.Exit(exit_code_of_run(run))


def _show_stream(client: "OperatorClient", run_id: str) -> None:
    from kumiai.node.cli.run_watch import watcher

    with watcher() as tell:
        for event in client.follow(run_id):
            tell(event)


def _run_table(run: dict[str, Any]) -> Table:
    counts = run["counts"] or {}
    rows = [
        ("run", run["run_id"]),
        ("name", run["name"] or "-"),
        ("app", run["app"]),
        ("state", run["state"]),
        ("reason", run["reason"] or "-"),
        ("kind of error", run["end_kind"] or "-"),
        ("round", f"{run['round']} of {run['rounds_total']}"),
        ("clients", ", ".join(f"{counts[each]} {each}" for each in counts if counts[each]) or "-"),
        ("model", run["model_digest"]),
        ("submitted", f"{shown_time(run['created_at'])} UTC by {run['submitted_by']}"),
        ("ended", shown_time(run["finished_at"])),
        ("took", shown_duration(_duration_of(run))),
        ("leader", run["leader"] or "-"),
        ("tags", shown_tags(run["tags"])),
        ("description", run["description"] or "-"),
        ("version", str(run["row_version"])),
    ]
    if run["stop_requested"]:
        rows.insert(4, ("stop", run["stop_reason"] or "asked for"))
    return Table((), rows)


def _duration_of(run: dict[str, Any]) -> float | None:
    if run["started_at"] is None or run["finished_at"] is None:
        return None
    return float(run["finished_at"] - run["started_at"])


def _rounds_table(rounds: list[dict[str, Any]]) -> Table:
    rows = [
        (
            str(each["round"]),
            each["stage"],
            "-" if each["reports"] is None else str(each["reports"]),
            "-" if each["examples"] is None else str(each["examples"]),
            shown_metrics(each["metrics"]),
            shown_metrics(each["evaluation"]),
            each["close_reason"] or "-",
        )
        for each in rounds
    ]
    columns = ("round", "stage", "reports", "examples", "training", "evaluation", "closed because")
    return Table(columns, rows)
