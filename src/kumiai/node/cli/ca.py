"""``kumiai ca``: init, issue, revoke, list, crl."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError, ConflictError
from kumiai.node.cli.invocation import invocation_of
from kumiai.node.cli.output import Table, emit, shown_time

if TYPE_CHECKING:
    from kumiai.identity import CertificateManager, IssuedRecord

__all__ = ["app"]

app = typer.Typer(help="The federation's own certificates.", no_args_is_help=True)

_PASSPHRASE_VARIABLE = "KUMIAI_CA_PASSPHRASE"  # noqa: S105 - a name
Directory = Annotated[Path, typer.Option("--dir", help="The authority's folder.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help=f"Holds the authority key's passphrase; or set ${_PASSPHRASE_VARIABLE}."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and tell, but change nothing.")]
_HERE = Path("ca")


@app.command()
def init(
    ctx: typer.Context,
    federation: Annotated[str, typer.Argument(help="The federation's name.")],
    *,
    directory: Directory = _HERE,
    days: Annotated[int, typer.Option(help="Life of the authority's certificate.")] = 3650,
    passphrase_file: PassphraseFile = None,
    dry_run: DryRun = False,
) -> None:
    """Create the federation's certificate authority."""
    from kumiai.core.ids import verify_name

    invocation = invocation_of(ctx)
    verify_name("federation", federation)
    manager = _manager(directory, passphrase_file)
    if not dry_run:
        manager.create(federation, ca_days=days)
    elif manager.certificate_path.exists():
        raise ConflictError(f"directory must not hold an authority yet, got one in {directory}")
    told = {"federation": federation, "ca": str(manager.certificate_path), "dry_run": dry_run}
    verb = "would create" if dry_run else "created"
    note = (
        f"{verb} the authority of {federation} in {directory}; keep its key offline, back it up, "
        f"and give {manager.certificate_path.name} to every member"
    )
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def issue(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="coordinator, client or operator.")],
    name: Annotated[str, typer.Argument(help="The owner's name, such as site-1.")],
    *,
    out: Annotated[Path, typer.Option(help="Receives NAME.crt, NAME.key and ca.crt.")],
    directory: Directory = _HERE,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A coordinator's: name or address to connect to; repeatable."),
    ] = None,
    days: Annotated[int, typer.Option(help="Its life.")] = 365,
    passphrase_file: PassphraseFile = None,
    dry_run: DryRun = False,
) -> None:
    """Issue a certificate with a new key."""
    from kumiai.core.ids import verify_name

    invocation = invocation_of(ctx)
    wanted = _role(role)
    verify_name("name", name)
    manager = _manager(directory, passphrase_file)
    if dry_run:
        manager.list_issued()
        files = {
            "certificate": out / f"{name}.crt",
            "key": out / f"{name}.key",
            "ca": out / "ca.crt",
        }
    else:
        issued = manager.issue(wanted, name, hosts=host or (), days=days, out_dir=out)
        files = {"certificate": issued.cert, "key": issued.key, "ca": issued.ca}
    told = {"role": wanted.value, "name": name, "dry_run": dry_run}
    told |= {key: str(path) for key, path in files.items()}
    lines = "\n".join(f'{key} = "{path}"' for key, path in files.items())
    verb = "would issue" if dry_run else "issued"
    note = f"{verb} {wanted.value} {name}; for its kumiai.toml:\n\n[identity]\n{lines}"
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def revoke(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="NAME|SERIAL", help="A name, or a serial number as listed.")
    ],
    *,
    reason: Annotated[str, typer.Option(help="Such as key-compromise or superseded.")] = (
        "unspecified"
    ),
    role: Annotated[
        str | None, typer.Option(help="Needed where two roles have owners of that name.")
    ] = None,
    directory: Directory = _HERE,
    passphrase_file: PassphraseFile = None,
    dry_run: DryRun = False,
) -> None:
    """Revoke a certificate, or all of one owner, and write the revocation list."""
    invocation = invocation_of(ctx)
    manager = _manager(directory, passphrase_file)
    owner = None if role is None else _role(role)
    serial_or_name = _target(target, manager.list_issued())
    if not dry_run:
        manager.revoke(serial_or_name, reason, role=owner)
    revoked = [
        record
        for record in manager.list_issued()
        if serial_or_name in {record.serial, record.name} and owner in {None, record.role}
    ]
    verb = "would revoke" if dry_run else "revoked"
    note = (
        f"{verb} {len(revoked)} of {target}; bring {manager.revocation_list_path} to every "
        "coordinator's identity.crl"
    )
    told = [_told(record) for record in revoked]
    emit(invocation.output, told, Table((), (), note=note))


@app.command("list")
def list_certificates(ctx: typer.Context, directory: Directory = _HERE) -> None:
    """List every certificate that the authority has issued."""
    invocation = invocation_of(ctx)
    records = [_told(record) for record in _manager(directory, None, needs_key=False).list_issued()]
    rows = [
        (
            each["role"],
            each["name"],
            f"{shown_time(each['not_after'])}",
            f"revoked: {each['reason']}" if each["revoked_at"] else "issued",
            each["serial"],
            ", ".join(each["hosts"]) or "-",
        )
        for each in records
    ]
    columns = ("role", "name", "valid to (UTC)", "state", "serial", "hosts")
    note = "" if rows else "no certificates yet; issue one with `kumiai ca issue`"
    emit(invocation.output, records, Table(columns, rows, note))


@app.command()
def crl(
    ctx: typer.Context,
    directory: Directory = _HERE,
    passphrase_file: PassphraseFile = None,
    dry_run: DryRun = False,
) -> None:
    """Write a fresh revocation list; do it at least once a year."""
    invocation = invocation_of(ctx)
    manager = _manager(directory, passphrase_file)
    count = sum(record.is_revoked for record in manager.list_issued())
    if not dry_run:
        manager.revocation_list()
    told = {"crl": str(manager.revocation_list_path), "revoked": count, "dry_run": dry_run}
    verb = "would write" if dry_run else "wrote"
    note = f"{verb} {manager.revocation_list_path}: {count} certificates revoked"
    emit(invocation.output, told, Table((), (), note=note))


def _manager(
    directory: Path, passphrase_file: Path | None, *, needs_key: bool = True
) -> "CertificateManager":
    from kumiai.core.clock import SystemClock
    from kumiai.identity import CertificateManager

    passphrase = _passphrase(directory, passphrase_file) if needs_key else None
    return CertificateManager(directory, clock=SystemClock(), passphrase=passphrase)


def _passphrase(directory: Path, file: Path | None) -> bytes | None:
    """Return the passphrase from the file, the environment or, for a sealed key, the terminal."""
    if file is not None:
        try:
            return file.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise ConfigError(
                f"--passphrase-file must be readable, got {error.strerror} for {file}"
            ) from error
    if _PASSPHRASE_VARIABLE in os.environ:
        return os.environ[_PASSPHRASE_VARIABLE].encode()
    if (directory / "ca.key.sealed").exists():
        text: str = typer.prompt("passphrase of the authority's key", hide_input=True, err=True)
        return text.encode()
    return None


def _role(text: str) -> Any:
    from kumiai.identity import Role

    try:
        return Role(text)
    except ValueError:
        raise ConfigError(f"role must be one of {', '.join(Role)}, got {text!r}") from None


def _target(text: str, records: "tuple[IssuedRecord, ...]") -> str | int:
    """Return the serial number if the text is one of an issued certificate, else the name."""
    serials = {f"{record.serial:x}": record.serial for record in records}
    return serials.get(text.lower(), text)


def _told(record: "IssuedRecord") -> dict[str, Any]:
    return {
        "role": record.role.value,
        "name": record.name,
        "serial": f"{record.serial:x}",
        "hosts": list(record.hosts),
        "not_before": record.not_before,
        "not_after": record.not_after,
        "revoked_at": record.revoked_at,
        "reason": None if record.reason is None else record.reason.value,
    }
