"""The name of a key in a PKCS#11 token, as a URI: ``pkcs11:token=authority;object=root``.

A name says where a key lies, and nothing that opens it. RFC 7512 lets a URI carry a PIN, the file
of a PIN and the path of a library as well: those are refused here, because names stand in files,
shell histories and lists of processes.

Source: RFC 7512 sections 2.3 and 2.4.
"""

import re
from dataclasses import dataclass, fields
from typing import Final, Self
from urllib.parse import quote, unquote_to_bytes

from kumiai.core.errors import ConfigError

__all__ = ["KeyURI", "is_key_uri"]

_SCHEME: Final = "pkcs11:"
_CHARACTERS_MAX: Final = 1024
_RESERVED: Final = ":[]@!$'()*+,=&"
"""What may stand in a value as it is, besides letters, digits and ``-._~``."""

_VALUE: Final = re.compile(rf"(?:[A-Za-z0-9._~{re.escape(_RESERVED)}-]|%[0-9A-Fa-f]{{2}})+")
_SHAPE: Final = "pkcs11:token=…;object=…"


@dataclass(frozen=True, slots=True)
class KeyURI:
    """Which key of which token.

    Attributes:
        token: the token's label.
        manufacturer: who made the token.
        serial: the token's serial number, as its tools show it.
        model: the token's model.
        object: the key's label.
        id: the key's identifier, any bytes.
    """

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the name in a URI.

        Raises:
            ConfigError: it is none, or names no token or no key, or carries more than a name.
        """
        if not is_key_uri(text) or len(text) > _CHARACTERS_MAX:
            raise ConfigError(
                f"key's URI must be {_SHAPE} of at most {_CHARACTERS_MAX} characters, "
                f"got {len(text)} characters of something else"
            )
        path, question_mark, _ = text[len(_SCHEME) :].partition("?")
        if question_mark:
            raise ConfigError(
                f"key's URI must end before its '?', as {_SHAPE}: a PIN and a library have no "
                "place in it; give them by file or environment"
            )
        values = _values_in(path)
        key_type = values.pop("type", b"private")
        if key_type != b"private":
            raise ConfigError("key's URI must be of type=private or of none, got another type")
        try:
            texts = {name: value.decode() for name, value in values.items() if name != "id"}
        except UnicodeDecodeError as error:
            raise ConfigError("key's URI must hold UTF-8, got other bytes") from error
        if not values.keys() & {"token", "serial"}:
            raise ConfigError(f"key's URI must name the token, as {_SHAPE}, got no label or serial")
        if not values.keys() & {"object", "id"}:
            raise ConfigError(f"key's URI must name the key, as {_SHAPE}, got no object or id")
        return cls(**texts, id=values.get("id"))

    def __str__(self) -> str:
        """Return the URI, in one spelling."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return _SCHEME + ";".join(f"{n}={_quoted(v)}" for n, v in values if v is not None)

    @property
    def token_name(self) -> str:
        """What people know the token by."""
        return repr(self.token) if self.token is not None else f"of serial number {self.serial!r}"


def is_key_uri(text: str | bytes) -> bool:
    """Whether a text is the name of a key and not the key itself."""
    start = text[: len(_SCHEME)]
    return (start if isinstance(start, str) else start.decode("latin-1")).lower() == _SCHEME


def _values_in(path: str) -> dict[str, bytes]:
    known = {field.name for field in fields(KeyURI)} | {"type"}
    values: dict[str, bytes] = {}
    for attribute in path.split(";"):
        name, _, value = attribute.partition("=")
        if name not in known:
            # Without its text: it may be a PIN in the wrong place.
            raise ConfigError(f"key's URI must consist of {', '.join(sorted(known))}, got another")
        if name in values:
            raise ConfigError(f"key's URI must name its {name} once, got it again")
        if not _VALUE.fullmatch(value):
            raise ConfigError(
                f"key's URI must have a {name} that is not empty, with every unusual character "
                f"as %XX, got {len(value)} characters that are not so"
            )
        values[name] = unquote_to_bytes(value)
    return values


def _quoted(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return "".join(f"%{byte:02X}" for byte in value)
    return quote(value, safe=_RESERVED)
