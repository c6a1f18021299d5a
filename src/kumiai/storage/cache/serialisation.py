"""Values as bytes: JSON, or MessagePack where asked, compressed above a size.

The first byte says how the rest is written, so that a reader needs no setting and a changed
setting breaks no stored value. Nothing that is read can run code, and what is unpacked is
bounded: bytes in a shared store may be anybody's.
"""

import zlib
from typing import Any, Literal, Protocol

import orjson

from kumiai.core.errors import ConfigError, IntegrityError

__all__ = ["Serializer", "ValueCodec"]

_JSON = 0x01
_MSGPACK = 0x02
_ZLIB = 0x10
_FORMATS = 0x0F

Format = Literal["json", "msgpack"]


# What would come back as something else is refused.
_AS_IT_IS = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class Serializer(Protocol):
    """Turns values into bytes and back."""

    def pack(self, value: Any) -> bytes:
        """Return the bytes of a value; `TypeError` if it has no place in the format."""
        ...

    def unpack(self, data: bytes) -> Any:
        """Return the value of the bytes; `IntegrityError` if they are damaged."""
        ...


class ValueCodec:
    """JSON (None, bool, int, float, str, list, dict with str keys) or MessagePack (and bytes).

    Args:
        format: how values are written; both are read.
        compress_above_bytes: larger values are compressed if that helps; ``None``: never.
        max_bytes: how large a value may be, compressed or not, in both directions.

    Raises:
        ConfigError: MessagePack is asked for and not installed.
        ValueError: a size is not above 0.
    """

    def __init__(
        self,
        format: Format = "json",  # noqa: A002 - the field's word
        *,
        compress_above_bytes: int | None = 4096,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        if format not in {"json", "msgpack"}:
            raise ValueError(f"format must be 'json' or 'msgpack', got {format!r}")
        if max_bytes <= 0 or (compress_above_bytes is not None and compress_above_bytes <= 0):
            raise ValueError("sizes of a codec must be above 0, got one that is not")
        self._format = _MSGPACK if format == "msgpack" else _JSON
        self._compress_above_bytes = compress_above_bytes
        self._max_bytes = max_bytes
        if self._format == _MSGPACK:
            _msgpack()

    def pack(self, value: Any) -> bytes:
        """Return the bytes of a value, the first of which names the format.

        Raises:
            TypeError: it has no place in the format.
            ValueError: it is larger than allowed.
        """
        body = _written(self._format, value)
        if len(body) > self._max_bytes:
            raise ValueError(
                f"value must be at most {self._max_bytes} bytes when written, got {len(body)}"
            )
        if self._compress_above_bytes is not None and len(body) > self._compress_above_bytes:
            smaller = zlib.compress(body, 1)
            if len(smaller) < len(body):
                return bytes((self._format | _ZLIB,)) + smaller
        return bytes((self._format,)) + body

    def unpack(self, data: bytes) -> Any:
        """Return the value.

        Raises:
            IntegrityError: the bytes are none of ours, damaged or too large.
        """
        if not data:
            raise IntegrityError("stored value must begin with its format, got no bytes")
        tag = data[0]
        body = memoryview(data)[1:]
        if tag & ~_FORMATS == _ZLIB:
            return _read(tag & _FORMATS, self._decompressed(body))
        return _read(tag, body)

    def _decompressed(self, body: memoryview) -> bytes:
        stream = zlib.decompressobj()
        try:
            whole = stream.decompress(body, self._max_bytes)
        except zlib.error as error:
            raise IntegrityError("stored value must be whole, got damaged bytes") from error
        if not stream.eof:
            raise IntegrityError(
                f"stored value must be whole and at most {self._max_bytes} bytes, got another"
            )
        return whole


def _written(format_tag: int, value: Any) -> bytes:
    if format_tag == _JSON:
        try:
            return orjson.dumps(value)
        except orjson.JSONEncodeError as error:
            raise TypeError(f"value must fit into JSON, got one that does not: {error}") from None
    try:
        packed: bytes = _msgpack().packb(value)
    except (OverflowError, ValueError) as error:
        raise TypeError(f"value must fit into MessagePack, got {error}") from None
    return packed


def _read(format_tag: int, body: bytes | memoryview) -> Any:
    if format_tag == _JSON:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise IntegrityError("stored value must be JSON, got damaged bytes") from None
    if format_tag != _MSGPACK:
        raise IntegrityError(f"stored value must begin with a known format, got {format_tag}")
    try:
        # Lengths inside are bounded by the length of the bytes, which is bounded.
        return _msgpack().unpackb(body, strict_map_key=False)
    except (ValueError, TypeError, RecursionError):  # what msgpack's own errors derive from
        raise IntegrityError("stored value must be MessagePack, got damaged bytes") from None


def _msgpack() -> Any:
    try:
        import msgpack  # noqa: PLC0415 - an extra: JSON works without it
    except ImportError as error:
        raise ConfigError(
            "format msgpack must be installed, got none; pip install kumiai[redis]"
        ) from error
    return msgpack
