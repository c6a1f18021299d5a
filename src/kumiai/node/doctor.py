"""``kumiai doctor``: what can be seen from this machine before something fails.

Every check gives one finding, good or bad; a bad one ends with what to do. Nothing is changed: no
database is created, no folder made. Checks look at this process's role alone, which its
certificate tells. Blocks on files and the network.
"""

import asyncio
import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import grpc
import httpx

from kumiai.core.clock import Clock
from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    KumiaiError,
    NotFoundError,
    SchemaError,
    TransportError,
)
from kumiai.identity import (
    Identity,
    RevocationList,
    Role,
    client_context,
    identity_of,
    verify_own_certificate,
)
from kumiai.node.assembly.blobs import new_blob_store
from kumiai.node.operator.client import OperatorClient, address_of
from kumiai.node.ports import diagnose_port
from kumiai.node.settings import Settings, split_address
from kumiai.node.study import load_app
from kumiai.node.wire.channel import ATTACH
from kumiai.storage import DatabaseManager, RedisHealth, RedisManager

__all__ = ["Finding", "State", "examine"]

_CERTIFICATE_BYTES_MAX: Final = 64 * 1024
_DAY_SECONDS: Final = 86_400.0
_EXPIRY_WARNING_DAYS: Final = 30
_CONNECT_SECONDS: Final = 5.0
_BUCKET_SECONDS: Final = 5.0
_SKEW_WARNING_SECONDS: Final = 5.0
_SKEW_WRONG_SECONDS: Final = 60.0
_DISK_WARNING_BYTES: Final = 5 * 10**9
_DISK_WRONG_BYTES: Final = 200 * 10**6


class State(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    WARNING = "warn"
    WRONG = "WRONG"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has seen.

    Attributes:
        check: what was looked at.
        state: how it is.
        text: what was seen.
        mend: what to do; empty where nothing is to be done.
    """

    check: str
    state: State
    text: str
    mend: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether something does not work as it is."""
        return self.state is State.WRONG


def examine(settings: Settings, *, clock: Clock, role: str | None = None) -> list[Finding]:
    """Return what all checks for a role have found.

    Args:
        settings: with absolute paths.
        clock: this machine's.
        role: coordinator, client or operator; ``None``: the certificate's.

    Raises:
        ConfigError: there is no such role.
    """
    wanted = _role(settings, role)
    findings = [_certificate(settings, clock, wanted)]
    if settings.identity.crl is not None:
        findings.append(_revocation_list(settings, settings.identity.crl, clock))
    match wanted:
        case Role.COORDINATOR:
            findings += _ports(settings)
            findings.append(_disk(settings.coordinator.data_dir, "coordinator.data_dir"))
            findings.append(_database(settings))
            if settings.storage.redis is not None:
                findings.append(_redis(settings.storage.redis.get_secret_value()))
            if settings.storage.blobs is not None:
                findings.append(_bucket(settings))
            findings += _studies(settings.coordinator.apps, "coordinator.apps")
        case Role.CLIENT:
            host, port = split_address(settings.client.coordinator)
            findings.append(_client_connection(settings, host, port))
            findings.append(_disk(settings.client.state_dir, "client.state_dir"))
            findings += _site_studies(settings)
        case Role():
            findings += _operator_connection(settings, clock)
        case None:
            findings.append(
                Finding(
                    "role",
                    State.SKIPPED,
                    "without a certificate the other checks have no role to look for",
                    "issue one with `kumiai ca issue`, or name the role with --role",
                )
            )
    return findings


def _role(settings: Settings, role: str | None) -> Role | None:
    if role is not None:
        try:
            return Role(role)
        except ValueError:
            raise ConfigError(f"role must be one of {', '.join(Role)}, got {role!r}") from None
    own = _find_identity(settings)
    return None if own is None else own.role


def _find_identity(settings: Settings) -> Identity | None:
    try:
        return _identity(settings.identity.certificate)
    except KumiaiError:
        return None


def _identity(path: Path) -> Identity:
    try:
        with path.open("rb") as file:
            return identity_of(file.read(_CERTIFICATE_BYTES_MAX))
    except OSError as error:
        raise NotFoundError(
            f"certificate must be readable, got {error.strerror} for {path}"
        ) from error


# --------------------------------------------------------------------------------- certificates


def _certificate(settings: Settings, clock: Clock, role: Role | None) -> Finding:
    identity = settings.identity
    try:
        own = verify_own_certificate(
            identity.certificate,
            identity.key,
            identity.ca,
            clock,
            role=role or _identity(identity.certificate).role,
        )
    except KumiaiError as error:
        return _wrong("certificate", error, "set [identity] to files from `kumiai ca issue`")
    days = (own.not_after - clock.now()) / _DAY_SECONDS
    text = f"{own.uri}, valid for {days:.0f} days more"
    if days < _EXPIRY_WARNING_DAYS:
        mend = f"issue the next one with `kumiai ca issue {own.role} {own.name}`"
        return Finding("certificate", State.WARNING, text, mend)
    return Finding("certificate", State.OK, text)


def _revocation_list(settings: Settings, path: Path, clock: Clock) -> Finding:
    mend = "bring the newest ca.crl from the authority; `kumiai ca crl` writes one"
    try:
        revocations = RevocationList.load(path, settings.identity.ca, now=clock.now())
    except KumiaiError as error:
        return _wrong("revocation list", error, mend)
    if (own := _find_identity(settings)) is not None and revocations.is_revoked(own.serial):
        return Finding(
            "revocation list",
            State.WRONG,
            f"it names this certificate, {own.uri} with serial {own.serial:x}",
            f"ask the federation's operator for a new one, `kumiai ca issue {own.role} {own.name}`",
        )
    days = (revocations.next_update - clock.now()) / _DAY_SECONDS
    text = f"number {revocations.number}, {len(revocations.serials)} revoked, {days:.0f} days more"
    if days < _EXPIRY_WARNING_DAYS:
        return Finding("revocation list", State.WARNING, text, mend)
    return Finding("revocation list", State.OK, text)


# ------------------------------------------------------------------------------ ports and peers


def _ports(settings: Settings) -> Iterator[Finding]:
    for key in ("listen", "http_listen"):
        address = getattr(settings.coordinator, key)
        yield _port(address, f"coordinator.{key}", settings.coordinator.data_dir)


def _port(address: str, key: str, data_dir: Path) -> Finding:
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_running(data_dir):
            return Finding("port", State.OK, f"{address} is held by the coordinator that runs here")
        reason = (error.strerror or str(error)).lower()
        return Finding(
            "port",
            State.WRONG,
            f"{address} can not be opened: {reason}",
            f"stop what holds it, or set {key} to a free address of this machine",
        )
    return Finding("port", State.OK, f"{address} is free")


def _is_running(data_dir: Path) -> bool:
    """Whether a coordinator holds the folder; asking takes and leaves its lock."""
    try:
        with (data_dir / "coordinator.lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    except OSError:
        pass
    return False


def _client_connection(settings: Settings, host: str, port: int) -> Finding:
    return _connection(
        settings,
        diagnose_port("clients", host, port, *_own_files(settings), _CONNECT_SECONDS)
        or _session_refusal(settings),
        "client.coordinator",
    )


def _operator_connection(settings: Settings, clock: Clock) -> Iterator[Finding]:
    try:
        host, port = address_of(settings.operator.url)
    except ConfigError as error:
        yield _wrong("connection", error, "set operator.url")
        return
    hindrance = diagnose_port("operators", host, port, *_own_files(settings), _CONNECT_SECONDS)
    yield _connection(settings, hindrance or _operator_refusal(settings), "operator.url")
    if hindrance is None:
        yield _clock(settings, clock)


def _connection(settings: Settings, error: KumiaiError | None, key: str) -> Finding:
    if error is not None:
        return _wrong("connection", error, f"see that {key} names the coordinator")
    at = settings.operator.url if key == "operator.url" else settings.client.coordinator
    return Finding("connection", State.OK, f"{at} answers and lets this certificate in")


def _own_files(settings: Settings) -> tuple[Path, Path, Path]:
    identity = settings.identity
    return identity.certificate, identity.key, identity.ca


def _session_refusal(settings: Settings) -> KumiaiError | None:
    """Return why the coordinator lets this client into no session.

    TLS knows nothing of roles and revocation: the coordinator judges them at each call. So a
    session is opened in which nothing is said. Who is let in hears that a hello is missing.
    """
    certificate, key, ca = (path.read_bytes() for path in _own_files(settings))
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(settings.client.coordinator, credentials, options) as channel:
        call = channel.stream_stream(ATTACH)(iter(()), timeout=_CONNECT_SECONDS)
        code, details = call.code(), call.details()
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return None
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return CertificateError(details)
        case _:
            return TransportError(f"no session can be opened: {details or code.name.lower()}")


def _operator_refusal(settings: Settings) -> KumiaiError | None:
    """Return why the coordinator answers this operator nothing; see `_session_refusal`."""
    try:
        with OperatorClient.of(settings) as client:
            client.info()
    except KumiaiError as error:
        return error
    return None


def _clock(settings: Settings, clock: Clock) -> Finding:
    """Compare this machine's clock with the coordinator's, which dates its answers in seconds."""
    identity = settings.identity
    context = client_context(identity.certificate, identity.key, identity.ca)
    began = clock.now()
    try:
        answer = httpx.get(
            f"{settings.operator.url}/healthz",
            verify=context,
            trust_env=False,
            timeout=_CONNECT_SECONDS,
        )
        theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (httpx.HTTPError, KeyError, ValueError):
        return Finding("clock", State.SKIPPED, "the coordinator does not tell its time")
    # The answer's time is cut to the second, somewhere between asking and now.
    skew = (began + clock.now()) / 2 - (theirs + 0.5)
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the coordinator's"
    mend = "set this machine's clock or the coordinator's, best by NTP"
    if abs(skew) > _SKEW_WRONG_SECONDS:
        return Finding("clock", State.WRONG, text, mend)
    if abs(skew) > _SKEW_WARNING_SECONDS:
        return Finding("clock", State.WARNING, text, mend)
    return Finding("clock", State.OK, "as the coordinator's")


# --------------------------------------------------------------------------- disk and database


def _disk(folder: Path, key: str) -> Finding:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "disk",
            State.WRONG,
            f"{existing} can not be written",
            f"let this user write there, or set {key} to another folder",
        )
    free = shutil.disk_usage(existing).free
    text = f"{folder}: {free / 1e9:.1f} GB free"
    mend = f"make room, or set {key} to a folder with more"
    if free < _DISK_WRONG_BYTES:
        return Finding("disk", State.WRONG, text, mend)
    if free < _DISK_WARNING_BYTES:
        return Finding("disk", State.WARNING, text, mend)
    return Finding("disk", State.OK, text)


def _database(settings: Settings) -> Finding:
    secret = settings.storage.database
    if secret is None:
        url = f"sqlite:///{settings.coordinator.data_dir / 'kumiai.db'}"
    else:
        url = secret.get_secret_value()
    file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if file is not None and not file.exists():
        # Connecting would create it, and here nothing is changed.
        return Finding("database", State.OK, f"{file} will be created at the first start")
    try:
        return asyncio.run(_examine_database(DatabaseManager(url)))
    except KumiaiError as error:
        return _wrong("database", error, "set storage.database")


async def _examine_database(database: DatabaseManager) -> Finding:
    try:
        await database.connect()
        seconds = await database.check()
        try:
            await database.verify_schema()
        except SchemaError as error:
            if "newer" in str(error):
                raise
            return Finding(
                "database",
                State.OK,
                f"{database.dialect} answers; its schema is brought up at the coordinator's start",
            )
    finally:
        await database.close()
    return Finding(
        "database",
        State.OK,
        f"{database.dialect} answers in {1000 * seconds:.0f} ms, its schema fits",
    )


def _redis(url: str) -> Finding:
    async def look() -> RedisHealth:
        manager = RedisManager(url=url)
        try:
            await manager.initialize()
            return await manager.check()
        finally:
            await manager.close()

    try:
        health = asyncio.run(look())
    except ConfigError as error:
        return _wrong("redis", error, "set storage.redis")
    except KumiaiError as error:
        # A coordinator starts without it, and takes it up when it is there.
        return replace(_wrong("redis", error, "see that it runs"), state=State.WARNING)
    return Finding("redis", State.OK, f"answers in {1000 * (health.latency_seconds or 0):.0f} ms")


def _bucket(settings: Settings) -> Finding:
    patience = min(settings.storage.s3_timeout_seconds, _BUCKET_SECONDS)
    storage = settings.storage.model_copy(update={"s3_timeout_seconds": patience})

    async def look(folder: Path) -> None:
        # A folder of its own: the coordinator's may be in use.
        coordinator = settings.coordinator.model_copy(update={"data_dir": folder})
        store = new_blob_store(
            settings.model_copy(update={"storage": storage, "coordinator": coordinator})
        )
        try:
            await store.check()
        finally:
            await store.close()

    try:
        with tempfile.TemporaryDirectory(prefix="kumiai-doctor-") as folder:
            asyncio.run(look(Path(folder)))
    except KumiaiError as error:
        return _wrong("bucket", error, "see storage.blobs and the keys for it")
    return Finding("bucket", State.OK, f"{settings.storage.blobs} may be listed")


# -------------------------------------------------------------------------------------- studies


def _site_studies(settings: Settings) -> list[Finding]:
    if settings.client.apps:
        return list(_studies(settings.client.apps, "client.apps"))
    return [
        Finding(
            "studies",
            State.WRONG,
            "this site has no study to train",
            'set client.apps, such as client.apps = ["study.py"]',
        )
    ]


def _studies(references: tuple[str, ...], key: str) -> Iterator[Finding]:
    for reference in references:
        yield _study(reference, key)


def _study(reference: str, key: str, *, load: Callable[..., object] = load_app) -> Finding:
    try:
        app = load(reference)
    except KumiaiError as error:
        return _wrong("study", error, f"mend the study, or {key}")
    return Finding("study", State.OK, f"{reference} holds {app!r}")


def _wrong(check: str, error: KumiaiError, mend: str) -> Finding:
    """Return a finding that ends with the mend: the error's own if it has one, else ours."""
    text, separator, own = str(error).partition("; ")
    return Finding(check, State.WRONG, text, own if separator else mend)
