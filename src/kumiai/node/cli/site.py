"""``kumiai site``: invite, join, request, list, approve, suspend, resume, remove."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kumiai.core.errors import ConfigError
from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.output import Table, emit, shown_time

if TYPE_CHECKING:
    from kumiai.node.operator.client import OperatorClient

__all__ = ["app"]

app = typer.Typer(help="The federation's sites: who may join.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The site's name, as in its certificate.")]
Reason = Annotated[str, typer.Option(help="Why; shown in the list.")]
_LIFETIME = re.compile(r"(\d{1,4})([hd])")


@app.command()
def invite(
    ctx: typer.Context,
    name: Name,
    *,
    role: Annotated[str, typer.Option(help="What its certificate is for.")] = "client",
    expires: Annotated[str, typer.Option(help="How long it is good: 24h, or 7d.")] = "24h",
    address: Annotated[
        str | None,
        typer.Option(help="host:port by which the site reaches the HTTP API; else operator.url's."),
    ] = None,
) -> None:
    """Invite a site: prints one line to give to it, good once."""
    from kumiai.node.client.joining import JoinToken
    from kumiai.node.operator.client import address_of

    invocation = invocation_of(ctx)
    hours = _hours(expires)
    host, port = address_of(invocation.settings_for("operator").operator.url)
    at = address or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    with _client(invocation) as client:
        made = client.invite_site(name, role=role, lifetime_hours=hours)
    token = JoinToken(at, bytes.fromhex(made["fingerprint"]), made["secret"]).to_text()
    JoinToken.from_text(token)  # an address that the site could not read is told here
    told = {"name": name, "token": token, "expires_at": made["expires_at"]}
    note = f"{token}\n\ngive this line to {name}, over a way that you trust with a secret"
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def join(
    ctx: typer.Context,
    token: Annotated[
        str, typer.Argument(help="The line from the operator; - reads it from standard input.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Receives NAME.crt, NAME.key and ca.crt.")],
) -> None:
    """Join a federation: make a key here, and get a certificate for it."""
    from kumiai.node.client import joining

    invocation = invocation_of(ctx)
    text = sys.stdin.readline() if token == "-" else token  # noqa: S105 - no secret
    files = joining.join(joining.JoinToken.from_text(text), out)
    told = {"certificate": str(files.cert), "key": str(files.key), "ca": str(files.ca)}
    lines = "\n".join(f'{key} = "{path}"' for key, path in told.items())
    note = f"joined as {files.cert.stem}; for its kumiai.toml:\n\n[identity]\n{lines}"
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def request(
    ctx: typer.Context,
    name: Name,
    *,
    out: Annotated[Path, typer.Option(help="Receives NAME.key and NAME.csr.")],
) -> None:
    """Make a key and a request that an operator signs with `kumiai ca sign`."""
    from kumiai.node.client import joining

    invocation = invocation_of(ctx)
    key, csr = joining.make_request(name, out)
    told = {"key": str(key), "request": str(csr)}
    note = f"made {csr}; give it to the operator, and put the certificate that comes beside {key}"
    emit(invocation.output, told, Table((), (), note=note))


@app.command("list")
def list_sites(ctx: typer.Context) -> None:
    """List the sites that were invited, got a certificate here, or are denied."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        sites = client.sites()
    rows = [
        (
            site["name"],
            site["state"],
            site["enrolment"] or "-",
            f"{shown_time(site['not_after'])}" if site["not_after"] else "-",
            site["reason"] or "-",
        )
        for site in sites
    ]
    columns = ("site", "state", "invitation", "certificate to (UTC)", "reason")
    note = "" if rows else "no sites yet; invite one with `kumiai site invite`"
    emit(invocation.output, sites, Table(columns, rows, note))


@app.command()
def approve(ctx: typer.Context, name: Name) -> None:
    """Let a site that waits have its certificate."""
    _act(ctx, name, "approve", f"approved {name}; it gets its certificate when it asks again")


@app.command()
def suspend(ctx: typer.Context, name: Name, reason: Reason = "") -> None:
    """Refuse a site, everywhere within seconds, until it is resumed."""
    _act(ctx, name, "suspend", f"suspended {name}; let it in with `kumiai site resume`", reason)


@app.command()
def resume(ctx: typer.Context, name: Name) -> None:
    """Let a suspended site in again."""
    _act(ctx, name, "resume", f"resumed {name}")


@app.command()
def remove(ctx: typer.Context, name: Name, reason: Reason = "") -> None:
    """Refuse a site for good, and revoke its certificates."""
    note = f"removed {name}; what `kumiai ca issue` gave it, revoke with `kumiai ca revoke`, too"
    _act(ctx, name, "remove", note, reason)


def _act(ctx: typer.Context, name: str, act: str, note: str, reason: str | None = None) -> None:
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.change_site(name, act, reason=reason)
    emit(invocation.output, told, Table((), (), note=note))


def _hours(text: str) -> float:
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise ConfigError(f"--expires must be hours or days such as 24h or 7d, got {text!r}")
    return float(match[1]) * (24 if match[2] == "d" else 1)


def _client(invocation: Invocation) -> "OperatorClient":
    from kumiai.node.operator.client import OperatorClient

    return OperatorClient.of(invocation.settings_for("operator"))
