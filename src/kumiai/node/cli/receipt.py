"""``kumiai receipt``: list, verify; a site's proofs that its updates were counted, offline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.output import Table, emit

if TYPE_CHECKING:
    from kumiai.secagg import ReceiptFacts

__all__ = ["app"]

app = typer.Typer(help="A site's proofs that its updates were counted.", no_args_is_help=True)

Peers = Annotated[
    Path | None,
    typer.Option(
        "--peers",
        metavar="FILE",
        help="The members' signing keys; default: known-peers.json of this site.",
    ),
]


@app.command()
def verify(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A receipt, such as run-….3.receipt.")],
    *,
    peers: Peers = None,
) -> None:
    """Check a receipt against keys that this site remembers; nobody is asked."""
    invocation = invocation_of(ctx)
    facts = _verified(file, peers or _folder(invocation) / "known-peers.json")
    told = {
        "run": facts.run_id,
        "round": facts.round_number,
        "client": facts.client,
        "weight": facts.weight,
        "survivors": list(facts.survivors),
        "signers": list(facts.signers),
        "sum": facts.sum_digest.hex(),
        "verification": facts.proofs.value,
    }
    note = (
        f"right: the update of {facts.client} was counted once, with the weight {facts.weight}, in "
        f"round {facts.round_number} of {facts.run_id}\n"
        f"in the sum with it: {', '.join(facts.survivors)}\n"
        f"the sum was {_how_signed(facts)}"
    )
    emit(invocation.output, told, Table((), (), note=note))


@app.command("list")
def list_receipts(ctx: typer.Context, *, peers: Peers = None) -> None:
    """Check all receipts of this site, and list what they prove."""
    invocation = invocation_of(ctx)
    folder = _folder(invocation)
    known = peers or folder / "known-peers.json"
    facts = [_verified(path, known) for path in sorted((folder / "receipts").glob("*.receipt"))]
    rows = [
        (each.run_id, str(each.round_number), str(each.weight), ", ".join(each.survivors))
        for each in sorted(facts, key=lambda each: (each.run_id, each.round_number))
    ]
    told = [
        {
            "run": each.run_id,
            "round": each.round_number,
            "weight": each.weight,
            "survivors": list(each.survivors),
        }
        for each in facts
    ]
    emit(
        invocation.output,
        told,
        Table(
            ("run", "round", "weight", "in the sum"),
            rows,
            note="" if rows else "no receipts yet",
        ),
    )


def _how_signed(facts: "ReceiptFacts") -> str:
    signers = ", ".join(facts.signers)
    if facts.proofs.value == "off":
        return f"signed by: {signers}; nobody could check it, as the run's verification was off"
    return f"checked and signed by: {signers}"


def _folder(invocation: Invocation) -> Path:
    return invocation.settings.client.state_dir / "secure"


def _verified(file: Path, peers: Path) -> "ReceiptFacts":
    from kumiai.core.errors import (
        CryptoError,
        IntegrityError,
        NotFoundError,
        SecureAggregationError,
    )
    from kumiai.crypto.signatures import Ed25519Verifier
    from kumiai.identity import files
    from kumiai.node.client.secure.known_peers import KnownPeers, clients_of
    from kumiai.secagg import verify_receipt

    content = files.read_file(file, "receipt")
    if not peers.exists():
        raise NotFoundError(f"known peers must exist, got no file at {peers}; give --peers")
    try:
        roster = clients_of(KnownPeers(peers).load())
        return verify_receipt(content, roster, verifier=Ed25519Verifier())
    except (SecureAggregationError, CryptoError) as error:
        raise IntegrityError(f"receipt {file} proves nothing: {error}") from error
