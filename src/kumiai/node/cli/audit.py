"""``kumiai audit``: show, verify, prove, checkpoint, export, redact."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError, StorageError
from kumiai.node.cli.invocation import Invocation, invocation_of
from kumiai.node.cli.listing import Cursor, Limit, tell_cursor
from kumiai.node.cli.output import Table, emit, shown_time

if TYPE_CHECKING:
    from kumiai.identity import TrustBundle
    from kumiai.identity.audit import Checkpoint
    from kumiai.node.auditing.evidence import VerifiedLog
    from kumiai.node.auditing.kept import KeptCheckpoint
    from kumiai.node.operator.client import OperatorClient

__all__ = ["app"]

app = typer.Typer(
    help="Who did what, in a log that nobody can rewrite unseen.", no_args_is_help=True
)

_SHOWN_CHARACTERS = 60

Trusted = Annotated[
    Path | None,
    typer.Option(
        "--trusted",
        metavar="FILE",
        help="A checkpoint kept elsewhere, of `audit checkpoint` or of a client's folder.",
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="The file; it must not exist.")
]


@app.command()
def show(
    ctx: typer.Context,
    *,
    act: Annotated[
        list[str] | None, typer.Option(help="Only this act, such as run.created; repeatable.")
    ] = None,
    outcome: Annotated[str | None, typer.Option(help="Only done, refused or failed.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only about this, such as run/ID.")] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only of this name or address, or of role/name.")
    ] = None,
    since: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Not before; since 1970 UTC.")
    ] = None,
    until: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Before; since 1970 UTC.")
    ] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="The oldest first.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> None:
    """Show entries, the newest first."""
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        listing = client.audit_entries(
            act=act,
            outcome=outcome,
            subject=subject,
            actor=actor,
            at_from=since,
            at_before=until,
            order="oldest" if oldest else "newest",
            limit=limit,
            cursor=cursor,
        )
    rows = [_row(entry) for entry in listing.items]
    columns = ("seq", "time", "act", "outcome", "actor", "subject", "detail")
    note = "" if rows else "no entries"
    emit(invocation.output, listing.items, Table(columns if rows else (), rows, note))
    tell_cursor(listing.cursor)


@app.command()
def verify(
    ctx: typer.Context,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", help="An export, instead of the database.")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", help="A proof of one entry; with --trusted.")
    ] = None,
    trusted: Trusted = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="The federation's ca.crt; default: identity.ca.")
    ] = None,
) -> None:
    """Check the log in the database, an export or a proof; exit code 7 if it was rewritten.

    Without a file it reads the database itself, where the coordinator's settings are.
    """
    from kumiai.identity import TrustBundle

    invocation = invocation_of(ctx)
    if file is not None and proof is not None:
        raise ConfigError("--file or --proof must be given alone, got both")
    trust = TrustBundle.load(ca if ca is not None else invocation.settings.identity.ca)
    kept = None if trusted is None else _kept(trusted, trust)
    if proof is not None:
        _verify_proof(invocation, proof, kept, trust)
        return
    point = None if kept is None else kept.checkpoint
    if file is not None:
        from kumiai.node.auditing.export import verify_export

        found = verify_export(_lines(file), trust, point)
    else:
        found = _verify_database(invocation, trust, point)
    _tell_verified(invocation, found)


@app.command()
def prove(
    ctx: typer.Context,
    sequence: Annotated[int, typer.Argument(metavar="SEQ", min=0, help="The entry's number.")],
    *,
    out: Out = None,
) -> None:
    """Write the proof that an entry stands in the signed log."""
    invocation = invocation_of(ctx)
    target = _vacant(out or Path(f"audit-{sequence}.proof.json"))
    with _client(invocation) as client:
        content = client.audit_proof(sequence)
    _write(target, content)
    told = {"sequence": sequence, "file": str(target), "size_bytes": len(content)}
    note = f"wrote {target}, {len(content)} bytes; check it with `kumiai audit verify --proof`"
    emit(invocation.output, told, Table((), (), note))


@app.command()
def checkpoint(ctx: typer.Context, *, out: Out = None) -> None:
    """Write the newest signed checkpoint, to be kept elsewhere and compared with later."""
    from kumiai.identity import TrustBundle
    from kumiai.node.auditing.kept import KeptCheckpoint

    invocation = invocation_of(ctx)
    target = _vacant(out or Path("audit-checkpoint.json"))
    with _client(invocation) as client:
        content = client.audit_checkpoint()
    kept = KeptCheckpoint.from_json(content)
    trust = TrustBundle.load(invocation.settings.identity.ca)
    kept.key.verify(trust, at=kept.checkpoint.at_us / 1e6)
    _write(target, content)
    signed_at = kept.checkpoint.at_us / 1e6
    told = {"size": kept.checkpoint.size, "at": signed_at, "file": str(target)}
    note = f"wrote {target}: {kept.checkpoint.size} entries, signed {shown_time(signed_at)} UTC"
    emit(invocation.output, told, Table((), (), note))


@app.command()
def export(ctx: typer.Context, *, out: Out = None) -> None:
    """Write the whole log as lines of JSON, persons as pseudonyms, and check it."""
    from kumiai.identity import TrustBundle
    from kumiai.node.auditing.export import verify_export

    invocation = invocation_of(ctx)
    target = _vacant(out or Path("audit.jsonl"))
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _client(invocation) as client, partial.open("xb") as file:
            client.export_audit(file.write)
        found = verify_export(_lines(partial), TrustBundle.load(invocation.settings.identity.ca))
        partial.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    told = {"size": found.size, "signed_size": found.signed_size, "file": str(target)}
    note = f"wrote {target}: {found.size} entries, {found.signed_size} of them signed"
    emit(invocation.output, told, Table((), (), note))


@app.command()
def redact(
    ctx: typer.Context,
    person: Annotated[str, typer.Argument(metavar="PERSON", help="role/name, or address/ADDRESS.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; it stands in the log.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Needed: nothing brings it back.")] = False,
) -> None:
    """Make a person in all entries so far unreadable for ever; the hashes stay as they are."""
    kind, separator, name = person.partition("/")
    if not separator or not name:
        raise ConfigError(f"PERSON must be role/name or address/ADDRESS, got {person!r}")
    if not yes:
        raise ConfigError(
            f"--yes must be given to redact {person}, got none: names and addresses of this "
            "person in all entries so far can never be read again"
        )
    invocation = invocation_of(ctx)
    with _client(invocation) as client:
        told = client.redact_audit(kind, name, reason)
    note = f"{person} is redacted; the pseudonym {told['person'][:12]} remains"
    emit(invocation.output, told, Table((), (), note))


def _client(invocation: Invocation) -> "OperatorClient":
    from kumiai.node.operator.client import OperatorClient

    return OperatorClient.of(invocation.settings_for("operator"))


def _kept(path: Path, trust: "TrustBundle") -> "KeptCheckpoint":
    from kumiai.identity import files
    from kumiai.node.auditing.kept import KeptCheckpoint

    kept = KeptCheckpoint.from_json(files.read_file(path, "trusted checkpoint"))
    kept.key.verify(trust, at=kept.checkpoint.at_us / 1e6)
    return kept


def _verify_proof(
    invocation: Invocation, path: Path, kept: "KeptCheckpoint | None", trust: "TrustBundle"
) -> None:
    from kumiai.identity import files
    from kumiai.identity.audit import EntryProof
    from kumiai.node.auditing.evidence import TrustedKeys

    if kept is None:
        raise ConfigError(
            "--trusted must be given with --proof, got none: it names the key that signed; write "
            "one with `kumiai audit checkpoint`"
        )
    proof = EntryProof.from_json(files.read_file(path, "proof"))
    entry, point = TrustedKeys([kept.key.to_json()], trust).prove(proof)
    told = {
        "sequence": entry.sequence,
        "at": entry.at,
        "act": entry.act,
        "outcome": entry.outcome,
        "subject": entry.subject,
        "checkpoint_size": point.size,
    }
    note = (
        f"entry {entry.sequence} stands in the log as it was signed at {point.size} entries: "
        f"{entry.act} {entry.subject}, {entry.outcome}, {shown_time(entry.at)} UTC"
    )
    emit(invocation.output, told, Table((), (), note))


def _verify_database(
    invocation: Invocation, trust: "TrustBundle", trusted: "Checkpoint | None"
) -> "VerifiedLog":
    import asyncio

    from kumiai.identity.audit import AuditScribe
    from kumiai.node.assembly.database import database_file, new_database
    from kumiai.node.auditing.evidence import AuditEvidence, TrustedKeys
    from kumiai.storage import AuditLog

    settings = invocation.settings
    path = database_file(settings)
    if path is not None and not path.exists():
        raise NotFoundError(
            f"database must exist, got no file {path}; run this where the coordinator's settings "
            "are, or check an export with --file"
        )

    async def verified() -> "VerifiedLog":
        database = new_database(settings)
        try:
            await database.connect()
            await database.verify_schema()
            log = AuditLog(database, AuditScribe())
            keys = TrustedKeys(await log.signers(), trust)
            return await AuditEvidence(log).verify(keys, trusted)
        finally:
            await database.close()

    return asyncio.run(verified())


def _tell_verified(invocation: Invocation, found: "VerifiedLog") -> None:
    told = {
        "size": found.size,
        "signed_size": found.signed_size,
        "checkpoint_count": found.checkpoint_count,
    }
    note = (
        f"all {found.size} entries are as they were written; {found.checkpoint_count} signed "
        f"checkpoints vouch for the first {found.signed_size}"
    )
    emit(invocation.output, told, Table((), (), note))


def _lines(path: Path) -> Iterator[bytes]:
    from kumiai.node.auditing.export import EXPORT_LINE_BYTES_MAX

    try:
        with path.open("rb") as file:
            while line := file.readline(EXPORT_LINE_BYTES_MAX + 1):
                yield line
    except FileNotFoundError as error:
        raise NotFoundError(f"export must exist, got no file at {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _vacant(path: Path) -> Path:
    if path.exists():
        raise ConflictError(f"file must not exist yet, got {path}; choose another with --out")
    return path


def _write(path: Path, content: bytes) -> None:
    from kumiai.identity import files

    files.write_atomic(path, content, mode=0o644)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    actor = entry["actor"]
    who = actor["name"] or ("redacted" if actor["is_redacted"] else actor["address"] or "-")
    detail = ", ".join(f"{name} {value}" for name, value in entry["detail"].items())
    return (
        str(entry["sequence"]),
        shown_time(entry["at"]),
        entry["act"],
        entry["outcome"],
        f"{actor['role']}/{who}",
        entry["subject"] or "-",
        detail[:_SHOWN_CHARACTERS] or "-",
    )
