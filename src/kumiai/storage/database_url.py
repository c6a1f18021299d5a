"""What a database URL says, parsed and checked before anything connects.

Not a connection. PostgreSQL's URLs may name several hosts, which SQLAlchemy's do not carry, so
they are parsed here. A message about a URL never shows a part that may belong to a password.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from kumiai.core.errors import ConfigError

__all__ = ["DatabaseURL", "Dialect", "Host", "SessionTarget", "parse_url"]

Dialect = Literal["sqlite", "postgresql"]
SessionTarget = Literal["any", "read-write", "primary"]

_DEFAULT_PORT = 5432
_CONNECT_SECONDS = 10.0
# Of several hosts the first may be a machine that is gone, and the next waits for its time-out.
_CONNECT_SECONDS_OF_SEVERAL = 3.0
_TARGETS = ("any", "read-write", "primary")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FOR_THE_DRIVER = frozenset({
    "application_name",
    "gsslib",
    "krbsrvname",
    "passfile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
})  # fmt: skip
_OURS = frozenset({"connect_timeout", "host", "port", "target_session_attrs"})
_ENCODE = "percent-encode whatever in user and password is not a letter or a digit"


@dataclass(frozen=True, slots=True)
class Host:
    """Where one server listens.

    Attributes:
        name: a host name, an address, or the folder of a Unix socket; ``None``: the driver's
            default.
        port: 1 to 65535; ``None`` with the driver's default host.
    """

    name: str | None
    port: int | None

    def __str__(self) -> str:
        if self.name is None:
            return "the default host"
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """A URL in its parts.

    Attributes:
        dialect: the kind of database.
        engine: for SQLAlchemy; of PostgreSQL it names the driver alone.
        hosts: where PostgreSQL may be, in order of preference; none for SQLite.
        user: of PostgreSQL; ``None``: the driver's default.
        password: of PostgreSQL.
        database: the name of the database; for SQLite the file.
        target: which of the hosts will do.
        connect_seconds: how long one host may take.
        options: for the driver, by name.
    """

    dialect: Dialect
    engine: URL = field(repr=False)
    hosts: tuple[Host, ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    target: SessionTarget = "any"
    connect_seconds: float = _CONNECT_SECONDS
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def driver_options(self) -> str:
        """The options as the query of a URL that names nothing else."""
        return f"postgresql://?{urlencode(self.options)}"

    def __str__(self) -> str:
        """Return the URL for people: without password and options."""
        if self.dialect == "sqlite":
            return f"sqlite:///{self.database}"
        user = "" if self.user is None else f"{self.user}{':***' if self.password else ''}@"
        hosts = ",".join(str(host) for host in self.hosts if host.name is not None)
        return f"postgresql://{user}{hosts}/{self.database or ''}"


def parse_url(url: str) -> DatabaseURL:
    """Return the parts of ``url``.

    Raises:
        ConfigError: it is no URL, of another kind of database, or one of its parts is wrong.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigError(
            "database.url must be sqlite:///path/to/file.db or "
            "postgresql://user:password@host:port/name, got something that is no URL"
        )
    match scheme:
        case "sqlite":
            return _parse_sqlite(url)
        case "postgresql" | "postgres":
            return _parse_postgres(url)
        case _:
            shown = repr(scheme[:32]) if scheme.replace("+", "").isalnum() else "another scheme"
            raise ConfigError(
                f"database.url must begin with sqlite:/// or postgresql://, got {shown}"
            )


def _parse_sqlite(url: str) -> DatabaseURL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            "database.url must name a file, as in sqlite:///path/to/file.db, got no such URL"
        ) from error.with_traceback(None)
    if not parsed.database or parsed.database == ":memory:" or parsed.host or parsed.username:
        raise ConfigError(
            "database.url must name a file, as in sqlite:///path/to/file.db, got none"
        )
    if parsed.query or "\0" in parsed.database:
        raise ConfigError(
            "database.url of SQLite must be a path and nothing else, got options behind it"
        )
    return DatabaseURL(
        "sqlite", parsed.set(drivername="sqlite+aiosqlite"), database=parsed.database
    )


def _parse_postgres(url: str) -> DatabaseURL:
    try:
        parsed = urlsplit(url)
        pairs = parse_qsl(parsed.query, keep_blank_values=True, strict_parsing=bool(parsed.query))
    except ValueError as error:
        raise ConfigError(
            "database.url must be postgresql://user:password@host:port/name?option=value, "
            f"got something else; {_ENCODE}"
        ) from error.with_traceback(None)
    if parsed.fragment or "#" in url:
        raise ConfigError(f"database.url must hold no '#', got one; {_ENCODE}")
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigError("database.url must give an option once, got one twice")
    if unknown := sorted(set(options) - _FOR_THE_DRIVER - _OURS):
        known = ", ".join(sorted(_FOR_THE_DRIVER | _OURS))
        raise ConfigError(f"database.url must use the options {known}, got {unknown[0][:40]!r}")
    credentials, _, hosts = parsed.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    where = _hosts_of(hosts, options)
    return DatabaseURL(
        "postgresql",
        URL.create("postgresql+asyncpg"),
        hosts=where,
        user=unquote(user) or None,
        password=unquote(password) or None,
        database=unquote(parsed.path.removeprefix("/")) or None,
        target=_target_of(options, several=len(where) > 1),
        connect_seconds=_seconds_of(options, several=len(where) > 1),
        options=_driver_options(options),
    )


def _hosts_of(netloc: str, options: Mapping[str, str]) -> tuple[Host, ...]:
    if not netloc:
        if "host" not in options:
            return (Host(None, None),)
        names = options["host"].split(",")
        ports = options.get("port", str(_DEFAULT_PORT)).split(",")
        if len(ports) == 1:
            ports *= len(names)
        if len(ports) != len(names):
            raise ConfigError(
                f"database.url must name one port, or one for each of {len(names)} hosts, "
                f"got {len(ports)}"
            )
        return tuple(
            Host(_host_name(name), _port_of(port)) for name, port in zip(names, ports, strict=True)
        )
    if "host" in options or "port" in options:
        raise ConfigError("database.url must name its hosts in one place, got two")
    return tuple(_host_of(each) for each in netloc.split(","))


def _host_of(text: str) -> Host:
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError("database.url must close the bracket of an IPv6 address, got none")
        return Host(_host_name(name), _port_of(rest[1:] or str(_DEFAULT_PORT)))
    name, colon, port = text.partition(":")
    return Host(_host_name(unquote(name)), _port_of(port if colon else str(_DEFAULT_PORT)))


def _host_name(name: str) -> str:
    if not name:
        raise ConfigError("database.url must name a host between its commas, got an empty one")
    return name


def _port_of(text: str) -> int:
    # What stands here may be the middle of a password with a "/" in it: it is not shown.
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= 65535):
        raise ConfigError(
            f"database.url must give a port of 1 to 65535, got something else; {_ENCODE}"
        )
    return int(text)


def _target_of(options: Mapping[str, str], *, several: bool) -> SessionTarget:
    target = options.get("target_session_attrs", "read-write" if several else "any")
    if target not in _TARGETS:
        raise ConfigError(
            "database.url: target_session_attrs must be any, read-write or primary, "
            f"got {target[:40]!r}"
        )
    return cast("SessionTarget", target)


def _seconds_of(options: Mapping[str, str], *, several: bool) -> float:
    text = options.get("connect_timeout")
    if text is None:
        return _CONNECT_SECONDS_OF_SEVERAL if several else _CONNECT_SECONDS
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:5]) <= 3600):
        raise ConfigError(
            f"database.url: connect_timeout must be 1 to 3600 seconds, got {text[:40]!r}"
        )
    return float(text)


def _driver_options(options: Mapping[str, str]) -> Mapping[str, str]:
    mode = options.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise ConfigError(
            f"database.url: sslmode must be one of {', '.join(_SSL_MODES)}, got {mode[:40]!r}"
        )
    return {name: value for name, value in options.items() if name in _FOR_THE_DRIVER}
