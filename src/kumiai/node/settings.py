"""Everything that can be set, as validated values. Where the values come from: `settings_source`.

One file, ``kumiai.toml``, serves coordinator, client and command line; each reads its own tables.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

__all__ = [
    "ClientSettings",
    "CoordinatorSettings",
    "IdentitySettings",
    "LimitsSettings",
    "LogSettings",
    "OperatorSettings",
    "Settings",
    "SitesSettings",
    "StorageSettings",
    "resolved_app",
    "resolved_database",
    "split_address",
]


def split_address(value: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 host stands in brackets.

    Raises:
        ValueError: it is not of that form.
    """
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"must be host:port with a port of 0 to 65535, got {value!r}")
    return host, int(port)


class _Table(BaseModel):
    # The text below a field describes it in `kumiai config schema` and `kumiai config init`, too.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class IdentitySettings(_Table):
    """The certificate files of this process."""

    certificate: Path = Path("identity/cert.pem")
    """This process's certificate, PEM."""
    key: Path = Path("identity/key.pem")
    """Its private key, PEM, readable by its owner alone."""
    ca: Path = Path("identity/ca.pem")
    """The certificate of the federation's authority, PEM."""
    crl: Path | None = None
    """The federation's revocation list; the coordinator looks for a newer one every few seconds.

    It hands the list to its clients; at a client or an operator this is one that was brought there
    by hand.
    """
    clock_skew_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How far ahead the clock of whoever issued a certificate may be of the coordinator's."""


class StorageSettings(_Table):
    """Where the coordinator keeps its truth."""

    database: SecretStr | None = None
    """``sqlite:///file`` or ``postgresql://user:password@host/db``, several hosts as
    ``host1:port,host2:port``; none: a file in the data directory."""
    pool_size: Annotated[int, Field(ge=1, le=200)] = 10
    """Connections to PostgreSQL at most."""
    statement_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long one statement may take, and how long one may wait for a free connection."""
    lock_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How long a statement waits for what another transaction has locked."""
    idle_in_transaction_timeout_seconds: Annotated[float, Field(gt=0, le=300)] | None = None
    """PostgreSQL ends a transaction that stands idle for so long; below
    ``coordinator.lease_seconds``; none: 3 seconds, or a little over half of the lease."""
    redis: SecretStr | None = None
    """``redis://user:password@host/0``, ``rediss://``, ``redis+sentinel://`` or ``redis+cluster://``
    for the cache that the coordinators of one database share; none: no cache, or memory of its own
    for a coordinator with the database in its data directory."""
    blobs: str | None = None
    """``s3://bucket/prefix`` for models and updates; none: a folder in the data directory."""
    s3_endpoint: str | None = None
    """``https://host:port`` of the S3 server; none: that of AWS."""
    s3_region: str | None = None
    """The region that requests are signed for; none: ``AWS_REGION``, else ``us-east-1``."""
    s3_credentials: Path | None = None
    """A file with the access key, as AWS's own tools write it; none: ``AWS_ACCESS_KEY_ID`` and
    ``AWS_SECRET_ACCESS_KEY``, else the role of the machine."""
    s3_ca: Path | None = None
    """Certificates to trust for the S3 server besides the system's, PEM."""
    s3_timeout_seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """How long a call to the S3 server is tried again."""
    cache_bytes: Annotated[int, Field(ge=0)] = 4_294_967_296
    """How much of the bucket may lie in the data directory, so that it is read once."""
    grace_hours: Annotated[float, Field(ge=0.25, le=8760)] = 24.0
    """How old a model or update must be that no run needs before it is deleted."""

    @field_validator("blobs")
    @classmethod
    def _is_bucket(cls, value: str | None) -> str | None:
        if value is not None:
            _verify_bucket(value)
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if "@" in value:  # what stands before it must not be shown
            raise ValueError("must not hold a user or a password; see s3_credentials")
        if not re.fullmatch(r"https?://[^/?#\s]+/?", value):
            raise ValueError(f"must be https://host:port, or http:// of a near one, got {value!r}")
        return value.rstrip("/")


class CoordinatorSettings(_Table):
    """The coordinator."""

    listen: str = "127.0.0.1:8421"
    """Where clients connect; port 0 takes a free one."""
    http_listen: str = "127.0.0.1:8420"
    """Where operators, browsers and Prometheus connect."""
    data_dir: Path = Path("coordinator-data")
    """The coordinator's own folder: models, updates, and the database if it is SQLite."""
    heartbeat_seconds: Annotated[float, Field(gt=0.1, le=300)] = 5.0
    """How often clients say that they are alive."""
    lease_seconds: Annotated[float, Field(ge=1, le=300)] = 5.0
    """How long another coordinator waits before it takes over the runs of a silent one."""
    apps: tuple[str, ...] = ()
    """Studies installed here, for jobs with central evaluation: ``file.py`` or ``package:app``."""
    data: dict[str, bool | int | float | str] = {}
    """Handed to those studies' data loader as the site's options."""
    fold_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that add up updates."""
    token_days_max: Annotated[int, Field(ge=1, le=3650)] = 90
    """How long a token for the HTTP API may be good."""
    audit_passphrase: SecretStr | None = None
    """Seals the key in ``data_dir`` that signs the audit log; best given by the environment or in a
    file; none: it lies open, readable by its owner alone."""
    audit_passphrase_file: Path | None = None
    """A file that holds it."""

    @field_validator("listen", "http_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value


class SitesSettings(_Table):
    """How this coordinator signs certificates of sites' clients."""

    issuer_certificate: Path | None = None
    """The issuer's certificate, of ``kumiai ca delegate``, PEM; none: nothing is signed here."""
    issuer_key: Path | None = None
    """Its private key, PEM or sealed, readable by its owner alone."""
    issuer_passphrase: SecretStr | None = None
    """What that key is sealed by; best given by the environment or in a file."""
    issuer_passphrase_file: Path | None = None
    """A file that holds it."""
    pkcs11_module: Path | None = None
    """The library of the token that the issuer's key lies in, if it lies in one."""
    pkcs11_pin: SecretStr | None = None
    """The token's PIN; best given by the environment or in a file."""
    pkcs11_pin_file: Path | None = None
    """A file that holds it, readable by its owner alone."""
    needs_approval: bool = False
    """Whether an operator must approve each site that joins before it gets its certificate."""
    certificate_hours: Annotated[float, Field(ge=0.01, le=8760)] = 24.0
    """How long a certificate is good; clients renew it at half of that."""


class LimitsSettings(_Table):
    """How often who may call the coordinator. A good certificate is never locked out."""

    calls_per_second: Annotated[float, Field(gt=0, le=100_000)] = 200.0
    """Of one certificate or token, on average."""
    calls_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Of one certificate or token, at once."""
    unknown_calls_per_second: Annotated[float, Field(gt=0, le=100_000)] = 20.0
    """From one address, of callers who must still be looked up, on average."""
    unknown_calls_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """The same at once."""
    connections_per_second: Annotated[float, Field(gt=0, le=100_000)] = 20.0
    """New ones over HTTP from one address, on average; 5 times as many if good callers use it.

    At the clients' port 5 times as many that come to no admitted call, from all addresses together.
    """
    connections_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """The same at once; others wait for their turn, for 2 s at most."""
    refusals_max: Annotated[int, Field(ge=1, le=100_000)] = 10
    """So many refused callers from one address lock it out for those without a good certificate."""
    lockout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1.0
    """How long at first; each time twice as long, but never longer than the next."""
    lockout_seconds_max: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """How long at most."""


class ClientSettings(_Table):
    """A site's client."""

    coordinator: str = "localhost:8421"
    """``host:port`` of the coordinator; its certificate must be for this host."""
    state_dir: Path = Path("client-state")
    """A folder of this client's own: fetched models, updates on their way."""
    apps: tuple[str, ...] = ()
    """Studies installed at this site: ``file.py[:name]`` or ``package.module[:name]``."""
    data: dict[str, bool | int | float | str] = {}
    """Handed to the studies' data loader as the site's options."""
    requires_secure_aggregation: bool = False
    """Train only where the coordinator can not see the update."""
    requires_verification: bool = True
    """Take part in a hidden round only where every client checks the sum."""
    minimum_survivors: Annotated[int, Field(ge=3, le=4096)] = 3
    """With fewer updates in a hidden sum, this site's is not among them."""
    accepts_paillier: bool = False
    """Take part in hidden rounds of ``paillier``, which withstand no coordinator that lies."""
    knows_all_peers: bool = False
    """Talk to no member whose signing key does not stand in ``known-peers.json`` beforehand."""
    counters_dir: Path | None = None
    """Where the counters of hidden rounds are, best on a disk that no backup of ``state_dir`` takes
    back; none: in ``state_dir``. The site's own ledger of privacy budgets is there, too."""
    budget_epsilon: Annotated[float, Field(gt=0)] | None = None
    """What this site's data may spend on private runs of all studies together; none: no limit here.
    The site refuses by itself when it is spent, whatever the coordinator says, and it refuses what
    has no price: to train without noise, and to evaluate."""
    budget_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """The delta at which ``budget_epsilon`` is stated."""
    budget_window_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    """It is spent within so many days, and then earned again; 0: once and for all."""

    @field_validator("coordinator")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value


class OperatorSettings(_Table):
    """How the command line reaches the coordinator; it shows a token or ``identity``."""

    url: str = "https://localhost:8420"
    """The coordinator's ``http_listen`` as seen from here."""
    token: SecretStr | None = None
    """A token of `kumiai token create`, best given as ``KUMIAI_TOKEN``; none: the certificate."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long one answer may take."""

    @field_validator("url")
    @classmethod
    def _is_https(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError(f"must begin with https://, got {value!r}")
        return value.rstrip("/")

    @field_validator("token")
    @classmethod
    def _is_visible(cls, value: SecretStr | None) -> SecretStr | None:
        # Told here without its text: whoever puts it into a header would repeat it.
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError(
                "must be the one word that `kumiai token create` printed, got blanks, line breaks "
                "or none"
            )
        return value


class LogSettings(_Table):
    """What is logged, and how it looks."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe that is written."""
    format: Literal["console", "json"] = "console"
    """For people, or one JSON object a line for machines."""


class Settings(_Table):
    """The whole of ``kumiai.toml``."""

    identity: IdentitySettings = IdentitySettings()
    storage: StorageSettings = StorageSettings()
    coordinator: CoordinatorSettings = CoordinatorSettings()
    sites: SitesSettings = SitesSettings()
    limits: LimitsSettings = LimitsSettings()
    client: ClientSettings = ClientSettings()
    operator: OperatorSettings = OperatorSettings()
    log: LogSettings = LogSettings()

    def resolved(self, base: Path) -> Self:
        """Return the settings with relative paths taken from ``base``, the file's folder.

        That goes for studies named by file and for the file of an SQLite database as well.
        """
        identity = self.identity.model_copy(
            update={
                name: _from(base, path)
                for name in ("certificate", "key", "ca", "crl")
                if (path := getattr(self.identity, name)) is not None
            }
        )
        storage: dict[str, Any] = {
            name: _from(base, path)
            for name in ("s3_credentials", "s3_ca")
            if (path := getattr(self.storage, name)) is not None
        }
        if self.storage.database is not None:
            database = resolved_database(self.storage.database.get_secret_value(), base)
            storage["database"] = SecretStr(database)
        sites = {
            name: _from(base, path)
            for name in (
                "issuer_certificate",
                "issuer_key",
                "issuer_passphrase_file",
                "pkcs11_module",
                "pkcs11_pin_file",
            )
            if (path := getattr(self.sites, name)) is not None
        }
        return self.model_copy(
            update={
                "identity": identity,
                "sites": self.sites.model_copy(update=sites),
                "storage": self.storage.model_copy(update=storage),
                "coordinator": self.coordinator.model_copy(
                    update={
                        "data_dir": _from(base, self.coordinator.data_dir),
                        "audit_passphrase_file": _from(base, file)
                        if (file := self.coordinator.audit_passphrase_file)
                        else None,
                        "apps": tuple(resolved_app(app, base) for app in self.coordinator.apps),
                    }
                ),
                "client": self.client.model_copy(
                    update={
                        "state_dir": _from(base, self.client.state_dir),
                        "counters_dir": _from(base, folder)
                        if (folder := self.client.counters_dir)
                        else None,
                        "apps": tuple(resolved_app(app, base) for app in self.client.apps),
                    }
                ),
            }
        )


def resolved_app(reference: str, base: Path) -> str:
    """Return the reference of a study, its file taken from ``base``; a module stays as it is."""
    place, colon, name = reference.partition(":")
    is_file = place.endswith(".py") or "/" in place
    return f"{_from(base, Path(place))}{colon}{name}" if is_file else reference


def resolved_database(url: str, base: Path) -> str:
    """Return the database's URL, the file of an SQLite database taken from ``base``."""
    scheme, separator, file = url.partition(":///")
    if scheme != "sqlite" or not separator or not file or file.startswith((":", "/")):
        return url
    return f"{scheme}:///{_from(base, Path(file))}"


def _verify_bucket(url: str) -> None:
    scheme, _, place = url.partition("://")
    bucket, *parts = place.rstrip("/").split("/")
    if (
        scheme != "s3"
        or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket)
        or not all(re.fullmatch(r"(?!\.+$)[A-Za-z0-9._-]+", part) for part in parts)
    ):
        raise ValueError(f"must be s3://bucket or s3://bucket/prefix, got {url[:200]!r}")


def _from(base: Path, path: Path) -> Path:
    return base / path.expanduser()
