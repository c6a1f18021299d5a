"""``kumiai token``: create, list, revoke."""

from typing import TYPE_CHECKING, Annotated

import typer

from kumiai.core.errors import ConfigError
from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.output import Table, emit, shown_time

if TYPE_CHECKING:
    from kumiai.node.operator.client import OperatorClient

__all__ = ["app"]

app = typer.Typer(help="Tokens for the HTTP API.", no_args_is_help=True)

TokenId = Annotated[
    str | None, typer.Argument(metavar="TOKEN", help="Its identifier, not its secret.")
]


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
def revoke(
    ctx: typer.Context,
    token: TokenId = None,
    *,
    made_by: Annotated[
        str | None, typer.Option("--made-by", metavar="NAME", help="All good ones of this maker.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="With --made-by: only those made in this role.")
    ] = None,
) -> None:
    """Revoke a token, or all of one maker; all coordinators refuse them within seconds."""
    if (token is None) == (made_by is None) or (role is not None and made_by is None):
        raise ConfigError("TOKEN or --made-by must be given alone, and --role with --made-by")
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        if made_by is not None:
            told = client.revoke_tokens_of(made_by, role)
            names = ", ".join(f"{each['token_id']} ({each['name']})" for each in told)
            note = f"revoked {names}" if told else f"{made_by} has no good token"
            emit(invocation.output, told, Table((), (), note=note))
            return
        ended = client.revoke_token(token or "")
    note = f"revoked {ended['token_id']} ({ended['name']})"
    emit(invocation.output, ended, Table((), (), note=note))


def _client(invocation: Invocation) -> "OperatorClient":
    from kumiai.node.operator.client import OperatorClient

    return OperatorClient.of(invocation.settings_for("operator"))
