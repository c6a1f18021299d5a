"""Everything that can be set, as validated values. Where the values come from: `settings_source`.

One file, ``kumiai.toml``, serves coordinator, client and command line; each reads its own tables.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

__all__ = [
    "ClientSettings",
    "CoordinatorSettings",
    "IdentitySettings",
    "LogSettings",
    "OperatorSettings",
    "Settings",
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
    """The federation's revocation list; the coordinator looks for a newer one every few seconds."""


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

    @field_validator("listen", "http_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value


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

    @field_validator("coordinator")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value


class OperatorSettings(_Table):
    """How the command line reaches the coordinator; its certificate is ``identity``."""

    url: str = "https://localhost:8420"
    """The coordinator's ``http_listen`` as seen from here."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long one answer may take."""

    @field_validator("url")
    @classmethod
    def _is_https(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError(f"must begin with https://, got {value!r}")
        return value.rstrip("/")


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
        database = self.storage.database
        if database is not None:
            database = SecretStr(resolved_database(database.get_secret_value(), base))
        return self.model_copy(
            update={
                "identity": identity,
                "storage": self.storage.model_copy(update={"database": database}),
                "coordinator": self.coordinator.model_copy(
                    update={
                        "data_dir": _from(base, self.coordinator.data_dir),
                        "apps": tuple(resolved_app(app, base) for app in self.coordinator.apps),
                    }
                ),
                "client": self.client.model_copy(
                    update={
                        "state_dir": _from(base, self.client.state_dir),
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


def _from(base: Path, path: Path) -> Path:
    return base / path.expanduser()
