"""``kumiai ca``: root and issuers, members' certificates, revocation."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kumiai.core.errors import ConfigError, ConflictError
from kumiai.node.cli.invocation import invocation_of
from kumiai.node.cli.output import Table, emit, shown_time

if TYPE_CHECKING:
    from kumiai.identity import CertificateManager, IssuedRecord
    from kumiai.identity.index import AuthorityRecord
    from kumiai.identity.pkcs11 import KeyTokens, TokenKey

__all__ = ["app"]

app = typer.Typer(help="The federation's own certificates.", no_args_is_help=True)

_PASSPHRASE_VARIABLE = "KUMIAI_CA_PASSPHRASE"  # noqa: S105 - a name
Directory = Annotated[Path, typer.Option("--dir", help="The authority's folder.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help=f"Holds the authority key's passphrase; or set ${_PASSPHRASE_VARIABLE}."),
]
_MODULE_VARIABLE = "KUMIAI_PKCS11_MODULE"
_PIN_VARIABLE = "KUMIAI_PKCS11_PIN"
_PIN_FILE_VARIABLE = "KUMIAI_PKCS11_PIN_FILE"
RootURI = Annotated[
    str | None,
    typer.Option(
        "--pkcs11",
        metavar="URI",
        help="The root's key, in a token: 'pkcs11:token=…;object=…'. "
        f"The token's library is ${_MODULE_VARIABLE}.",
    ),
]
IssuerURI = Annotated[
    str | None,
    typer.Option("--issuer-pkcs11", metavar="URI", help="The issuer's key, in a token."),
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
    pkcs11: RootURI = None,
    issuer_pkcs11: IssuerURI = None,
    dry_run: DryRun = False,
) -> None:
    """Create the federation's certificate authority."""
    from kumiai.core.ids import verify_name

    invocation = invocation_of(ctx)
    verify_name("federation", federation)
    tokens = _tokens()
    manager = _manager(directory, passphrase_file, tokens=tokens)
    root_key, issuer_key = _token_key(tokens, pkcs11), _token_key(tokens, issuer_pkcs11)
    if not dry_run:
        manager.create(federation, ca_days=days, root_key=root_key, issuer_key=issuer_key)
    elif manager.certificate_path.exists():
        raise ConflictError(f"directory must not hold an authority yet, got one in {directory}")
    told = {"federation": federation, "ca": str(manager.certificate_path), "dry_run": dry_run}
    verb = "would create" if dry_run else "created"
    what = "root-….key" if root_key is None else "root's token"
    note = (
        f"{verb} the authority of {federation} in {directory}; back it up, take its {what} "
        f"away to where no network is, and give {manager.certificate_path.name} to every member"
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
def sign(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="coordinator, client or operator.")],
    name: Annotated[str, typer.Argument(help="The owner's name, such as site-1.")],
    request: Annotated[
        Path, typer.Argument(help="The owner's request, from `kumiai site request`.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Receives NAME.crt and ca.crt.")],
    directory: Directory = _HERE,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A coordinator's: name or address to connect to; repeatable."),
    ] = None,
    days: Annotated[int, typer.Option(help="Its life.")] = 365,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Issue a certificate for a key that stays where it is."""
    from kumiai.identity.files import new_private_directory, read_file
    from kumiai.identity.members import member_files
    from kumiai.identity.requests import REQUEST_SIZE_BYTES_MAX

    invocation = invocation_of(ctx)
    wanted = _role(role)
    target = member_files(out, name)
    csr = read_file(request, "request", size_bytes_max=REQUEST_SIZE_BYTES_MAX)
    if target.cert.exists():
        raise ConflictError(f"{target.cert} must not exist yet; choose another directory")
    manager = _manager(directory, passphrase_file)
    signed = manager.sign_request(csr, wanted, name, hosts=host or (), days=days)
    new_private_directory(out)
    target.save(chain=signed.chain, key=None, trust_bundle=signed.trust_bundle)
    told = {
        "role": wanted.value,
        "name": name,
        "serial": f"{signed.identity.serial:x}",
        "certificate": str(target.cert),
        "ca": str(target.ca),
    }
    note = f"signed {wanted.value} {name}; give {target.cert} and {target.ca} to its owner"
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def renew(
    ctx: typer.Context,
    certificate: Annotated[
        Path, typer.Argument(help="NAME.crt, beside which NAME.key and ca.crt lie.")
    ],
    *,
    directory: Directory = _HERE,
    days: Annotated[int, typer.Option(help="Its life.")] = 365,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Replace a certificate and its key by new ones for the same owner, in place."""
    invocation = invocation_of(ctx)
    issued = _manager(directory, passphrase_file).renew(certificate, days=days)
    told = {
        "role": issued.identity.role.value,
        "name": issued.identity.name,
        "serial": f"{issued.identity.serial:x}",
        "not_after": issued.identity.not_after,
        "certificate": str(issued.cert),
        "key": str(issued.key),
    }
    note = (
        f"renewed {issued.identity.role} {issued.identity.name} until "
        f"{shown_time(issued.identity.not_after)} UTC; whoever uses these files takes them up"
    )
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def delegate(
    ctx: typer.Context,
    *,
    out: Annotated[Path, typer.Option(help="Receives issuer.crt and issuer.key.")],
    directory: Directory = _HERE,
    days: Annotated[int, typer.Option(help="Its life.")] = 365,
    passphrase_file: PassphraseFile = None,
    issuer_passphrase_file: Annotated[
        Path | None, typer.Option(help="Holds the passphrase that seals the new issuer's key.")
    ] = None,
    issuer_pkcs11: IssuerURI = None,
) -> None:
    """Make an issuer for a coordinator, good for sites' clients alone."""
    invocation = invocation_of(ctx)
    passphrase = None
    if issuer_passphrase_file is not None:
        passphrase = _passphrase_in(issuer_passphrase_file, "--issuer-passphrase-file")
    tokens = _tokens()
    manager = _manager(directory, passphrase_file, tokens=tokens)
    made = manager.delegate(
        out_dir=out,
        days=days,
        passphrase=passphrase,
        issuer_key=_token_key(tokens, issuer_pkcs11),
    )
    told = {"serial": f"{made.serial:x}", "certificate": str(made.cert), "key": str(made.key)}
    note = (
        f"made the issuer {made.serial:x}; for the coordinator's kumiai.toml:\n\n"
        f'[sites]\nissuer_certificate = "{made.cert}"\nissuer_key = "{made.key}"'
    )
    emit(invocation.output, told, Table((), (), note=note))


@app.command("renew-intermediate")
def renew_intermediate(
    ctx: typer.Context,
    *,
    directory: Directory = _HERE,
    days: Annotated[int, typer.Option(help="Its life.")] = 3650,
    passphrase_file: PassphraseFile = None,
    issuer_pkcs11: IssuerURI = None,
) -> None:
    """Make a new issuer under the same root; what the old one signed stays good."""
    invocation = invocation_of(ctx)
    tokens = _tokens()
    manager = _manager(directory, passphrase_file, tokens=tokens)
    serial = manager.renew_intermediate(days=days, issuer_key=_token_key(tokens, issuer_pkcs11))
    note = f"made the issuer {serial:x}; it signs from now on, nobody needs to do anything"
    emit(invocation.output, {"serial": f"{serial:x}"}, Table((), (), note=note))


@app.command()
def rotate(
    ctx: typer.Context,
    *,
    directory: Directory = _HERE,
    days: Annotated[int, typer.Option(help="Life of the new root and issuer.")] = 3650,
    passphrase_file: PassphraseFile = None,
    pkcs11: RootURI = None,
    issuer_pkcs11: IssuerURI = None,
) -> None:
    """Make a new root and issuer; the old root stays trusted until `ca retire`."""
    invocation = invocation_of(ctx)
    tokens = _tokens()
    path = _manager(directory, passphrase_file, tokens=tokens).rotate(
        ca_days=days,
        root_key=_token_key(tokens, pkcs11),
        issuer_key=_token_key(tokens, issuer_pkcs11),
    )
    succession = path.with_name("succession.crt")
    told = {"ca": str(path), "succession": str(succession) if succession.exists() else None}
    note = (
        f"made a new root; bring {path} and {succession} to every coordinator, whose clients "
        "follow by themselves, and the first to operators"
        if succession.exists()
        else f"made a new root, for which the old one's key was not here to vouch; bring {path} to "
        "every coordinator, then to every member"
    )
    note += "; issue all certificates anew, and finish with `kumiai ca retire`"
    emit(invocation.output, told, Table((), (), note=note))


@app.command()
def retire(
    ctx: typer.Context,
    *,
    directory: Directory = _HERE,
    passphrase_file: PassphraseFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if certificates under it are in use.")
    ] = False,
) -> None:
    """Trust the newest root alone: finish a change of root."""
    invocation = invocation_of(ctx)
    path = _manager(directory, passphrase_file).retire(even_if_used=force)
    note = f"the newest root alone is trusted; bring {path} to the coordinator and every member"
    emit(invocation.output, {"ca": str(path)}, Table((), (), note=note))


@app.command()
def issuers(ctx: typer.Context, directory: Directory = _HERE) -> None:
    """List the roots and the issuers, the newest first."""
    invocation = invocation_of(ctx)
    manager = _manager(directory, None, needs_key=False)
    records = [_told_issuer(record) for record in manager.list_authorities()]
    rows = [
        (
            each["kind"],
            f"{shown_time(each['not_after'])}",
            f"revoked: {each['reason']}" if each["revoked_at"] else "good",
            each["serial"],
            each["root"],
        )
        for each in records
    ]
    columns = ("kind", "valid to (UTC)", "state", "serial", "signed by")
    emit(invocation.output, records, Table(columns, rows))


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
    """Revoke a certificate, all of one owner, or an issuer, and write the revocation list."""
    invocation = invocation_of(ctx)
    manager = _manager(directory, passphrase_file)
    owner = None if role is None else _role(role)
    serials = {record.serial for record in manager.list_issued()}
    serials |= {record.serial for record in manager.list_authorities()}
    serial_or_name = _target(target, serials)
    if not dry_run:
        manager.revoke(serial_or_name, reason, role=owner)
    told = [
        _told(record)
        for record in manager.list_issued()
        if serial_or_name in {record.serial, record.name} and owner in {None, record.role}
    ]
    issuers = [each for each in manager.list_authorities() if each.serial == serial_or_name]
    told += [_told_issuer(record) for record in issuers]
    verb = "would revoke" if dry_run else "revoked"
    note = (
        f"{verb} {len(told)} of {target}; bring {manager.revocation_list_path} to every "
        "coordinator's identity.crl"
    )
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
    directory: Path,
    passphrase_file: Path | None,
    *,
    needs_key: bool = True,
    tokens: "KeyTokens | None" = None,
) -> "CertificateManager":
    from kumiai.core.clock import SystemClock
    from kumiai.identity import CertificateManager

    passphrase = _passphrase(directory, passphrase_file) if needs_key else None
    return CertificateManager(
        directory, clock=SystemClock(), passphrase=passphrase, tokens=tokens or _tokens()
    )


def _tokens() -> "KeyTokens":
    from kumiai.identity.pkcs11 import KeyTokens

    module = os.environ.get(_MODULE_VARIABLE)
    return KeyTokens(Path(module) if module else None, _pin)


def _token_key(tokens: "KeyTokens", uri: str | None) -> "TokenKey | None":
    from kumiai.identity.pkcs11_uri import KeyURI

    return None if uri is None else tokens.key(KeyURI.parse(uri))


def _pin(token: str) -> str | None:
    """Return a token's PIN from the file, the environment or the terminal."""
    from kumiai.identity.pkcs11 import pin_in

    if file := os.environ.get(_PIN_FILE_VARIABLE):
        return pin_in(Path(file))
    if _PIN_VARIABLE in os.environ:
        return os.environ[_PIN_VARIABLE]
    if not sys.stdin.isatty():
        return None
    text: str = typer.prompt(f"PIN of token {token}", hide_input=True, err=True)
    return text


def _passphrase(directory: Path, file: Path | None) -> bytes | None:
    """Return the passphrase from the file, the environment or, for a sealed key, the terminal."""
    if file is not None:
        return _passphrase_in(file, "--passphrase-file")
    if _PASSPHRASE_VARIABLE in os.environ:
        return os.environ[_PASSPHRASE_VARIABLE].encode()
    if any(directory.glob("*.key.sealed")):
        text: str = typer.prompt("passphrase of the authority's keys", hide_input=True, err=True)
        return text.encode()
    return None


def _passphrase_in(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"{option} must be readable, got {error.strerror} for {file}") from error


def _role(text: str) -> Any:
    from kumiai.identity import Role

    try:
        return Role(text)
    except ValueError:
        raise ConfigError(f"role must be one of {', '.join(Role)}, got {text!r}") from None


def _target(text: str, serials: set[int]) -> str | int:
    """Return the serial number if the text is one that was given, else the name."""
    return {f"{serial:x}": serial for serial in serials}.get(text.lower(), text)


def _told_issuer(record: "AuthorityRecord") -> dict[str, Any]:
    return {
        "kind": record.kind.value,
        "serial": f"{record.serial:x}",
        "root": f"{record.root:x}",
        "not_after": record.not_after,
        "revoked_at": record.revoked_at,
        "reason": None if record.reason is None else record.reason.value,
    }


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
