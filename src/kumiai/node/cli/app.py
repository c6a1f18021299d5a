"""All commands, gathered."""

from pathlib import Path
from typing import Annotated

import typer

from kumiai.node.cli import (
    audit,
    ca,
    config,
    db,
    doctor,
    model,
    privacy,
    quickstart,
    receipt,
    run,
    serving,
    site,
    storage,
    token,
)
from kumiai.node.cli.invocation import OutputFormat
from kumiai.node.cli.root import Root, begin

__all__ = ["app"]

app = typer.Typer(
    name="kumiai",
    cls=Root,
    help="Federated learning that survives being killed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    output: Annotated[
        OutputFormat, typer.Option("-o", "--output", help="How results are written.")
    ] = OutputFormat.TABLE,
    config: Annotated[
        Path | None,
        typer.Option(help="The config file; default: $KUMIAI_CONFIG, else ./kumiai.toml."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one setting; repeatable."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=quickstart.tell_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Federated learning that survives being killed."""
    begin(ctx, output, config, overrides or [], debug)


quickstart.add_to(app)
app.add_typer(serving.coordinator, name="coordinator")
app.add_typer(serving.client, name="client")
app.add_typer(run.app, name="run")
app.add_typer(model.app, name="model")
app.add_typer(ca.app, name="ca")
app.add_typer(site.app, name="site")
app.add_typer(config.app, name="config")
app.add_typer(db.app, name="db")
app.add_typer(audit.app, name="audit")
app.add_typer(storage.app, name="storage")
app.add_typer(token.app, name="token")
app.add_typer(privacy.app, name="privacy")
app.add_typer(receipt.app, name="receipt")
doctor.add_to(app)
