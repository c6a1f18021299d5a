"""``kumiai token``: create, list, revoke."""

from typing import TYPE_CHECKING, Annotated

import typer

from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.output import Table, emit, shown_time

if TYPE_CHECKING:
    from kumiai.node.operator.client import OperatorClient

__all__ = ["app"]

app = typer.Typer(help="Tokens for the HTTP API.", no_args_is_help=True)

TokenId = Annotated[str, typer.Argument(metavar="TOKEN", help="Its identifier, not its secret.")]


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for, such as nightly-report.")],
    *,
    permission: Annotated[
        list[str], typer.Option("--permission", "-p", help="What it may do; repeatable.")
    ],
    days: Annotated[int, typer.Option(min=1, help="How long it is good.")] = 30,
) -> None:
    """Make a token that may do some of what you may; it is shown this once."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        answer = client.create_token(name, permissions=permission, days=days)
    made = answer["made"]
    note = (
        f"{answer['token']}\n\nkeep it: it is not shown again; use it as KUMIAI_TOKEN. It may "
        f"{', '.join(made['permissions'])} until {shown_time(made['expires_at'])} UTC"
    )
    emit(invocation.output, answer, Table((), (), note=note))


@app.command("list")
def list_tokens(ctx: typer.Context) -> None:
    """List your tokens, the newest first; operators see everybody's."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        tokens = client.tokens()
    rows = [
        (
            token["token_id"],
            token["name"],
            f"{token['role']} {token['created_by']}",
            ", ".join(token["permissions"]),
            shown_time(token["expires_at"]),
            shown_time(token["last_used_at"]),
            f"revoked by {token['revoked_by']}" if token["revoked_at"] else "good",
        )
        for token in tokens
    ]
    columns = ("token", "name", "made by", "may", "until (UTC)", "last used", "state")
    note = "" if rows else "no tokens yet; make one with `kumiai token create`"
    emit(invocation.output, tokens, Table(columns, rows, note))


@app.command()
def revoke(ctx: typer.Context, token: TokenId) -> None:
    """Revoke a token; all coordinators refuse it within seconds."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        ended = client.revoke_token(token)
    note = f"revoked {ended['token_id']} ({ended['name']})"
    emit(invocation.output, ended, Table((), (), note=note))


def _client(invocation: Invocation) -> "OperatorClient":
    from kumiai.node.operator.client import OperatorClient

    return OperatorClient.of(invocation.settings_for("operator"))
