"""``kumiai model``: list, show, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.node.cli.invocation import Invocation, OutputFormat, invocation_of
from kumiai.node.cli.listing import (
    AddTags,
    Cursor,
    Description,
    IfVersion,
    RemoveTags,
    Search,
    Tags,
    changes_of,
    shown_tags,
    tell_cursor,
)
from kumiai.node.cli.output import Table, emit, shown_metrics, shown_size, shown_time

if TYPE_CHECKING:
    from kumiai.node.operator.client import OperatorClient

__all__ = ["app"]

app = typer.Typer(help="Model versions of a run.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or a unique beginning of it.")]
Version = Annotated[
    str, typer.Option("--version", "-v", metavar="ROUND", help="A round's number, or latest.")
]


@app.command("list")
def list_models(
    ctx: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Only of this run: its id, or a beginning of it."),
    ] = None,
    *,
    tag: Tags = None,
    search: Search = None,
    metric: Annotated[
        str | None, typer.Option(help="Of the evaluation; the highest first, unless --lowest.")
    ] = None,
    lowest: Annotated[bool, typer.Option("--lowest", help="The lowest metric first.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="How many at most; of a run: all.")
    ] = None,
    cursor: Cursor = None,
) -> None:
    """List models of all runs, the newest first, or all versions of one run's model in order."""
    if lowest and metric is None:
        raise ConfigError("--metric must be given with --lowest, got none")
    invocation = invocation_of(ctx)
    order = "newest" if run is None else "oldest"
    if metric is not None:
        order = "lowest" if lowest else "highest"
    with _client(invocation) as client:
        listing = client.all_models(
            run=run,
            tag=tag,
            search=search,
            order=order,
            order_metric=metric,
            limit=limit or (50 if run is None else 100_000),
            cursor=cursor,
        )
    emit(invocation.output, listing.items, _models_table(listing.items, of_one_run=run is not None))
    tell_cursor(listing.cursor)


@app.command()
def show(ctx: typer.Context, run: Ref, version: Version = "latest") -> None:
    """Show one version of a run's model."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        model = _find(client.models(run), run, version)
    emit(invocation.output, model, _model_table(model))


@app.command()
def describe(
    ctx: typer.Context,
    run: Ref,
    *,
    version: Version = "latest",
    description: Description = None,
    tag: AddTags = None,
    untag: RemoveTags = None,
    if_version: IfVersion = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, but change nothing.")] = False,
) -> None:
    """Describe one version of a run's model and tag it, to find it again."""
    invocation = invocation_of(ctx)
    changes = changes_of(description, tag, untag, if_version)
    with _client(invocation) as client:
        model = _find(client.models(run), run, version)
        if not dry_run:
            model = client.describe_model(model["model_id"], changes)
    emit(invocation.output, model, _model_table(model))
    if dry_run and invocation.output is OutputFormat.TABLE:
        typer.echo("nothing was changed: --dry-run", err=True)


@app.command()
def export(
    ctx: typer.Context,
    run: Ref,
    *,
    out: Annotated[
        Path | None, typer.Option(help="The file; default: RUN-roundN.safetensors here.")
    ] = None,
    version: Version = "latest",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, but write nothing.")] = False,
) -> None:
    """Write a version of a run's model into a .safetensors file, verified."""
    from kumiai.node.cli.transfer_bar import transfer_bar

    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        found = client.run(run)
        model = _find(client.models(found["run_id"]), run, version)
        target = out or Path(f"{found['run_id']}-round{model['round']}.safetensors")
        if target.exists() and not force:
            raise ConflictError(f"{target} must not exist yet; choose another --out, or --force")
        if not dry_run:
            with transfer_bar("model") as begin:
                client.download_model(found["run_id"], model["round"], target, begin=begin)
    told = {
        "path": str(target),
        "run_id": found["run_id"],
        "round": model["round"],
        "digest": model["digest"],
        "size_bytes": model["size_bytes"],
    }
    verb = "would write" if dry_run else "wrote"
    note = f"{verb} {target}: round {model['round']}, {shown_size(model['size_bytes'])}"
    emit(invocation.output, told, Table((), (), note=note))


def _client(invocation: Invocation) -> "OperatorClient":
    from kumiai.node.operator.client import OperatorClient

    return OperatorClient.of(invocation.settings_for("operator"))


def _models_table(models: list[dict[str, Any]], *, of_one_run: bool) -> Table:
    columns = ("round", "digest", "size", "evaluation", "created (UTC)", "kept", "tags")
    rows = [
        (
            str(model["round"]),
            model["digest"][:16],
            shown_size(model["size_bytes"]),
            shown_metrics(model["metrics"]),
            shown_time(model["created_at"]),
            "yes" if model["is_kept"] else "no",
            shown_tags(model["tags"]),
        )
        for model in models
    ]
    note = "" if models else "no such models"
    if of_one_run:
        return Table(columns, rows, note)
    runs = [(model["run_id"], model["name"] or "-") for model in models]
    whole = [(*run, *row) for run, row in zip(runs, rows, strict=True)]
    return Table(("run", "name", *columns), whole, note)


def _model_table(model: dict[str, Any]) -> Table:
    rows = [
        ("name", model["name"]),
        ("model", model["model_id"]),
        ("round", str(model["round"])),
        ("digest", model["digest"]),
        ("size", shown_size(model["size_bytes"])),
        ("evaluation", shown_metrics(model["metrics"])),
        ("created", f"{shown_time(model['created_at'])} UTC"),
        ("kept", "yes" if model["is_kept"] else "no: run.keep_versions let its bytes go"),
        ("tags", shown_tags(model["tags"])),
        ("description", model["description"] or "-"),
        ("version", str(model["row_version"])),
    ]
    return Table((), rows)


def _find(models: list[dict[str, Any]], run: str, version: str) -> dict[str, Any]:
    if version == "latest":
        return models[-1]
    if not version.isdecimal():
        raise ConfigError(f"--version must be a round's number or latest, got {version!r}")
    for model in models:
        if model["round"] == int(version):
            return model
    raise NotFoundError(
        f"version of run {run} must be 0 to {models[-1]['round']} so far, got {version}"
    )
