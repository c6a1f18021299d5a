"""``kumiai model``: list, show, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.node.cli.invocation import Invocation, invocation_of
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
def list_models(ctx: typer.Context, run: Ref) -> None:
    """List the versions of a run's model; version 0 is the initial one."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        models = client.models(run)
    rows = [
        (
            str(model["round"]),
            model["digest"][:16],
            shown_size(model["size_bytes"]),
            shown_metrics(model["metrics"]),
            shown_time(model["created_at"]),
            "yes" if model["is_kept"] else "no",
        )
        for model in models
    ]
    columns = ("round", "digest", "size", "evaluation", "created (UTC)", "kept")
    emit(invocation.output, models, Table(columns, rows))


@app.command()
def show(ctx: typer.Context, run: Ref, version: Version = "latest") -> None:
    """Show one version of a run's model."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        model = _find(client.models(run), run, version)
    rows = [
        ("name", model["name"]),
        ("model", model["model_id"]),
        ("round", str(model["round"])),
        ("digest", model["digest"]),
        ("size", shown_size(model["size_bytes"])),
        ("evaluation", shown_metrics(model["metrics"])),
        ("created", f"{shown_time(model['created_at'])} UTC"),
        ("kept", "yes" if model["is_kept"] else "no: run.keep_versions let its bytes go"),
    ]
    emit(invocation.output, model, Table((), rows))


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
