"""Where Redis is: one server, a Sentinel group or a Cluster, out of a URL.

    redis://user:password@host:port/db             rediss:// with TLS
    redis+sentinel://user:password@host,host:26380/service/db
    redis+cluster://user:password@host:port,host:port

No message shows the user or the password; neither does the ``repr``.
"""

from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote, urlsplit

from kumiai.core.errors import ConfigError, UnavailableError

__all__ = ["RedisAddress", "RedisKind", "RedisLoginError", "parse_redis_url"]

_FORMS = (
    "redis://host:port/db, rediss://host:port/db, redis+sentinel://host:port/service "
    "or redis+cluster://host:port"
)


class RedisLoginError(UnavailableError):
    """Redis refuses the user or the password."""


class RedisKind(Enum):
    """What stands behind an address."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is, and who asks.

    Attributes:
        kind: what stands there.
        hosts: (name, port) of the server, of the Sentinels or of some nodes of the Cluster.
        db: the number of the database, >= 0; a Cluster has only 0.
        service: the name of the Sentinel group; empty otherwise.
        tls: whether to speak TLS.
        username: the user; ``None``: Redis's default user.
        password: the password.
    """

    kind: RedisKind
    hosts: tuple[tuple[str, int], ...]
    db: int = 0
    service: str = ""
    tls: bool = False
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the URL without user and password."""
        scheme = "rediss" if self.tls else "redis"
        if self.kind is not RedisKind.SINGLE:
            scheme += f"+{self.kind.value}"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{hosts}{service}/{self.db}"


def parse_redis_url(url: str) -> RedisAddress:
    """Return the address that a URL names.

    Raises:
        ConfigError: it is no such URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        # Not the text itself: it may hold a password.
        raise ConfigError(f"redis.url must be {_FORMS}, got something that is no URL") from None
    scheme, _, kind_name = parts.scheme.partition("+")
    if scheme not in {"redis", "rediss"} or kind_name not in {"", "sentinel", "cluster"}:
        raise ConfigError(f"redis.url must be {_FORMS}, got the scheme {parts.scheme[:30]!r}")
    if parts.query or parts.fragment:
        raise ConfigError("redis.url must hold no options after '?' or '#', got some")
    kind = RedisKind(kind_name) if kind_name else RedisKind.SINGLE
    credentials, _, places = parts.netloc.rpartition("@")
    hosts = tuple(
        _parse_host(place, 26379 if kind is RedisKind.SENTINEL else 6379)
        for place in places.split(",")
    )
    if kind is RedisKind.SINGLE and len(hosts) != 1:
        raise ConfigError(f"redis.url must name one host, got {len(hosts)}")
    username, _, password = credentials.partition(":")
    path = [unquote(step) for step in parts.path.split("/") if step]
    service = ""
    if kind is RedisKind.SENTINEL:
        if not path:
            raise ConfigError(
                "redis.url must name the Sentinel group, as in redis+sentinel://host/service, "
                "got none"
            )
        service, *path = path
    return RedisAddress(
        kind=kind,
        hosts=hosts,
        db=_parse_db(path, kind),
        service=service,
        tls=scheme == "rediss",
        username=unquote(username) or None,
        password=unquote(password) or None,
    )


def _parse_host(place: str, default_port: int) -> tuple[str, int]:
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
        is_good = bool(bracket) and (rest == "" or rest.startswith(":"))
    else:
        host, colon, port = place.partition(":")
        is_good = not colon or bool(port)
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not host or not is_good or (port and not 1 <= number <= 65535):
        raise ConfigError("redis.url must name each host as host:port, got another form")
    return host, number if port else default_port


def _parse_db(path: list[str], kind: RedisKind) -> int:
    text = path[0] if path else "0"
    is_number = text.isascii() and text.isdecimal() and len(text) <= 6
    if len(path) > 1 or not is_number:
        raise ConfigError("redis.url must end with the number of a database, got something else")
    if kind is RedisKind.CLUSTER and int(text):
        raise ConfigError(f"redis.url must name no database of a Cluster but 0, got {int(text)}")
    return int(text)
